"""The training loop: epochs, averaged weights, early stopping, checkpoints.

The rows lie on the device as uint8. An epoch is one permutation of them, without a DataLoader. All
that changes during a training is a named tensor, or `history`, `batch` or `loss`. A checkpoint
holds all of it, so a resumed training has the bits of one that was never interrupted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline_config.recipe import Training
from tasks.model.augmentation import Augmenter
from tasks.model.checkpoint import Checkpoint
from tasks.model.network import copied, generator_of
from tasks.model.numpy_engine import NumpyEngine
from tasks.model.torch_engine import TorchEngine, score
from tasks.runtime.devices import Precision
from tasks.runtime.errors import ConfigError, InterruptedTraining, TrainingError, signals_deferred

logger = logging.getLogger(__name__)

REPORT_EVERY = 20  # batches
# Takes the batches done since the last report, and words for the progress bar.
Report = Callable[[int, str], None]


@dataclass(frozen=True)
class Epoch:
    """One line of the history. Losses are in nats (or mean squares), accuracy is in [0, 1]."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float


def learning_rate_at(step: int, num_steps: int, training: Training) -> float:
    """Return the learning rate of a step in [0, num_steps).

    one_cycle: a line from peak/10 to peak over the warm-up, then half a cosine down to peak/1000
    (after Smith and Topin 2018, with the cosine of Loshchilov and Hutter 2017). cosine: a line from
    0 to peak over the warm-up, then half a cosine down to 0.
    """
    schedule, peak = training.schedule, training.optimizer.learning_rate
    if schedule.name == "constant":
        return peak
    first, last = (peak / 10, peak / 1000) if schedule.name == "one_cycle" else (0.0, 0.0)
    warm = schedule.warmup * num_steps
    if step < warm:
        return first + (peak - first) * (step + 1) / math.ceil(warm)
    share = (step - warm) / max(num_steps - 1 - warm, 1)
    return last + (peak - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


class Trainer:
    """Trains a network in place, on images uint8 (N, D) and labels int64 (N,) of one device.

    Raises ConfigError for a single training row with batch norm, and for a recipe that the NumPy
    engine cannot train.
    """

    def __init__(
        self,
        network: nn.Sequential,
        training: Training,
        image_shape: tuple[int, int],
        train: TensorDataset,
        validation: TensorDataset,
        precision: Precision = "float32",
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.network, self.training, self.checkpoint = network, training, checkpoint
        self.train, self.validation = train, validation
        self.num_batches = _batches_in_epoch(network, len(train), training.batch_size)
        self.num_steps = training.epochs * self.num_batches
        by_hand = NumpyEngine(network, training) if training.engine == "numpy" else None
        self.engine = by_hand or TorchEngine(network, training, precision)
        choice = training.augmentation
        self.augment = Augmenter(choice, training.seed, image_shape) if choice else None
        # The engine updates these tensors.
        self.weights = network.state_dict()
        floats = {name: value for name, value in self.weights.items() if value.is_floating_point()}
        self.average = {name: value.clone() for name, value in floats.items() if training.ema}
        self.best = copied(self.weights) if training.patience else {}
        self.kept: list[dict[str, Tensor]] = []
        # The finished epochs; the finished batches of the next one, and their summed loss.
        self.history: list[Epoch] = []
        self.batch = 0
        self.loss: Tensor | float = 0.0

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return len(self.history) * self.num_batches + self.batch

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss where there is patience, else the last one."""
        if not self.training.patience or not self.history:
            return len(self.history)
        losses = [line.validation_loss or 0.0 for line in self.history]
        return 1 + losses.index(min(losses))

    def fit(self, report: Report) -> None:
        """Train to the end, from the checkpoint if there is one.

        Raises TrainingError for a loss that is not finite. After Ctrl-C or SIGTERM the checkpoint
        is written, InterruptedTraining is raised, and the signal's own handler is called.
        """
        images, _ = self.train.tensors
        devices = [images.device.index or 0] if images.is_cuda else []
        with signals_deferred() as interrupt, torch.random.fork_rng(devices=devices):
            self._restore()
            report(self.step, "")
            while not self._is_done():
                self._fit_epoch(report, interrupt)
                self._end_epoch()
                self._save_if_due(interrupt())
            self.network.load_state_dict(self.best or self.average, strict=False)

    def _is_done(self) -> bool:
        num_epochs, patience = len(self.history), self.training.patience
        return num_epochs == self.training.epochs or 0 < patience <= num_epochs - self.best_epoch

    def _fit_epoch(self, report: Report, interrupt: Callable[[], str | None]) -> None:
        """Train on all rows once, or on those that the checkpoint left of the epoch."""
        self.network.train()
        size, rows = self.training.batch_size, self._shuffled()
        started, first, reported = time.perf_counter(), self.batch, self.batch
        while self.batch < self.num_batches:
            images, labels = rows[self.batch * size : (self.batch + 1) * size]
            step = self.step
            if self.augment:
                images = self.augment(images, step, self.num_batches)
            rate = learning_rate_at(step, self.num_steps, self.training)
            loss = self.engine.step(images, labels, rate, step)
            self._average(step)
            self.loss = self.loss + loss * len(labels)
            self.batch += 1
            if self.batch - reported == REPORT_EVERY or self.batch == self.num_batches:
                per_second = (self.batch - first) * size / (time.perf_counter() - started)
                report(self.batch - reported, f"loss {loss:.3f}, {per_second:,.0f} images/s")
                reported = self.batch
            self._save_if_due(interrupt())

    def _shuffled(self) -> TensorDataset:
        """Return the rows in the order of the epoch.

        They are gathered once an epoch: consecutive rows are read far faster than scattered ones.
        """
        if not self.training.shuffle:
            return self.train
        images, labels = self.train.tensors
        generator = generator_of(self.training.seed, "order", len(self.history))
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        return TensorDataset(images.index_select(0, order), labels[order])

    def _average(self, step: int) -> None:
        """Move the average towards the weights; at the start faster, by (1 + t) / (10 + t)."""
        decay = min(self.training.ema, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(self.weights[name], 1 - decay)

    def _end_epoch(self) -> None:
        """Score the validation rows, with averaged weights if there are any; add to the history."""
        epoch, num_seen = len(self.history) + 1, self.batch * self.training.batch_size
        loss, loss_v, accuracy_v = float(self.loss) / min(num_seen, len(self.train)), None, None
        rate = learning_rate_at(self.step - 1, self.num_steps, self.training)
        live = {name: self.weights[name].clone() for name in self.average}
        self.network.load_state_dict(self.average, strict=False)
        if len(self.validation):
            loss_v, accuracy_v = score(self.network, self.validation, self.training)
        if not math.isfinite(total := loss + (loss_v or 0.0)):
            if self.checkpoint:
                self.checkpoint.path.unlink(missing_ok=True)
            raise TrainingError(f"training, epoch {epoch}", found=f"a loss of {total}")
        self.history.append(Epoch(epoch, loss, loss_v, accuracy_v, rate))
        if self.best and self.best_epoch == epoch:
            self.best = copied(self.weights)
        if self.training.keep_epochs:
            self.kept.append(copied(self.weights))
        self.network.load_state_dict(live, strict=False)
        self.batch, self.loss = 0, 0.0

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors that change, by name."""
        parts = {"network": self.weights, "engine": self.engine.state()}
        parts |= {"average": self.average, "best": self.best}
        parts |= {f"kept/{place}": weights for place, weights in enumerate(self.kept)}
        return {f"{part}/{name}": parts[part][name] for part in parts for name in parts[part]}

    def _save_if_due(self, signal: str | None) -> None:
        """Write the checkpoint when it is due or after a signal; then raise for the signal."""
        if self.checkpoint and (signal or self.checkpoint.is_due()):
            history = [asdict(epoch) for epoch in self.history]
            position = {"history": history, "batch": self.batch, "loss": float(self.loss)}
            self.checkpoint.save(self._tensors(), position)
        if signal:
            remedy = "the same command resumes from here" if self.checkpoint else "nothing is saved"
            what = f"training, epoch {min(len(self.history) + 1, self.training.epochs)}"
            # Logged here, since the signal's own handler may replace the error.
            logger.warning("%s: stopped by %s; %s", what, signal, remedy)
            expected, remedy = "no signal before the last epoch", f"Run it again: {remedy}."
            raise InterruptedTraining(what, found=signal, expected=expected, remedy=remedy)

    def _restore(self) -> None:
        """Restore the state of the checkpoint, if there is an intact one."""
        if not self.checkpoint or not (saved := self.checkpoint.load()):
            return
        tensors, position = saved
        self.history = [Epoch(**line) for line in position["history"]]
        self.batch, self.loss = position["batch"], position["loss"]
        if self.training.keep_epochs:
            self.kept = [copied(self.weights) for _ in self.history]
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])
        logger.info("training resumes after epoch %d, batch %d", len(self.history), self.batch)


def _batches_in_epoch(network: nn.Module, num_rows: int, batch_size: int) -> int:
    """Return how many there are, without a last batch of one row, which batch norm cannot use."""
    num_batches = math.ceil(num_rows / batch_size)
    if not any(isinstance(layer, nn.BatchNorm1d) for layer in network.modules()):
        return num_batches
    if num_rows == 1:
        remedy = "Add rows, keep fewer for validation, or --set model.batch_norm=false."
        found, expected = "a single training row", "at least two, for a variance"
        raise ConfigError("model.batch_norm", found=found, expected=expected, remedy=remedy)
    return num_batches - (num_batches > 1 and num_rows % batch_size == 1)
