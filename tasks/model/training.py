"""The training loop around an engine: epochs, averages, early stopping, checkpoints.

Rows lie on the device as uint8; an epoch is one permutation of them, without a DataLoader. Whatever
moves during a training is a tensor under a name or part of `Position`, so that a checkpoint of both
goes on to the very bits of a training that was never interrupted.

Axes: N rows, D pixels, B rows of a batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor, nn

from pipeline_config.recipe import Training
from tasks.model.augmentation import Augmenter
from tasks.model.chance import generator_of
from tasks.model.checkpoint import Checkpoint
from tasks.model.engine import engine_of
from tasks.model.history import Epoch, Fitted, Position, best_epoch_of
from tasks.model.network import copied
from tasks.model.schedule import learning_rate_at
from tasks.model.scoring import Rows, score
from tasks.runtime.devices import Precision
from tasks.runtime.errors import ConfigError, InterruptedTraining, TrainingError, signals_deferred

logger = logging.getLogger(__name__)

# Batches between two words to the progress bar.
TELL_EVERY = 20

# Told now and then: batches done since the last time, and some words for the progress bar.
Tell = Callable[[int, str], None]


def num_batches_of(network: nn.Module, num_rows: int, batch_size: int) -> int:
    """Batches an epoch; a last one of a single row is left out where batch norm cannot use it.

    Raises ConfigError where that row is the only one.
    """
    num_batches = math.ceil(num_rows / batch_size)
    has_norm = any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules())
    if has_norm and num_rows == 1:
        found, expected = "a single training row", "at least two, for a variance"
        remedy = "Add rows, keep fewer for validation, or --set model.batch_norm=false."
        raise ConfigError("model.batch_norm", found=found, expected=expected, remedy=remedy)
    return num_batches - (has_norm and num_batches > 1 and num_rows % batch_size == 1)


class Trainer:
    """A network, its engine and everything that moves while it is trained, in place.

    `image_shape` (height, width) is needed for augmentation alone.
    """

    def __init__(
        self,
        network: nn.Sequential,
        training: Training,
        precision: Precision = "float32",
        image_shape: tuple[int, int] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.network = network
        self.training = training
        self.checkpoint = checkpoint
        self.engine = engine_of(network, training, precision)
        self.augment = Augmenter(training, image_shape) if training.augmentation else None
        # Live, as all tensors here: the engine moves them, this dictionary only names them.
        self.weights = network.state_dict()
        floats = {name: value for name, value in self.weights.items() if value.is_floating_point()}
        self.average = {name: value.clone() for name, value in floats.items() if training.ema}
        self.best = copied(self.weights) if training.patience else {}
        self.kept: list[dict[str, Tensor]] = []
        self.position = Position()

    def fit(self, train: Rows, validation: Rows, tell: Tell) -> Fitted:
        """Train to the end, from the checkpoint if there is one.

        Raises TrainingError when the loss stops being a number, InterruptedTraining (or whatever
        the signal's own handler raises) after Ctrl-C and SIGTERM, when the checkpoint is written.
        """
        num_batches = num_batches_of(self.network, len(train), self.training.batch_size)
        devices = [train.images.device.index or 0] if train.images.is_cuda else []
        with signals_deferred() as interrupt, torch.random.fork_rng(devices=devices):
            self._restore()
            tell(len(self.position.history) * num_batches + self.position.batch, "")
            while not self._is_done():
                self._fit_epoch(train, num_batches, tell, interrupt)
                self._end_epoch(len(train), validation, num_batches)
                self._save_if_due(0.0, interrupt())
            best_epoch = best_epoch_of(self.position.history, self.training)
            final = self.best or self.average
            self.network.load_state_dict(final, strict=False)
        return Fitted(self.position.history, best_epoch, self.kept)

    def _is_done(self) -> bool:
        history, patience = self.position.history, self.training.patience
        waited = len(history) - best_epoch_of(history, self.training)
        return len(history) == self.training.epochs or 0 < patience <= waited

    def _fit_epoch(
        self, train: Rows, num_batches: int, tell: Tell, interrupt: Callable[[], str | None]
    ) -> None:
        """One pass over the rows, or what the checkpoint left of it."""
        self.network.train()
        position, size = self.position, self.training.batch_size
        epoch = len(position.history)
        train = self._shuffled(train, epoch)
        total: Tensor | float = position.loss
        started, first, told = time.perf_counter(), position.batch, position.batch
        for batch in range(first, num_batches):
            rows = slice(batch * size, (batch + 1) * size)
            images, labels = train.images[rows], train.labels[rows]
            step = epoch * num_batches + batch
            if self.augment:
                images = self.augment(images, step, num_batches)
            loss = self.engine.step(images, labels, self._rate_at(step, num_batches))
            self._average(step)
            total = total + loss * len(labels)
            position.batch = batch + 1
            if position.batch - told == TELL_EVERY or position.batch == num_batches:
                per_second = (position.batch - first) * size / (time.perf_counter() - started)
                tell(position.batch - told, f"loss {float(loss):.3f}, {per_second:,.0f} images/s")
                told = position.batch
            self._save_if_due(total, interrupt())
        position.loss = float(total)

    def _shuffled(self, train: Rows, epoch: int) -> Rows:
        """The rows in the order of an epoch.

        Gathered once an epoch: neighbours are then read far faster than rows here and there.
        """
        if not self.training.shuffle:
            return train
        generator = generator_of(self.training.seed, "order", epoch)
        order = torch.randperm(len(train), generator=generator).to(train.labels.device)
        return Rows(train.images.index_select(0, order), train.labels[order])

    def _rate_at(self, step: int, num_batches: int) -> float:
        training = self.training
        num_steps = training.epochs * num_batches
        return learning_rate_at(
            step, num_steps, training.optimizer.learning_rate, training.schedule
        )

    def _average(self, step: int) -> None:
        """Move the average towards the weights; at the start faster, as (1 + t) / (10 + t)."""
        if self.average:
            decay = min(self.training.ema, (1 + step) / (10 + step))
            for name, average in self.average.items():
                average.lerp_(self.weights[name], 1 - decay)

    def _end_epoch(self, num_rows: int, validation: Rows, num_batches: int) -> None:
        """Score the epoch on the validation rows and note it down."""
        position, training = self.position, self.training
        num_seen = min(position.batch * training.batch_size, num_rows)
        loss, epoch = position.loss / num_seen, len(position.history) + 1
        self._refuse_diverged(epoch, loss)
        with self._judged():
            loss_v, accuracy_v = None, None
            if len(validation):
                loss_v, accuracy_v = score(self.network, validation, training)
                self._refuse_diverged(epoch, loss_v)
            rate = self._rate_at(epoch * num_batches - 1, num_batches)
            position.history.append(Epoch(epoch, loss, loss_v, accuracy_v, rate))
            if self.best and best_epoch_of(position.history, training) == epoch:
                _copy(self.weights, self.best)
            if training.keep_epochs:
                self.kept.append(copied(self.weights))
        position.batch, position.loss = 0, 0.0

    def _refuse_diverged(self, epoch: int, loss: float) -> None:
        """Raise TrainingError for a loss that is no number; nothing is left to go on from."""
        if math.isfinite(loss):
            return
        if self.checkpoint:
            self.checkpoint.discard()
        raise TrainingError(
            f"training, epoch {epoch}",
            found=f"a loss of {loss}",
            expected="a finite loss",
            remedy="Lower training.optimizer.learning_rate or scale the input.",
        )

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """The network as it is to be judged: with its averaged weights, if it has them."""
        live = {name: self.weights[name].clone() for name in self.average}
        _copy(self.average, self.weights)
        yield
        _copy(live, self.weights)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that moves, live, under names; what an earlier epoch kept among them."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "network": self.weights,
            "engine": self.engine.state(),
            "average": self.average,
            "best": self.best,
        }
        parts |= {f"kept/{place}": weights for place, weights in enumerate(self.kept)}
        return {f"{part}/{name}": parts[part][name] for part in parts for name in parts[part]}

    def _save_if_due(self, total: Tensor | float, interrupt: str | None) -> None:
        """Write the checkpoint when it is time or when there will be no other; then leave."""
        if self.checkpoint and (interrupt or self.checkpoint.is_due()):
            self.position.loss = float(total)
            self.checkpoint.save(self._tensors(), asdict(self.position))
        if interrupt:
            remedy = "the same command goes on from here" if self.checkpoint else "nothing is saved"
            epoch = min(len(self.position.history) + 1, self.training.epochs)
            # Said here, since the signal's own handler decides what becomes of the error.
            logger.warning("training stops in epoch %d for %s: %s", epoch, interrupt, remedy)
            raise InterruptedTraining(
                f"training, epoch {epoch}",
                found=f"{interrupt}, a request to stop",
                expected="to be left alone until the last epoch",
                remedy=f"Run it again: {remedy}.",
            )

    def _restore(self) -> None:
        """Go to where the checkpoint stands, if there is one that fits."""
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return
        tensors, content = saved
        self.position = Position.of(content)
        if self.training.keep_epochs:
            self.kept = [copied(self.weights) for _ in self.position.history]
        _copy(tensors, self._tensors())
        epochs, batches = len(self.position.history), self.position.batch
        logger.info("training goes on behind epoch %d, batch %d", epochs, batches)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Write each tensor of `source` into the one of its name in `target`."""
    for name, tensor in source.items():
        target[name].copy_(tensor)
