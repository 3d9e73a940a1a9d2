"""The NumPy engine against torch's autograd and optimisers: the same losses, step by step."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_config.recipe import Model, Training
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, initialize, probabilities
from tasks.model.numpy_engine import NumpyEngine
from tasks.runtime.errors import ConfigError

PIXELS, CLASSES = 20, 4


def chosen(**numbers: Any) -> tuple[nn.Sequential, Training]:
    """A small network and its training: `numbers` go to the section of a recipe that has them."""
    recipe = load_recipe("fast")
    training = recipe.training.model_dump()
    training["optimizer"] |= {"name": "sgd", "weight_decay": 0.0}
    training["label_smoothing"] = 0.0
    model = recipe.model.model_dump() | {"hidden": (12, 9), "dropout": (0.0, 0.0)}
    model["batch_norm"] = False
    for name, number in numbers.items():
        section = next(part for part in (model, training, training["optimizer"]) if name in part)
        section[name] = number
    return built(Model(**model), seed=3), Training(**training)


def built(model: Model, seed: int) -> nn.Sequential:
    network = build_network(model, PIXELS, CLASSES, mean=33.0, std=78.0)
    initialize(network, model, seed)
    return network


def batches(num_steps: int, sizes: tuple[int, ...] = (16, 16, 7)) -> list[tuple[Tensor, Tensor]]:
    """Batches of random pixels and labels, of these sizes in turn."""
    chance = torch.Generator().manual_seed(7)
    return [
        (
            torch.randint(0, 256, (size, PIXELS), dtype=torch.uint8, generator=chance),
            torch.randint(0, CLASSES, (size,), generator=chance),
        )
        for size in (sizes[step % len(sizes)] for step in range(num_steps))
    ]


def torchs_optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    choice = training.optimizer
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rest = {"lr": 0.1, "weight_decay": choice.weight_decay}
    if choice.name == "sgd":
        return torch.optim.SGD(groups, momentum=choice.momentum, nesterov=choice.nesterov, **rest)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}
    return kinds[choice.name](groups, betas=choice.betas, eps=choice.epsilon, **rest)


def torchs_loss(outputs: Tensor, labels: Tensor, training: Training) -> Tensor:
    if training.loss == "mse":
        return functional.mse_loss(outputs, torch.eye(CLASSES, dtype=outputs.dtype)[labels])
    if training.loss == "nll":
        return functional.nll_loss(outputs, labels)
    return functional.cross_entropy(outputs, labels, label_smoothing=training.label_smoothing)


def torchs_losses(
    network: nn.Module, training: Training, data: list[tuple[Tensor, Tensor]], rates: list[float]
) -> list[float]:
    """The losses of a plain torch loop, which trains `network`."""
    losses = []
    network.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch imports at its first step is deprecated
        optimizer = torchs_optimizer(network, training)
        for (images, labels), rate in zip(data, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = torchs_loss(network(images), labels, training)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def numpys_losses(
    engine: NumpyEngine, data: list[tuple[Tensor, Tensor]], rates: list[float]
) -> list[float]:
    return [
        engine.step(images, labels, rate)
        for (images, labels), rate in zip(data, rates, strict=True)
    ]


PROOFS: list[dict[str, Any]] = [
    {},
    {"hidden": (), "dropout": ()},
    {"label_smoothing": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    {"activation": "leaky_relu", "negative_slope": 0.1, "output": "activation", "loss": "mse"},
    {"activation": "tanh", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"activation": "tanh", "output": "log_softmax", "loss": "nll", "name": "adam"},
    {"activation": "gelu", "name": "adam", "weight_decay": 0.1, "epsilon": 1e-7},
    {"activation": "gelu", "batch_norm": True, "name": "adamw", "weight_decay": 0.1},
    {"batch_norm": True, "loss": "mse", "name": "adamax", "weight_decay": 0.1, "epsilon": 1e-7},
    {"activation": "leaky_relu", "negative_slope": 0.2, "batch_norm": True, "momentum": 0.5},
]


@pytest.mark.parametrize("numbers", PROOFS, ids=lambda numbers: " ".join(map(str, numbers)))
def test_a_hundred_losses_are_torchs(numbers: dict[str, Any]) -> None:
    network, training = chosen(**numbers)
    ours = network.double()
    theirs = copy.deepcopy(ours)
    peak = 0.1 if training.optimizer.name == "sgd" else 0.01
    data, rates = batches(100), [peak / (1 + 0.1 * step) for step in range(100)]
    losses = numpys_losses(NumpyEngine(ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-9)
    for (name, mine), torchs in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, torchs, rtol=1e-7, atol=1e-9, msg=name)


def test_in_float32_the_losses_are_torchs_up_to_rounding() -> None:
    ours, training = chosen(batch_norm=True)
    theirs = copy.deepcopy(ours)
    data, rates = batches(50), [0.05] * 50
    losses = numpys_losses(NumpyEngine(ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_one_image_at_a_time(loss: str) -> None:
    ours, training = chosen(loss=loss)
    ours.double()
    theirs = copy.deepcopy(ours)
    data, rates = batches(60, sizes=(1,)), [0.01] * 60
    losses = numpys_losses(NumpyEngine(ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-9)


def test_one_image_has_no_variance() -> None:
    network, training = chosen(batch_norm=True)
    engine = NumpyEngine(network, training)
    with pytest.raises(ConfigError, match="at least two rows"):
        engine.step(*batches(1, sizes=(1,))[0], 0.1)


def test_a_network_elsewhere_is_refused() -> None:
    network, training = chosen()
    with pytest.raises(ConfigError, match="--device cpu"):
        NumpyEngine(network.to("meta"), training)


def test_pixels_may_come_as_floats_and_are_left_as_they_were() -> None:
    network, training = chosen()
    other = copy.deepcopy(network)
    images, labels = batches(1)[0]
    floats, labels_before = images.float(), labels.clone()
    first = NumpyEngine(network, training).step(images, labels, 0.1)
    assert NumpyEngine(other, training).step(floats, labels, 0.1) == first
    assert torch.equal(floats, images.float())
    assert torch.equal(labels, labels_before)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_training_that_diverges_says_so_by_its_loss() -> None:
    network, training = chosen(loss="mse")
    losses = numpys_losses(NumpyEngine(network, training), batches(60), [10.0] * 60)
    assert not torch.tensor(losses).isfinite().all()


def test_torch_sees_the_weights_at_once() -> None:
    network, training = chosen(batch_norm=True)
    engine = NumpyEngine(network, training)
    weights = network.state_dict()
    images, labels = batches(1)[0]
    before = probabilities(network.eval(), images.numpy())
    for _ in range(200):
        engine.step(images, labels, 0.1)
    after = torch.from_numpy(probabilities(network.eval(), images.numpy()))
    assert not torch.equal(after, torch.from_numpy(before))
    assert (after.argmax(dim=1) == labels).all()
    assert all(torch.equal(network.state_dict()[name], weights[name]) for name in weights)
    loss = torchs_loss(network.train()(images), labels, training).item()
    assert engine.step(images, labels, 0.1) == pytest.approx(loss, rel=1e-4)


RESUMED: list[dict[str, Any]] = [
    {"dropout": (0.3, 0.2)},
    {"dropout": (0.3, 0.2), "momentum": 0.9, "nesterov": True, "batch_norm": True},
    {"dropout": (0.0, 0.5), "name": "adam"},
    {"dropout": (0.2, 0.2), "name": "adamw", "batch_norm": True, "weight_decay": 0.1},
    {"name": "adamax"},
]


@pytest.mark.parametrize("numbers", RESUMED, ids=lambda numbers: " ".join(map(str, numbers)))
def test_a_training_goes_on_to_the_bit(numbers: dict[str, Any]) -> None:
    network, training = chosen(**numbers)
    data, rates = batches(30), [0.01] * 30
    engine = NumpyEngine(network, training)
    numpys_losses(engine, data[:13], rates[:13])
    saved = copy.deepcopy((network.state_dict(), engine.state()))
    rest = numpys_losses(engine, data[13:], rates[13:])

    fresh, _ = chosen(**numbers, initialization="torch")
    resumed = NumpyEngine(fresh, training)
    fresh.load_state_dict(saved[0])
    assert set(saved[1]) == set(resumed.state())
    for name, tensor in resumed.state().items():
        tensor.copy_(saved[1][name])
    assert numpys_losses(resumed, data[13:], rates[13:]) == rest
    for mine, its in zip(network.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def test_the_state_counts_the_steps() -> None:
    network, training = chosen(name="adam")
    engine = NumpyEngine(network, training)
    state = engine.state()
    assert (state["num_steps"].shape, state["num_steps"].dtype) == ((), torch.int64)
    numpys_losses(engine, batches(3), [0.1] * 3)
    assert state["num_steps"] == 3
    assert all(tensor.any() for tensor in state.values())


def test_dropout_is_another_one_in_every_step_and_layer_and_seed() -> None:
    images, labels = batches(1)[0]
    masks = []
    for seed in (0, 1):
        network, training = chosen(dropout=0.5, hidden=(12, 12), seed=seed)
        engine = NumpyEngine(network, training)
        for _ in range(2):
            engine.step(images, labels, 0.1)
            masks += [dropout.dydx.tobytes() for dropout in engine.dropouts]
    assert len(set(masks)) == len(masks) == 8
