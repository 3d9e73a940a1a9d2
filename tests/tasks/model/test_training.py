"""The training loop: losses, schedules, exactness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, initialize
from tasks.model.torch_engine import TorchEngine, loss_of, score
from tasks.model.training import Trainer, learning_rate_at
from tasks.runtime.errors import ConfigError, TrainingError

PIXELS, CLASSES = 36, 3


def recipe(*overrides: str) -> Recipe:
    return load_recipe("fast", ("model.hidden=[16]", "training.batch_size=8", *overrides))


def rows(num_rows: int, seed: int = 0) -> TensorDataset:
    """Images whose class is the third of them that is bright: easy to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num_rows,), generator=generator)
    images = torch.randint(0, 100, (num_rows, PIXELS), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels):
        images[row, 12 * label : 12 * label + 12] += 120
    return TensorDataset(images, labels)


def trainer_of(
    choice: Recipe, train: TensorDataset, validation: TensorDataset, **given: str
) -> Trainer:
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, choice.training.seed)
    return Trainer(network, choice.training, (6, 6), train, validation, **given)


def trained(*args: Any, **given: str) -> Trainer:
    trainer = trainer_of(*args, **given)
    trainer.fit(lambda steps, words: None)
    return trainer


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adamax"])
def test_every_optimizer_learns(optimizer: str) -> None:
    choice = recipe(f"training.optimizer.name={optimizer}", "training.optimizer.momentum=0.9")
    trainer = trained(choice, rows(300), rows(100, seed=1))
    history = trainer.history
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].validation_accuracy == 1.0
    assert score(trainer.network, rows(100, seed=2), choice.training)[1] == 1.0


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.loss=mse", "training.label_smoothing=0"),
        ("model.activation=leaky_relu", "model.negative_slope=0.1"),
        ("model.activation=gelu", "model.batch_norm=false"),
        ("model.activation=tanh", "model.dropout=0.2"),
        ("model.hidden=[16, 8]", "training.schedule={name: cosine, warmup: 0.1}"),
        ("training.shuffle=false", "training.schedule={name: constant, warmup: 0}"),
    ],
)
def test_every_choice_of_a_recipe_trains(overrides: tuple[str, ...]) -> None:
    trainer = trained(recipe(*overrides), rows(300), rows(100, seed=1))
    accuracy = trainer.history[-1].validation_accuracy
    assert accuracy is not None
    assert accuracy > 0.9


def test_in_bfloat16_the_weights_stay_float32_and_learn() -> None:
    choice = recipe("model.hidden=[32]", "training.epochs=8")
    mixed = trained(choice, rows(300), rows(100, seed=1), precision="bfloat16")
    assert mixed.history[-1].validation_accuracy > 0.9
    assert {value.dtype for value in mixed.network.parameters()} == {torch.float32}
    exact = trained(choice, rows(300), rows(100, seed=1)).history[-1].train_loss
    assert mixed.history[-1].train_loss != exact
    assert mixed.history[-1].train_loss == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("output", "loss"),
    [("logits", "cross_entropy"), ("log_softmax", "nll"), ("activation", "mse")],
)
def test_in_bfloat16_what_follows_the_last_product_is_float32(output: str, loss: str) -> None:
    choice = recipe(
        f"model.output={output}",
        f"training.loss={loss}",
        "training.label_smoothing=0",
        "model.activation=tanh",
    )
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, 0)
    engine, images = TorchEngine(network, choice.training, "bfloat16"), rows(300).tensors[0]
    found = engine._outputs(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = engine.until_logits(images)
    assert (logits.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    exact = {
        "logits": logits.float(),
        "log_softmax": logits.float().log_softmax(dim=1),
        "activation": logits.float().tanh(),
    }
    assert torch.equal(found, exact[output])
    if output == "log_softmax":
        torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(300), atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    choice = recipe("model.dropout=0.3", "training.epochs=2")
    first, again = (trained(choice, rows(100), rows(20)).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = recipe("model.dropout=0.3", "training.epochs=2", "training.seed=1")
    changed = trained(other, rows(100), rows(20)).network.state_dict()
    assert not torch.equal(first["hidden1.weight"], changed["hidden1.weight"])


def test_training_leaves_torchs_generator_unchanged() -> None:
    choice = recipe("training.epochs=1", "model.dropout=0.3")
    trainer = trainer_of(choice, rows(50), rows(10))
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    trainer.fit(lambda steps, words: None)
    assert torch.equal(torch.rand(3), expected)


def test_without_validation_rows_the_history_says_none() -> None:
    history = trained(recipe("training.epochs=2"), rows(50), rows(0)).history
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[-1].validation_loss is None
    assert history[-1].validation_accuracy is None


@pytest.mark.parametrize("batch_norm", ["true", "false"])
def test_a_last_batch_of_one_row_is_not_an_error(batch_norm: str) -> None:
    choice = recipe("training.epochs=1", f"model.batch_norm={batch_norm}")
    assert math.isfinite(trained(choice, rows(17), rows(0)).history[0].train_loss)


@pytest.mark.parametrize("engine", ["torch", "numpy"])
def test_a_single_row_is_a_clear_error_with_batch_norm_and_trains_without(engine: str) -> None:
    with pytest.raises(ConfigError, match="a single training row"):
        trained(recipe(f"training.engine={engine}"), rows(1), rows(5))
    adam = ("training.optimizer.name=adam", "training.optimizer.weight_decay=0")
    without = recipe(f"training.engine={engine}", "model.batch_norm=false", *adam)
    assert math.isfinite(trained(without, rows(1), rows(5)).history[-1].train_loss)


def test_a_diverging_training_is_a_clear_error(diverging: tuple[str, ...]) -> None:
    choice = recipe(*diverging)
    with pytest.raises(TrainingError, match="learning_rate"):
        trained(choice, rows(300), rows(0))


def test_the_loss_counts_each_row_once() -> None:
    choice = recipe("training.label_smoothing=0").training
    network = build_network(recipe().model, PIXELS, CLASSES, 0.0, 255.0).eval()
    some = rows(30)
    loss, accuracy = score(network, some, choice)
    images, labels = some.tensors
    logits = network(images)
    assert loss == pytest.approx(loss_of(logits, labels, choice).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == labels).sum().item() / 30


def rates_of(name: str, warmup: float, num_steps: int, peak: float) -> list[float]:
    overrides = f"training.schedule={{name: {name}, warmup: {warmup:f}}}"
    training = recipe(overrides, f"training.optimizer.learning_rate={peak}").training
    return [learning_rate_at(step, num_steps, training) for step in range(num_steps)]


@given(
    st.sampled_from(["constant", "cosine", "one_cycle"]),
    st.floats(0, 0.99),
    st.integers(1, 500),
)
def test_a_schedule_stays_within_its_peak_and_ends_low(
    name: str, warmup: float, num_steps: int
) -> None:
    rates = rates_of(name, warmup, num_steps, peak=0.5)
    assert all(0 <= rate <= 0.5 + 1e-12 for rate in rates)
    if name == "constant":
        assert set(rates) == {0.5}
    else:
        top = rates.index(max(rates))
        assert rates[:top] == sorted(rates[:top])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        if num_steps * (1 - warmup) > 3:
            assert rates[-1] < 0.5 / 2


def test_one_cycle_passes_through_the_points_of_its_definition() -> None:
    rates = rates_of("one_cycle", 0.2, 100, peak=1.0)
    assert max(rates) == 1.0
    assert rates.index(1.0) == 19
    assert rates[0] == pytest.approx(0.1 + 0.9 / 20)
    assert rates[-1] == pytest.approx(0.001)
