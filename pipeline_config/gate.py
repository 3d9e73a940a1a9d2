"""The gate's margins: how much worse than the reference a candidate may measure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline_config.sections import HERE, Section, checked, read_yaml

Margin = Annotated[float, Field(ge=0, le=1)]


class Gate(Section):
    """The margins of one data set; null where nobody measured them: then they follow from the rows.

    `accuracy_margin` is δ: the lower bound of the paired difference in accuracy must lie above −δ.
    `loss_margin` (nats) and `ece_margin` are how much higher either may be. `recall_spread` is the
    standard deviation of each class's recall over `num_seeds` runs. `promote`: whether a model that
    passes becomes champion at once, or waits for a person. `recent_shards`: the recent rows of that
    many shards, the last ones, are asked.
    """

    promote: Literal["automatic", "by-hand"] = "automatic"
    recent_shards: Annotated[int, Field(ge=1)] = 10
    accuracy_margin: Margin | None = None
    loss_margin: Annotated[float, Field(ge=0)] | None = None
    ece_margin: Margin | None = None
    recall_spread: tuple[Margin, ...] | None = None
    num_seeds: Annotated[int, Field(ge=2)] | None = None


def gate_for(dataset: str) -> Gate:
    """Return a data set's margins from `gate.yaml`."""
    entries = read_yaml(HERE / "gate.yaml")
    common = {name: entries.pop(name) for name in ("promote", "recent_shards") if name in entries}
    entry = {**common, **entries.get(dataset, {})}
    return checked(Gate, entry, f"{dataset} in gate.yaml")
