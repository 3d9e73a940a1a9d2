"""The gate's margins: how much worse than the champion a candidate may measure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline_config.sections import HERE, Section, checked, read_yaml

Margin = Annotated[float, Field(ge=0, le=1)]


class Gate(Section):
    """The margins of one data set.

    `accuracy_margin` is δ: the lower bound of the paired difference in accuracy must lie above −δ.
    `loss_margin` (nats) and `ece_margin` are how much higher either may be. `recall_spread` is the
    standard deviation of each class's recall over `num_seeds` runs; null where not measured.
    """

    accuracy_margin: Margin
    loss_margin: Annotated[float, Field(ge=0)]
    ece_margin: Margin
    recall_spread: tuple[Margin, ...] | None
    num_seeds: Annotated[int, Field(ge=2)] | None


def gate_for(dataset: str) -> Gate:
    """Return a data set's margins, or those of `default` where it has none of its own."""
    entries = read_yaml(HERE / "gate.yaml")
    name = dataset if dataset in entries else "default"
    return checked(Gate, entries[name], f"{name} in gate.yaml")
