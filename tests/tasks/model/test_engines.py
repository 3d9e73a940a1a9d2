"""Both engines against a plain torch loop with torch's own optimisers, step by step."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_config.recipe import Model, Training
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, flatten_parameters, initialize, probabilities
from tasks.model.numpy_engine import NumpyEngine
from tasks.model.torch_engine import TorchEngine
from tasks.runtime.errors import ConfigError

PIXELS, CLASSES = 20, 4
Batches = list[tuple[Tensor, Tensor]]


def chosen(**numbers: Any) -> tuple[nn.Sequential, Training]:
    """Return a small network and its training: `numbers` replace fields of whichever section."""
    recipe = load_recipe("fast")
    training = recipe.training.model_dump()
    training["optimizer"] |= {"name": "sgd", "weight_decay": 0.0}
    training["label_smoothing"] = 0.0
    model = recipe.model.model_dump() | {"hidden": (12, 9), "dropout": (0.0, 0.0)}
    model["batch_norm"] = False
    for name, number in numbers.items():
        section = next(part for part in (model, training, training["optimizer"]) if name in part)
        section[name] = number
    network = build_network(Model(**model), PIXELS, CLASSES, mean=33.0, std=78.0)
    initialize(network, Model(**model), seed=3)
    return network, Training(**training)


def engine_of(name: str, network: nn.Sequential, training: Training) -> NumpyEngine | TorchEngine:
    if name == "numpy":
        return NumpyEngine(network, training)
    return TorchEngine(network, training, "float32")


def batches(num_steps: int, sizes: tuple[int, ...] = (16, 16, 7)) -> Batches:
    """Return batches of random pixels and labels, of these sizes in turn."""
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randint(0, 256, (size, PIXELS), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
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
    network: nn.Module, training: Training, data: Batches, rates: list[float]
) -> list[float]:
    """Return the losses of a plain torch loop, which trains `network`."""
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


def losses_of(
    engine: NumpyEngine | TorchEngine, data: Batches, rates: list[float], first: int = 0
) -> list[float]:
    return [
        float(engine.step(images, labels, rate, first + step))
        for step, ((images, labels), rate) in enumerate(zip(data, rates, strict=True))
    ]


BOTH: list[dict[str, Any]] = [
    {},
    {"hidden": (), "dropout": ()},
    {"label_smoothing": 0.1, "momentum": 0.9},
    {"activation": "leaky_relu", "negative_slope": 0.1, "output": "activation", "loss": "mse"},
    {"output": "log_softmax", "loss": "nll", "name": "adam"},
    {"loss": "mse", "name": "adamax", "epsilon": 1e-7},
]
TORCH_ALONE: list[dict[str, Any]] = [
    {"activation": "tanh", "weight_decay": 0.01},
    {"activation": "tanh", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"activation": "gelu", "name": "adam", "weight_decay": 0.1, "epsilon": 1e-7},
    {"activation": "gelu", "batch_norm": True, "name": "adamw", "weight_decay": 0.1},
    {"batch_norm": True, "name": "adamax", "weight_decay": 0.1, "epsilon": 1e-7},
]


def words(numbers: object) -> str:
    return " ".join(map(str, numbers)) if isinstance(numbers, dict) else str(numbers)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [*(("numpy", numbers) for numbers in BOTH), *(("torch", n) for n in BOTH + TORCH_ALONE)],
    ids=words,
)
def test_a_hundred_losses_equal_those_of_a_plain_torch_loop(
    name: str, numbers: dict[str, Any]
) -> None:
    network, training = chosen(**numbers)
    ours = network.double()
    theirs = copy.deepcopy(ours)
    peak = 0.1 if training.optimizer.name == "sgd" else 0.01
    data, rates = batches(100), [peak / (1 + 0.1 * step) for step in range(100)]
    losses = losses_of(engine_of(name, ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-9)
    for (key, mine), torchs in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, torchs, rtol=1e-7, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_in_float32_the_losses_are_equal_up_to_rounding(name: str) -> None:
    ours, training = chosen()
    theirs = copy.deepcopy(ours)
    data, rates = batches(50), [0.05] * 50
    losses = losses_of(engine_of(name, ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_numpy_trains_on_one_image_at_a_time(loss: str) -> None:
    ours, training = chosen(loss=loss)
    ours.double()
    theirs = copy.deepcopy(ours)
    data, rates = batches(60, sizes=(1,)), [0.01] * 60
    losses = losses_of(NumpyEngine(ours, training), data, rates)
    assert losses == pytest.approx(torchs_losses(theirs, training, data, rates), rel=1e-9)


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("model.batch_norm", {"batch_norm": True}),
        ("model.activation", {"activation": "tanh"}),
        ("model.activation", {"activation": "gelu"}),
        ("training.optimizer.name", {"name": "adamw"}),
        ("training.optimizer.weight_decay", {"weight_decay": 0.1}),
        ("training.optimizer.nesterov", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_numpy_refuses_what_it_does_not_have(key: str, numbers: dict[str, Any]) -> None:
    network, training = chosen(**numbers)
    with pytest.raises(ConfigError, match=rf"^{key}: .*training\.engine to torch") as refused:
        NumpyEngine(network, training)
    assert refused.value.what == key


def test_numpy_takes_pixels_as_floats_and_does_not_change_them() -> None:
    network, training = chosen()
    other = copy.deepcopy(network)
    images, labels = batches(1)[0]
    floats, labels_before = images.float(), labels.clone()
    first = NumpyEngine(network, training).step(images, labels, 0.1, 0)
    assert NumpyEngine(other, training).step(floats, labels, 0.1, 0) == first
    assert torch.equal(floats, images.float())
    assert torch.equal(labels, labels_before)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_numpy_training_that_diverges_has_a_loss_that_is_not_finite() -> None:
    network, training = chosen(loss="mse")
    losses = losses_of(NumpyEngine(network, training), batches(60), [10.0] * 60)
    assert not torch.tensor(losses).isfinite().all()


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_the_network_has_the_new_weights_after_each_step(name: str) -> None:
    network, training = chosen()
    engine = engine_of(name, network, training)
    weights = network.state_dict()
    images, labels = batches(1)[0]
    before = probabilities(network.eval(), images.numpy())
    network.train()
    losses_of(engine, [(images, labels)] * 200, [0.1] * 200)
    after = torch.from_numpy(probabilities(network.eval(), images.numpy()))
    assert not torch.equal(after, torch.from_numpy(before))
    assert (after.argmax(dim=1) == labels).all()
    assert all(torch.equal(network.state_dict()[name], weights[name]) for name in weights)
    loss = torchs_loss(network.train()(images), labels, training).item()
    assert float(engine.step(images, labels, 0.1, 200)) == pytest.approx(loss, rel=1e-4)


RESUMED: list[dict[str, Any]] = [
    {"dropout": (0.3, 0.2), "momentum": 0.9},
    {"dropout": (0.0, 0.5), "name": "adam"},
    {"name": "adamax"},
]


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("numbers", RESUMED, ids=words)
def test_the_state_of_an_engine_resumes_it_to_the_bit(name: str, numbers: dict[str, Any]) -> None:
    network, training = chosen(**numbers)
    data, rates = batches(30), [0.01] * 30
    engine = engine_of(name, network, training)
    losses_of(engine, data[:13], rates[:13])
    saved = copy.deepcopy((network.state_dict(), engine.state()))
    rest = losses_of(engine, data[13:], rates[13:], first=13)

    fresh, _ = chosen(**numbers, initialization="torch")
    resumed = engine_of(name, fresh, training)
    fresh.load_state_dict(saved[0])
    assert set(saved[1]) == set(resumed.state())
    for key, tensor in resumed.state().items():
        tensor.copy_(saved[1][key])
    assert losses_of(resumed, data[13:], rates[13:], first=13) == rest
    for mine, its in zip(network.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def test_numpy_dropout_differs_between_steps_layers_and_seeds() -> None:
    images, labels = batches(1)[0]
    masks = []
    for seed in (0, 1):
        network, training = chosen(dropout=0.5, hidden=(12, 12), seed=seed)
        engine = NumpyEngine(network, training)
        for step in range(2):
            engine.step(images, labels, 0.1, step)
            masks += [dropout.mask.tobytes() for dropout in engine.dropouts]
    assert len(set(masks)) == len(masks) == 8


def test_the_parameters_are_views_of_one_vector() -> None:
    network, _ = chosen(batch_norm=True)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    values_P, gradient_P = flatten_parameters(network)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    values_P.zero_()
    gradient_P.fill_(1)
    assert not any(parameter.any() for parameter in network.parameters())
    assert all((parameter.grad == 1).all() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamax"])
def test_a_gradient_of_zero_leaves_the_parameters_unchanged(name: str) -> None:
    network, training = chosen(name=name)
    before = copy.deepcopy(network.state_dict())
    engine = TorchEngine(network, training, "float32")
    for update in engine.updates:
        with torch.no_grad():
            update(lr=0.1)
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)


def test_no_step_imports_torchs_compiler() -> None:
    """The import takes 3 s. In another process, since torch's own optimisers import it above."""
    program = (
        "import sys\n"
        "from test_engines import batches, chosen, TorchEngine\n"
        "for name in ('sgd', 'adam', 'adamw', 'adamax'):\n"
        "    network, training = chosen(name=name)\n"
        "    TorchEngine(network, training, 'float32').step(*batches(1)[0], 0.1, 0)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, check=False)
    assert done.returncode == 0
