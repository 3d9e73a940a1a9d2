"""Resumed trainings have the bits of one that was never interrupted."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from tasks.model.checkpoint import Checkpoint
from tasks.model.network import build_network, initialize
from tasks.model.training import Trainer
from tasks.runtime.errors import TrainingError

PIXELS, CLASSES, BATCHES = 36, 3, 8
WARP = (
    "{shift_px: 1, rotation_deg: 10, scale: 0.1, shear: 0.1, elastic_px: 0.5, elastic_sigma_px: 2}"
)
EVERYTHING = (
    "model.dropout=0.3",
    "training.ema=0.9",
    "training.patience=2",
    "training.keep_epochs=true",
    f"training.augmentation={WARP}",
)
ENGINES = {
    "torch": (),
    "numpy": (
        "training.engine=numpy",
        "training.optimizer.name=adam",
        "training.optimizer.weight_decay=0",
        "model.batch_norm=false",
    ),
}


def recipe(*overrides: str) -> Recipe:
    small = ("model.hidden=[16]", "training.batch_size=8", "training.epochs=4")
    return load_recipe("fast", (*small, *overrides))


def rows(num_rows: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num_rows,), generator=generator)
    images = torch.randint(0, 255, (num_rows, PIXELS), generator=generator, dtype=torch.uint8)
    return TensorDataset(images, labels)


class Stop(Exception):
    """Stands for a kill."""


class Killed(Checkpoint):
    """A checkpoint whose process dies right after it is saved the n-th time."""

    saves_left = 0

    def save(self, tensors, position) -> None:  # type: ignore[no-untyped-def]
        super().save(tensors, position)
        self.saves_left -= 1
        if self.saves_left == 0:
            raise Stop


def trainer_of(choice: Recipe, checkpoint: Checkpoint | None = None) -> Trainer:
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, choice.training.seed)
    train, validation = rows(8 * BATCHES, 0), rows(40, 1)
    return Trainer(network, choice.training, (6, 6), train, validation, checkpoint=checkpoint)


def fit(choice: Recipe, checkpoint: Checkpoint | None = None) -> Trainer:
    trainer = trainer_of(choice, checkpoint)
    trainer.fit(lambda steps, words: None)
    return trainer


def assert_equal(first: Trainer, second: Trainer) -> None:
    assert first.history == second.history
    assert first.best_epoch == second.best_epoch
    for one, other in zip(
        [first.network.state_dict(), *first.kept],
        [second.network.state_dict(), *second.kept],
        strict=True,
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


def kill(choice: Recipe, path: Path, saves: int) -> None:
    """Train until the checkpoint is saved the n-th time."""
    checkpoint = Killed(path, every_s=0)
    checkpoint.saves_left = saves
    with pytest.raises(Stop):
        fit(choice, checkpoint)


@pytest.mark.parametrize("engine", ["torch", "numpy"])
@pytest.mark.parametrize("saves", [1, 5, BATCHES, BATCHES + 1, 2 * BATCHES + 7])
def test_a_killed_training_resumes_to_the_same_bits(
    tmp_path: Path, engine: str, saves: int
) -> None:
    choice, path = recipe(*ENGINES[engine], *EVERYTHING), tmp_path / "train.safetensors"
    kill(choice, path, saves)
    assert_equal(fit(choice, Checkpoint(path, every_s=1e9)), fit(choice))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer.name=sgd", "training.optimizer.momentum=0.9"),
        ("training.optimizer.name=adamax", "training.schedule={name: constant, warmup: 0}"),
        ("training.shuffle=false", "model.batch_norm=false"),
    ],
)
def test_every_optimizer_and_schedule_resumes(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    choice, path = recipe(*overrides), tmp_path / "train.safetensors"
    kill(choice, path, saves=BATCHES + 3)
    assert_equal(fit(choice, Checkpoint(path, every_s=1e9)), fit(choice))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first_and_is_then_delivered(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = recipe()
    path = tmp_path / "train.safetensors"
    delivered: list[int] = []
    earlier = signal.signal(number, lambda got, frame: delivered.append(got))
    step, steps = Trainer._average, 0

    def count(self: Trainer, at: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 11:
            os.kill(os.getpid(), number)
            assert not delivered
        step(self, at)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_average", count)
            with pytest.raises(Exception, match="the same command resumes"):
                fit(choice, Checkpoint(path, every_s=1e9))
        assert delivered == [number]
        assert steps == 11
        assert signal.getsignal(number) is not earlier
    finally:
        signal.signal(number, earlier)
    assert_equal(fit(choice, Checkpoint(path, every_s=1e9)), fit(choice))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_is_not_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    choice, path = recipe(), tmp_path / "train.safetensors"
    kill(choice, path, saves=5)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    damaged = {"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}
    if damage == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    else:
        path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        again = fit(choice, Checkpoint(path, every_s=1e9))
    assert "starts again" in caplog.text
    assert_equal(again, fit(choice))


def test_a_diverged_training_leaves_no_checkpoint(
    tmp_path: Path, diverging: tuple[str, ...]
) -> None:
    choice = recipe(*diverging)
    checkpoint = Checkpoint(tmp_path / "train.safetensors", every_s=0)
    with pytest.raises(TrainingError):
        fit(choice, checkpoint)
    assert not checkpoint.path.exists()


def test_patience_stops_early_and_takes_the_best_epoch() -> None:
    choice = recipe("training.patience=2", "training.epochs=60", "training.keep_epochs=true")
    trainer = fit(choice)
    losses = [line.validation_loss for line in trainer.history]
    assert len(losses) < 60
    assert trainer.best_epoch == len(losses) - 2 == 1 + losses.index(min(losses))
    weights, best = trainer.network.state_dict(), trainer.kept[trainer.best_epoch - 1]
    assert all(torch.equal(weights[name], best[name]) for name in weights)


def test_an_average_of_weights_follows_its_definition() -> None:
    choice = recipe("training.ema=0.5", "training.epochs=1", "model.batch_norm=false")
    trainer = trainer_of(choice)
    network = trainer.network
    expected = network[1].weight.detach().clone()
    average, steps = trainer._average, []

    def count(step: int) -> None:
        decay = min(0.5, (1 + step) / (10 + step))
        expected.copy_(decay * expected + (1 - decay) * network[1].weight.detach())
        steps.append(step)
        average(step)

    trainer._average = count  # type: ignore[method-assign]
    trainer.fit(lambda steps, words: None)
    assert steps == list(range(BATCHES))
    torch.testing.assert_close(network[1].weight.detach(), expected)
