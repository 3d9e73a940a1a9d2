"""The network and its training: shapes, initialisation, schedules, exactness."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline_config.recipe import Model, Recipe, Schedule
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import (
    Normalize,
    build_network,
    describe_layers,
    initialize,
    load_network,
    probabilities,
    save_weights,
)
from tasks.model.schedule import learning_rate_at
from tasks.model.scoring import Rows, loss_of, score
from tasks.model.torch_engine import TorchEngine
from tasks.model.training import Trainer
from tasks.runtime.errors import ConfigError, RawDataError, TrainingError

PIXELS, CLASSES = 36, 3


def recipe(*overrides: str) -> Recipe:
    return load_recipe("fast", ("model.hidden=[16]", "training.batch_size=8", *overrides))


def rows(num_rows: int, seed: int = 0) -> Rows:
    """Images whose class is the third of them that is bright: easy to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (num_rows,), generator=generator)
    images = torch.randint(0, 100, (num_rows, PIXELS), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels):
        images[row, 12 * label : 12 * label + 12] += 120
    return Rows(images, labels)


def trained(choice: Recipe, train: Rows, validation: Rows) -> tuple[torch.nn.Sequential, list]:
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, choice.training.seed)
    fitted = Trainer(network, choice.training).fit(train, validation, lambda steps, words: None)
    return network, fitted.history


def test_normalization_is_the_first_layer_and_travels_with_the_weights(tmp_path: Path) -> None:
    model = recipe().model
    network = build_network(model, PIXELS, CLASSES, mean=33.5, std=78.25)
    initialize(network, model, 0)
    assert isinstance(network[0], Normalize)
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8)
    torch.testing.assert_close(network[0](pixels), torch.tensor([[-33.5, 221.5]]) / 78.25)
    save_weights(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_network(tmp_path / "model.safetensors", model, PIXELS, CLASSES)
    images = rows(20).images
    assert torch.equal(loaded(images), network.eval()(images))


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    model = recipe().model
    for name in ("a", "b"):
        network = build_network(model, PIXELS, CLASSES, 0.0, 1.0)
        initialize(network, model, 7)
        save_weights(network.state_dict(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 100])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RawDataError, match=r"model\.safetensors"):
        load_network(path, recipe().model, PIXELS, CLASSES)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = build_network(recipe().model, PIXELS, CLASSES, 0.0, 1.0)
    save_weights(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(RawDataError, match="36-17-3"):
        wider = recipe("model.hidden=[17]").model
        load_network(tmp_path / "model.safetensors", wider, PIXELS, CLASSES)


def test_a_recipe_takes_no_memory_that_its_weights_do_not_justify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three layers of 60,000 are 28 GB, whatever the file of the weights holds."""
    path, small = tmp_path / "model.safetensors", recipe().model
    save_weights(build_network(small, PIXELS, CLASSES, 0.0, 1.0).state_dict(), path)
    built = []

    def build(model: Model, *given: object, **named: object) -> torch.nn.Sequential:
        built.append(torch.get_default_device().type)
        assert built[-1] == "meta" or model == small, "memory before a look at the file"
        return build_network(model, *given, **named)

    monkeypatch.setattr("tasks.model.network.build_network", build)
    wide = recipe("model.hidden=[60000, 60000, 60000]").model
    with pytest.raises(RawDataError, match="36-60000-60000-60000-3"):
        load_network(path, wide, PIXELS, CLASSES)
    assert built == ["meta"]
    assert load_network(path, small, PIXELS, CLASSES)
    assert built == ["meta", "meta", "cpu"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_weights_of_another_type_become_float32_or_are_refused(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path, model = tmp_path / "model.safetensors", recipe().model
    weights = build_network(model, PIXELS, CLASSES, 0.0, 1.0).state_dict()
    save_weights({name: weight.to(dtype) for name, weight in weights.items()}, path)
    if dtype == torch.int64:
        with pytest.raises(RawDataError, match="floating point"):
            load_network(path, model, PIXELS, CLASSES)
        return
    network = load_network(path, model, PIXELS, CLASSES)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def initial_weights(initialization: str) -> torch.Tensor:
    model = recipe(f"model.initialization={initialization}", "model.hidden=[400]").model
    network = build_network(model, 900, CLASSES, 0.0, 1.0)
    initialize(network, model, 0)
    layer = next(layer for layer in network if isinstance(layer, torch.nn.Linear))
    if initialization != "torch":
        assert not layer.bias.any()
    return layer.weight.detach()


def test_initialisations_have_the_spread_of_their_papers() -> None:
    assert initial_weights("he_normal").std().item() == pytest.approx(math.sqrt(2 / 900), rel=0.01)
    glorot, bound = initial_weights("glorot_uniform"), math.sqrt(6 / 1300)
    assert glorot.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert glorot.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert initial_weights("torch").abs().max().item() == pytest.approx(1 / 30, rel=0.01)


def test_layers_are_described_with_their_parameters() -> None:
    network = build_network(recipe("model.batch_norm=false").model, PIXELS, CLASSES, 0.0, 1.0)
    linear = [layer for layer in describe_layers(network) if layer["name"] == "Linear"]
    assert [layer["shape"] for layer in linear] == [[16, 36], [3, 16]]
    assert [layer["parameters"] for layer in linear] == [16 * 36 + 16, 3 * 16 + 3]


def test_probabilities_are_a_distribution_whatever_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(recipe().model, PIXELS, CLASSES, 0.0, 255.0).eval()
    images = rows(50).images.numpy()
    whole = probabilities(network, images)
    assert whole.dtype == np.float32
    assert whole.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-6)
    monkeypatch.setattr("tasks.model.network.SCORE_BATCH", 7)
    assert probabilities(network, images) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adamax"])
def test_every_optimizer_learns(optimizer: str) -> None:
    choice = recipe(f"training.optimizer.name={optimizer}", "training.optimizer.momentum=0.9")
    network, history = trained(choice, rows(300), rows(100, seed=1))
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].validation_accuracy == 1.0
    assert score(network, rows(100, seed=2), choice.training)[1] == 1.0


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
    _, history = trained(recipe(*overrides), rows(300), rows(100, seed=1))
    accuracy = history[-1].validation_accuracy
    assert accuracy is not None
    assert accuracy > 0.9


def test_in_bfloat16_the_weights_stay_float32_and_learn() -> None:
    choice = recipe("model.hidden=[32]", "training.epochs=8")
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, 0)
    trainer = Trainer(network, choice.training, "bfloat16")
    fitted = trainer.fit(rows(300), rows(100, seed=1), lambda steps, words: None)
    assert fitted.history[-1].validation_accuracy > 0.9
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    exact = trained(choice, rows(300), rows(100, seed=1))[1]
    assert fitted.history[-1].train_loss != exact[-1].train_loss
    assert fitted.history[-1].train_loss == pytest.approx(exact[-1].train_loss, rel=0.1)


@pytest.mark.parametrize(
    ("output", "loss"),
    [("logits", "cross_entropy"), ("log_softmax", "nll"), ("activation", "mse")],
)
def test_in_bfloat16_what_stands_behind_the_last_product_is_float32(output: str, loss: str) -> None:
    choice = recipe(
        f"model.output={output}",
        f"training.loss={loss}",
        "training.label_smoothing=0",
        "model.activation=tanh",
    )
    network = build_network(choice.model, PIXELS, CLASSES, mean=80.0, std=60.0)
    initialize(network, choice.model, 0)
    engine, images = TorchEngine(network, choice.training, "bfloat16"), rows(300).images
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


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    choice = recipe("model.dropout=0.3", "training.epochs=2")
    first, again = (trained(choice, rows(100), rows(20))[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = recipe("model.dropout=0.3", "training.epochs=2", "training.seed=1")
    changed = trained(other, rows(100), rows(20))[0].state_dict()
    assert not torch.equal(first["1.weight"], changed["1.weight"])


def test_training_leaves_torchs_own_chance_alone() -> None:
    choice = recipe("training.epochs=1", "model.dropout=0.3")
    network = build_network(choice.model, PIXELS, CLASSES, 80.0, 60.0)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    initialize(network, choice.model, 0)
    Trainer(network, choice.training).fit(rows(50), rows(10), lambda steps, words: None)
    assert torch.equal(torch.rand(3), expected)


def test_without_validation_rows_the_history_says_none() -> None:
    _, history = trained(recipe("training.epochs=2"), rows(50), rows(0))
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[-1].validation_loss is None
    assert history[-1].validation_accuracy is None


@pytest.mark.parametrize("batch_norm", ["true", "false"])
def test_a_last_batch_of_one_row_is_no_error(batch_norm: str) -> None:
    choice = recipe("training.epochs=1", f"model.batch_norm={batch_norm}")
    _, history = trained(choice, rows(17), rows(0))
    assert math.isfinite(history[0].train_loss)


@pytest.mark.parametrize("engine", ["torch", "numpy"])
def test_a_single_row_is_one_clear_error_with_batch_norm_and_trains_without(engine: str) -> None:
    with pytest.raises(ConfigError, match="a single training row"):
        trained(recipe(f"training.engine={engine}"), rows(1), rows(5))
    without = recipe(f"training.engine={engine}", "model.batch_norm=false")
    assert math.isfinite(trained(without, rows(1), rows(5))[1][-1].train_loss)


def test_a_diverging_training_is_one_clear_error(diverging: tuple[str, ...]) -> None:
    choice = recipe(*diverging)
    with pytest.raises(TrainingError, match="learning_rate"):
        trained(choice, rows(300), rows(0))


def test_the_loss_counts_each_row_once() -> None:
    choice = recipe("training.label_smoothing=0").training
    network = build_network(recipe().model, PIXELS, CLASSES, 0.0, 255.0).eval()
    some = rows(30)
    loss, accuracy = score(network, some, choice)
    logits = network(some.images)
    assert loss == pytest.approx(loss_of(logits, some.labels, choice).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == some.labels).sum().item() / 30


@given(
    st.sampled_from(["constant", "cosine", "one_cycle"]),
    st.floats(0, 0.99),
    st.integers(1, 500),
)
def test_a_schedule_stays_within_its_peak_and_ends_low(
    name: str, warmup: float, num_steps: int
) -> None:
    schedule = Schedule(name=name, warmup=warmup)  # type: ignore[arg-type]
    rates = [learning_rate_at(step, num_steps, 0.5, schedule) for step in range(num_steps)]
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
    schedule = Schedule(name="one_cycle", warmup=0.2)
    rates = [learning_rate_at(step, 100, 1.0, schedule) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 19
    assert rates[0] == pytest.approx(0.1 + 0.9 / 20)
    assert rates[-1] == pytest.approx(0.001)
