"""What a training has to tell: a line an epoch, where it stands, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pipeline_config.recipe import Training


@dataclass(frozen=True)
class Epoch:
    """One line of the history; losses in nats (or mean squares), accuracy in [0, 1]."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float


@dataclass
class Position:
    """How far a training is: finished epochs, batches of the one under way, their summed loss."""

    history: list[Epoch] = field(default_factory=list)
    batch: int = 0
    loss: float = 0.0

    @classmethod
    def of(cls, content: dict[str, Any]) -> Position:
        """The position that `asdict` made this content of."""
        history = [Epoch(**line) for line in content["history"]]
        return cls(history, content["batch"], content["loss"])


@dataclass(frozen=True)
class Fitted:
    """The history of a training, the epoch whose weights the network has, and the kept weights."""

    history: list[Epoch]
    best_epoch: int
    kept: list[dict[str, Tensor]]


def best_epoch_of(history: list[Epoch], training: Training) -> int:
    """The epoch with the lowest validation loss where there is patience, else the last one."""
    if not training.patience:
        return len(history)
    losses = [line.validation_loss or 0.0 for line in history]
    return 1 + losses.index(min(losses)) if losses else 0
