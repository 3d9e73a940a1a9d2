"""The gate's margins: how far below the champion a candidate may measure and still be as good."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline_config.sections import HERE, Section, checked, read_yaml

Margin = Annotated[float, Field(ge=0, le=1)]
DEFAULT = "default"


class Gate(Section):
    """The margins of one data set.

    `accuracy_margin` is δ: the lower bound of the paired difference in accuracy must lie above −δ.
    `loss_margin` is in nats, `ece_margin` a share: how much higher either may be. `recall_spread`
    is the standard deviation over seeds of each class's recall, from `num_seeds` runs of one
    recipe; null where nobody measured it.
    """

    accuracy_margin: Margin
    loss_margin: Annotated[float, Field(ge=0)]
    ece_margin: Margin
    recall_spread: tuple[Margin, ...] | None
    num_seeds: Annotated[int, Field(ge=2)] | None


def gate_for(dataset: str) -> Gate:
    """The margins for a data set; those of `default` where it has none of its own."""
    entries = read_yaml(HERE / "gate.yaml")
    name = dataset if dataset in entries else DEFAULT
    return checked(Gate, entries[name], f"{name} in gate.yaml")
