"""The training loop: data on the device as uint8, one permutation an epoch, no DataLoader.

Axes: N rows, D pixels, B rows of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_config.recipe import Schedule, Training
from tasks.model.network import logits_in_batches
from tasks.model.optimizers import FlatOptimizer
from tasks.runtime.errors import TrainingError


@dataclass(frozen=True)
class Rows:
    """Images uint8 (N, D) and labels int64 (N,), both on the device of the training."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Epoch:
    """One line of the history; losses in nats (or mean squares), accuracy in [0, 1]."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float


# Told after each batch: rows done in it and some words for the progress bar.
Tell = Callable[[int, str], None]


def learning_rate_at(step: int, num_steps: int, peak: float, schedule: Schedule) -> float:
    """The learning rate of a step in [0, num_steps).

    one_cycle: a line from peak/10 to peak over the warm-up, then half a cosine down to peak/1000
    (after Smith and Topin 2018, with the cosine of Loshchilov and Hutter 2017). cosine: a line from
    0 to peak over the warm-up, then half a cosine down to 0.
    """
    if schedule.name == "constant":
        return peak
    first, last = (peak / 10, peak / 1000) if schedule.name == "one_cycle" else (0.0, 0.0)
    warm = schedule.warmup * num_steps
    if step < warm:
        return first + (peak - first) * (step + 1) / math.ceil(warm)
    share = (step - warm) / max(num_steps - 1 - warm, 1)
    return last + (peak - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def loss_of(logits_BC: Tensor, labels_B: Tensor, training: Training) -> Tensor:
    """The mean loss over a batch: cross-entropy in nats, or squares against one-hot labels."""
    if training.loss == "mse":
        target = functional.one_hot(labels_B, logits_BC.shape[1]).to(logits_BC.dtype)
        return functional.mse_loss(logits_BC, target)
    return functional.cross_entropy(logits_BC, labels_B, label_smoothing=training.label_smoothing)


def score(network: nn.Module, rows: Rows, training: Training) -> tuple[float, float]:
    """Mean loss (without label smoothing) and accuracy over `rows`, in eval mode."""
    network.eval()
    plain = training.model_copy(update={"label_smoothing": 0.0})
    total, right, start = 0.0, 0, 0
    for logits in logits_in_batches(network, rows.images):
        labels = rows.labels[start : start + len(logits)]
        total += loss_of(logits, labels, plain).item() * len(labels)
        right += int((logits.argmax(dim=1) == labels).sum())
        start += len(labels)
    return total / len(rows), right / len(rows)


def num_batches_of(network: nn.Module, num_rows: int, batch_size: int) -> int:
    """Batches an epoch; a last one of a single row is left out where batch norm cannot use it."""
    num_batches = math.ceil(num_rows / batch_size)
    has_norm = any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
    return num_batches - (has_norm and num_batches > 1 and num_rows % batch_size == 1)


def fit(
    network: nn.Module, train: Rows, validation: Rows, training: Training, tell: Tell
) -> list[Epoch]:
    """Train `network` in place; returns the history, a line an epoch.

    All chance (order of rows, dropout) comes from the recipe's seed. Raises TrainingError when the
    loss stops being a number.
    """
    optimizer = FlatOptimizer(network, training.optimizer)
    num_batches = num_batches_of(network, len(train), training.batch_size)
    history: list[Epoch] = []
    with torch.random.fork_rng(devices=_devices(train.images)):
        torch.manual_seed(training.seed)
        shuffler = torch.Generator().manual_seed(training.seed)
        for epoch in range(training.epochs):
            order = torch.randperm(len(train), generator=shuffler) if training.shuffle else None
            rates = [
                learning_rate_at(
                    epoch * num_batches + batch,
                    training.epochs * num_batches,
                    training.optimizer.learning_rate,
                    training.schedule,
                )
                for batch in range(num_batches)
            ]
            loss = _fit_epoch(network, optimizer, train, order, rates, training, tell)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"training, epoch {epoch + 1}",
                    found=f"a loss of {loss}",
                    expected="a finite loss",
                    remedy="Lower training.optimizer.learning_rate or scale the input.",
                )
            told = score(network, validation, training) if len(validation) else (None, None)
            history.append(Epoch(epoch + 1, loss, told[0], told[1], rates[-1]))
    return history


def _fit_epoch(
    network: nn.Module,
    optimizer: FlatOptimizer,
    train: Rows,
    order: Tensor | None,
    rates: list[float],
    training: Training,
    tell: Tell,
) -> float:
    """One pass over the rows; returns the mean of the batches' losses, weighted by their rows."""
    network.train()
    size = training.batch_size
    total = torch.zeros((), device=train.labels.device)
    started = time.perf_counter()
    if order is not None:
        # Once an epoch: rows that are neighbours are then read far faster than rows here and there.
        order = order.to(train.labels.device)
        train = Rows(train.images.index_select(0, order), train.labels[order])
    for batch, rate in enumerate(rates):
        rows = slice(batch * size, (batch + 1) * size)
        labels = train.labels[rows]
        loss = loss_of(network(train.images[rows]), labels, training)
        optimizer.zero_gradient()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(rate)
        total += loss.detach() * len(labels)
        if batch % 20 == 19 or batch == len(rates) - 1:
            done = min(rows.stop, len(train))
            per_second = done / (time.perf_counter() - started)
            tell(batch % 20 + 1, f"loss {loss.item():.3f}, {per_second:,.0f} images/s")
    return total.item() / min(len(rates) * size, len(train))


def _devices(tensor: Tensor) -> list[int]:
    return [tensor.device.index or 0] if tensor.device.type == "cuda" else []
