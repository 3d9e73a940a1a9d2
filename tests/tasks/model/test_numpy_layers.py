"""Each layer's derivative against finite differences and against torch's autograd."""

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

from pipeline_config.recipe_files import load_recipe
from tasks.model import numpy_layers as layers
from tasks.model.numpy_engine import Loss
from tasks.model.numpy_layers import Array

HALF_STEP = 1e-6


@dataclass
class Case:
    """A layer of ours on its input, what its output is weighed by, and torch's function for it."""

    layer: layers.Layer
    x: Array
    weights: Array
    torchs: Callable[..., Tensor]

    @property
    def variables(self) -> list[Array]:
        """The input, and the parameters where there are any."""
        learns = isinstance(self.layer, layers.LearningLayer)
        return [self.x, *([self.layer.weight, self.layer.bias] if learns else [])]

    def weighed(self) -> float:
        """A number that depends on every output."""
        if isinstance(self.layer, layers.Dropout):
            self.layer.generator = np.random.default_rng(0)
        return float((self.layer.forward(self.x) * self.weights).sum())

    def gradients(self) -> list[Array]:
        """Those of `weighed` by the variables, by hand."""
        self.weighed()
        dx = self.layer.backward(self.weights.copy())
        learns = isinstance(self.layer, layers.LearningLayer)
        return [dx, *([self.layer.dweight, self.layer.dbias] if learns else [])]

    def autograds(self) -> list[Array]:
        """The same by torch."""
        tensors = [torch.from_numpy(values).clone().requires_grad_() for values in self.variables]
        self.torchs(*tensors).mul(torch.from_numpy(self.weights)).sum().backward()
        return [tensor.grad.numpy() for tensor in tensors if tensor.grad is not None]


def differences(value: Callable[[], float], variable: Array) -> Array:
    """The gradient of `value` by every number in `variable`, from both sides of it."""
    gradient = np.empty_like(variable)
    for place, here in np.ndenumerate(variable):
        variable[place] = here + HALF_STEP
        above = value()
        variable[place] = here - HALF_STEP
        gradient[place] = (above - value()) / (2 * HALF_STEP)
        variable[place] = here
    return gradient


def case(name: str, rows: int, width: int, outputs: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width))
    x += np.copysign(0.01, x)  # at its kink at zero, ReLU has no derivative
    bias = rng.normal(size=width)
    layer: layers.Layer
    torchs: Callable[..., Tensor]
    if name == "linear":
        weight, bias = rng.normal(size=(width, outputs)).T, rng.normal(size=outputs)
        layer = layers.Linear(weight, bias, np.empty_like(weight), np.empty_like(bias))
        torchs = functional.linear
    elif name == "batch_norm":
        layer = layers.BatchNorm(
            rng.normal(size=width), bias, np.empty_like(bias), np.empty_like(bias)
        )
        layer.running = np.zeros(width), np.ones(width), np.zeros((), np.int64)

        def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return functional.batch_norm(x, None, None, weight, bias, training=True)
    elif name == "dropout":
        layer = layers.Dropout(0.4)

        def torchs(x: Tensor) -> Tensor:
            return x * torch.from_numpy(layer.dydx)
    else:
        layer, torchs = {
            "relu": (layers.LeakyReLU(), functional.relu),
            "leaky_relu": (layers.LeakyReLU(0.1), lambda x: functional.leaky_relu(x, 0.1)),
            "tanh": (layers.Tanh(), torch.tanh),
            "gelu": (layers.GELU(), functional.gelu),
            "log_softmax": (layers.LogSoftmax(), lambda x: functional.log_softmax(x, dim=1)),
        }[name]
    return Case(layer, x, rng.normal(size=layer.allocate(x).shape), torchs)


@pytest.mark.parametrize(
    "name",
    ["linear", "batch_norm", "relu", "leaky_relu", "tanh", "gelu", "dropout", "log_softmax"],
)
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_gradients(name: str, rows: int, width: int, outputs: int, seed: int) -> None:
    # Batch norm over two rows is a step function but for its epsilon: no differences there.
    one = case(name, rows + 2 * (name == "batch_norm"), width, outputs, seed)
    gradients = [gradient.copy() for gradient in one.gradients()]
    for gradient, autograd, variable in zip(gradients, one.autograds(), one.variables, strict=True):
        np.testing.assert_allclose(gradient, autograd, rtol=1e-9, atol=1e-10)
        by_differences = differences(one.weighed, variable)
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loss", "smoothing"), [("nll", 0.0), ("cross_entropy", 0.2), ("mse", 0)])
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 1000))
def test_the_gradient_of_a_loss(
    loss: str, smoothing: float, rows: int, classes: int, seed: int
) -> None:
    update = {"loss": loss, "label_smoothing": smoothing}
    ours = Loss(load_recipe("fast").training.model_copy(update=update), classes)
    rng = np.random.default_rng(seed)
    y, labels = rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)
    ours.allocate(y)
    gradient = ours(y, labels)[1].copy()
    by_differences = differences(lambda: ours(y, labels)[0], y)
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-7)


def test_the_first_layer_leaves_out_the_product_that_nobody_needs() -> None:
    one = case("linear", 3, 4, 2, seed=0)
    assert isinstance(one.layer, layers.Linear)
    wanted = one.gradients()[1].copy()
    one.layer.is_first = True
    assert one.gradients()[0].shape == (3, 2)
    np.testing.assert_array_equal(one.layer.dweight, wanted)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation(probability: float) -> None:
    layer = layers.Dropout(probability)
    layer.generator = np.random.default_rng(0)
    x = np.ones((1000, 100), np.float32)
    layer.allocate(x)
    y = layer.forward(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - probability)}
    assert y.mean() == pytest.approx(1, abs=5 * np.sqrt(probability / (1 - probability) / y.size))


def test_log_softmax_of_large_numbers() -> None:
    layer = layers.LogSoftmax()
    x = np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)
    layer.allocate(x)
    np.testing.assert_allclose(layer.forward(x), [[0, -1e4], [-np.log(2), -np.log(2)]], rtol=1e-6)
