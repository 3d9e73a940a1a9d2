"""The derivative of each NumPy layer against finite differences and torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tasks.model.numpy_engine import (
    Array,
    Dropout,
    Layer,
    LeakyReLU,
    Linear,
    LogSoftmax,
    loss_of_batch,
)

HALF_STEP = 1e-6


@dataclass
class Case:
    """A layer on its input, weights for its output, and torch's function of the same."""

    layer: Layer
    x: Array
    weights: Array
    torchs: Callable[..., Tensor]

    @property
    def variables(self) -> list[Array]:
        """The input, and the parameters if there are any."""
        learns = isinstance(self.layer, Linear)
        return [self.x, *([self.layer.weight, self.layer.bias] if learns else [])]

    def weighted_sum(self) -> float:
        """A number that depends on every output."""
        if isinstance(self.layer, Dropout):
            self.layer.generator = np.random.default_rng(0)
        return float((self.layer.forward(self.x) * self.weights).sum())

    def gradients(self) -> list[Array]:
        """The gradients of `weighted_sum` by the variables."""
        self.weighted_sum()
        dx = self.layer.backward(self.weights)
        learns = isinstance(self.layer, Linear)
        return [dx, *([self.layer.dweight, self.layer.dbias] if learns else [])]

    def autograds(self) -> list[Array]:
        """The same by torch."""
        tensors = [torch.from_numpy(values).clone().requires_grad_() for values in self.variables]
        self.torchs(*tensors).mul(torch.from_numpy(self.weights)).sum().backward()
        return [tensor.grad.numpy() for tensor in tensors if tensor.grad is not None]


def differences(value: Callable[[], float], variable: Array) -> Array:
    """Return the central differences of `value` by every number in `variable`."""
    gradient = np.empty_like(variable)
    for place, here in np.ndenumerate(variable):
        variable[place] = here + HALF_STEP
        above = value()
        variable[place] = here - HALF_STEP
        gradient[place] = (above - value()) / (2 * HALF_STEP)
        variable[place] = here
    return gradient


def linear(width: int, outputs: int, seed: int) -> Linear:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(width, outputs)).T, rng.normal(size=outputs)
    return Linear(weight, bias, np.empty_like(weight), np.empty_like(bias))


def case(name: str, rows: int, width: int, outputs: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width))
    x += np.copysign(0.01, x)  # at its kink at zero, ReLU has no derivative
    dropout = Dropout(0.4)
    kinds: dict[str, tuple[Layer, Callable[..., Tensor]]] = {
        "linear": (linear(width, outputs, seed), functional.linear),
        "relu": (LeakyReLU(0.0), functional.relu),
        "leaky_relu": (LeakyReLU(0.1), lambda x: functional.leaky_relu(x, 0.1)),
        "dropout": (dropout, lambda x: x * torch.from_numpy(dropout.mask)),
        "log_softmax": (LogSoftmax(), lambda x: functional.log_softmax(x, dim=1)),
    }
    layer, torchs = kinds[name]
    return Case(layer, x, rng.normal(size=(rows, outputs if name == "linear" else width)), torchs)


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "dropout", "log_softmax"])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_gradients(name: str, rows: int, width: int, outputs: int, seed: int) -> None:
    one = case(name, rows, width, outputs, seed)
    gradients = [gradient.copy() for gradient in one.gradients()]
    for gradient, autograd, variable in zip(gradients, one.autograds(), one.variables, strict=True):
        np.testing.assert_allclose(gradient, autograd, rtol=1e-9, atol=1e-10)
        by_differences = differences(one.weighted_sum, variable)
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_mse", [True, False])
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 1000))
def test_the_gradient_of_a_loss(is_mse: bool, rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, targets = rng.normal(size=(rows, classes)), rng.dirichlet(np.ones(classes), rows)
    gradient = loss_of_batch(y, targets, is_mse=is_mse)[1]
    by_differences = differences(lambda: loss_of_batch(y, targets, is_mse=is_mse)[0], y)
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-7)


def test_the_first_layer_computes_no_derivative_of_its_input() -> None:
    one = case("linear", 3, 4, 2, seed=0)
    assert isinstance(one.layer, Linear)
    expected = one.gradients()[1].copy()
    one.layer.is_first = True
    assert one.gradients()[0].shape == (3, 2)
    np.testing.assert_array_equal(one.layer.dweight, expected)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation(probability: float) -> None:
    layer = Dropout(probability)
    layer.generator = np.random.default_rng(0)
    y = layer.forward(np.ones((1000, 100), np.float32))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - probability)}
    assert y.mean() == pytest.approx(1, abs=5 * np.sqrt(probability / (1 - probability) / y.size))


def test_log_softmax_of_large_numbers() -> None:
    y = LogSoftmax().forward(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32))
    np.testing.assert_allclose(y, [[0, -1e4], [-np.log(2), -np.log(2)]], rtol=1e-6)
