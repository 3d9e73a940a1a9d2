"""Our optimisers against torch's: the same gradients, the same parameters."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from pipeline_config.recipe import Optimizer
from pipeline_config.recipe_files import load_recipe
from tasks.model.optimizers import FlatOptimizer


def choice(name: str, **numbers: float) -> Optimizer:
    return load_recipe("fast").training.optimizer.model_copy(update={"name": name, **numbers})


def torchs(network: nn.Module, choice: Optimizer) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": choice.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if choice.name == "sgd":
        return torch.optim.SGD(groups, lr=0.1, momentum=choice.momentum, nesterov=choice.nesterov)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}
    return kinds[choice.name](groups, lr=0.1, betas=choice.betas, eps=choice.epsilon)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adam", {}),
        ("adamw", {}),
        ("adamax", {}),
    ],
)
def test_fifty_steps_are_torchs(name: str, numbers: dict, weight_decay: float) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()
    theirs = copy.deepcopy(ours)
    wanted = choice(name, **numbers, weight_decay=weight_decay, epsilon=1e-7)
    flat = FlatOptimizer(ours, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch imports at its first step is deprecated
        other = torchs(theirs, wanted)
        for step in range(50):
            images = torch.randn(16, 5, dtype=torch.float64)
            rate = 0.1 / (1 + step)
            for group in other.param_groups:
                group["lr"] = rate
            flat.zero_gradient()
            other.zero_grad()
            ours(images).square().mean().backward()
            theirs(images).square().mean().backward()
            flat.step(rate)
            other.step()
    for mine, torchs_own in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, torchs_own, rtol=1e-9, atol=1e-12)


def test_the_parameters_are_views_of_one_vector() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    flat = FlatOptimizer(network, choice("sgd"))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    flat.values_P.zero_()
    assert not any(parameter.any() for parameter in network.parameters())


def test_a_parameter_without_gradient_stays_where_it_is() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    for name in ("sgd", "adam", "adamax"):
        flat = FlatOptimizer(network, choice(name, weight_decay=0.0))
        flat.step(0.1)
        assert torch.equal(network.weight, before), name
