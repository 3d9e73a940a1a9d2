"""Rows in memory, the loss of a batch, and the score of a network on rows.

Axes: N rows, D pixels, B rows of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pipeline_config.recipe import Training
from tasks.model.network import logits_in_batches


@dataclass(frozen=True)
class Rows:
    """Images uint8 (N, D) and labels int64 (N,), both on the device of the training."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def loss_of(outputs_BC: Tensor, labels_B: Tensor, training: Training) -> Tensor:
    """The mean loss over a batch: nats, or squares against one-hot labels.

    cross_entropy takes logits, nll their log-softmax: the same number by another way.
    """
    if training.loss == "mse":
        target = functional.one_hot(labels_B, outputs_BC.shape[1]).to(outputs_BC.dtype)
        return functional.mse_loss(outputs_BC, target)
    if training.loss == "nll":
        return functional.nll_loss(outputs_BC, labels_B)
    return functional.cross_entropy(outputs_BC, labels_B, label_smoothing=training.label_smoothing)


def score(network: nn.Module, rows: Rows, training: Training) -> tuple[float, float]:
    """Mean loss (without label smoothing) and accuracy over `rows`, in eval mode."""
    network.eval()
    plain = training.model_copy(update={"label_smoothing": 0.0})
    total, right, start = 0.0, 0, 0
    for outputs in logits_in_batches(network, rows.images):
        labels = rows.labels[start : start + len(outputs)]
        total += loss_of(outputs, labels, plain).item() * len(labels)
        right += int((outputs.argmax(dim=1) == labels).sum())
        start += len(labels)
    return total / len(rows), right / len(rows)
