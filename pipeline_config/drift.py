"""The thresholds beyond which new images are said to differ from the training rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline_config.sections import HERE, Section, checked, read_yaml

Share = Annotated[float, Field(gt=0, lt=1)]


class DriftLimits(Section):
    """How large an effect is drift, whatever the number of rows.

    A signal alarms where it lies beyond its margin by more than chance gives: `deviations` standard
    deviations of the signal without drift, which shrink as the rows grow. `auc_margin` is counted
    from 0.5, `accuracy_margin` from the confidence on the test rows, `shares_margin` from equal
    class shares. The estimated accuracy is said to hold where the AUC is below
    `estimate_holds_below`. Fewer than `min_rows` images are too few; more than `max_rows` are
    sampled.
    """

    auc_margin: Annotated[float, Field(gt=0, lt=0.5)]
    accuracy_margin: Share
    shares_margin: Share
    deviations: Annotated[float, Field(ge=0, le=10)]
    estimate_holds_below: Share
    min_rows: Annotated[int, Field(ge=10)]
    max_rows: Annotated[int, Field(ge=10)]


def drift_limits() -> DriftLimits:
    """Return the limits in `drift.yaml`."""
    return checked(DriftLimits, read_yaml(HERE / "drift.yaml"), "drift.yaml")
