"""The NumPy engine: a network trained by hand, without autograd.

A step goes forward through the layers to the loss L, and back through them by the chain rule; then
the optimiser updates the parameters. No arithmetic is shared with the torch engine, so that each
engine is a check of the other.

In the code `x` is the input of a layer and `y` its output, and `dx` stands for dL/dx.

Axes: B images of a batch, D pixels, I inputs and O outputs of a layer, C classes, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline_config.recipe import Training
from tasks.model.network import flatten_parameters, seed_of
from tasks.runtime.errors import ConfigError

# float32, or float64 where the two engines are compared.
Array: TypeAlias = NDArray[Any]


@dataclass
class Linear:
    """A weight W (O, I) and a bias b (O,), with their gradients.

    `np.dot` takes a fifth of the time of `@` for a batch of one image.
    """

    weight: Array
    bias: Array
    dweight: Array
    dbias: Array
    is_first = False  # then dx, the most expensive product, is not needed

    def forward(self, x: Array) -> Array:
        """Return y = x·Wᵀ + b."""
        self.x = x
        y: Array = np.dot(x, self.weight.T)
        return y + self.bias

    def backward(self, dy: Array) -> Array:
        """Store dW = dyᵀ·x and db = Σ dy over the batch; return dx = dy·W."""
        np.dot(self.x.T, dy, out=self.dweight.T)  # dWᵀ, since W is stored column by column
        np.add.reduce(dy, axis=0, out=self.dbias)
        return dy if self.is_first else np.dot(dy, self.weight)


class Masked:
    """A layer y = x·m, elementwise, with a mask m (B, I) that `forward` computes anew."""

    mask: Array

    def backward(self, dy: Array) -> Array:
        """Return dx = dy·m."""
        return dy * self.mask


@dataclass
class LeakyReLU(Masked):
    """Leaky ReLU (Maas et al. 2013), which is ReLU for a slope of 0."""

    slope: float

    def forward(self, x: Array) -> Array:
        """Return y = x where x > 0, else slope·x."""
        self.mask = np.maximum(x > 0, self.slope, dtype=x.dtype)
        return x * self.mask


@dataclass
class Dropout(Masked):
    """Srivastava et al. 2014. The expectation of y is x. `generator` is set before each step."""

    probability: float
    generator: np.random.Generator = field(init=False)

    def forward(self, x: Array) -> Array:
        """Return y = 0 with probability p, else x / (1 − p)."""
        is_kept = self.generator.random(x.shape, x.dtype) >= self.probability
        self.mask = np.divide(is_kept, 1 - self.probability, dtype=x.dtype)
        return x * self.mask


class LogSoftmax:
    """The logarithms of the softmax over the classes."""

    def forward(self, x: Array) -> Array:
        """Return y = x − log Σ exp(x). The largest x is subtracted first: exp cannot overflow."""
        x = x - np.maximum.reduce(x, axis=1, keepdims=True)
        powers = np.exp(x)
        total = np.add.reduce(powers, axis=1, keepdims=True)
        self.softmax = powers / total
        return x - np.log(total)

    def backward(self, dy: Array) -> Array:
        """Return dx = dy − softmax(x)·Σ dy."""
        return dy - self.softmax * np.add.reduce(dy, axis=1, keepdims=True)


Layer: TypeAlias = Linear | LeakyReLU | Dropout | LogSoftmax


def loss_of_batch(y: Array, targets: Array, *, is_mse: bool) -> tuple[float, Array]:
    """Return the mean loss L of a batch and dy, for targets t (B, C).

    mse: L = Σ (y − t)² / BC, dy = 2·(y − t) / BC. Otherwise y are log-probabilities, and
    L = −Σ t·y / B, dy = −t / B.
    """
    if is_mse:
        errors = y - targets
        return float(np.vdot(errors, errors)) / errors.size, errors * (2 / errors.size)
    return -float(np.vdot(targets, y)) / len(y), targets * (-1 / len(y))


class NumpyEngine:
    """Trains a network in place, batch by batch. torch sees the weights after each step.

    Raises ConfigError for a recipe that needs what this engine does not have.
    """

    def __init__(self, network: nn.Sequential, training: Training) -> None:
        _refuse_unsupported(network, training)
        self.seed, self.choice = training.seed, training.optimizer
        self.is_plain_sgd = self.choice.name == "sgd" and not self.choice.momentum
        self.values_P, self.gradient_P = (vector.numpy() for vector in flatten_parameters(network))
        self.first_P, self.second_P = np.zeros_like(self.values_P), np.zeros_like(self.values_P)
        self.mean, self.std = (network[0].get_buffer(name).item() for name in ("mean", "std"))
        self.layers = [layer for each in network if (layer := _layer_of(each))]
        linear = [layer for layer in self.layers if isinstance(layer, Linear)]
        linear[0].is_first = True
        self.dropouts = [layer for layer in self.layers if isinstance(layer, Dropout)]
        if training.loss == "cross_entropy":
            self.layers.append(LogSoftmax())
        self.is_mse, num_classes = training.loss == "mse", len(linear[-1].bias)
        # One-hot labels t, or smoothed ones: (1 − ε)·t + ε/C.
        smoothing = training.label_smoothing
        targets_CC = (1 - smoothing) * np.eye(num_classes) + smoothing / num_classes
        self.targets_CC = targets_CC.astype(self.values_P.dtype)

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's vectors: a checkpoint saves them and writes into them."""
        return {"first": torch.from_numpy(self.first_P), "second": torch.from_numpy(self.second_P)}

    def step(self, images_BD: Tensor, labels_B: Tensor, learning_rate: float, step: int) -> float:
        """Update the weights once; returns the mean loss before the update.

        Images are uint8, or float32 between 0 and 255; labels int64. `step` counts from 0. The loss
        of a diverging training is inf or nan, without a warning.
        """
        if self.dropouts:
            generator = np.random.default_rng(seed_of(self.seed, "dropout", step))
            for dropout in self.dropouts:
                dropout.generator = generator
        pixels = images_BD.numpy().astype(self.values_P.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            x = (pixels - self.mean) / self.std
            for layer in self.layers:
                x = layer.forward(x)
            targets = self.targets_CC.take(labels_B.numpy(), axis=0)
            loss, dy = loss_of_batch(x, targets, is_mse=self.is_mse)
            if self.is_plain_sgd:
                dy *= learning_rate  # g is linear in dy: η times C numbers here instead of P
            for layer in reversed(self.layers):
                dy = layer.backward(dy)
            self._update(learning_rate, step + 1)
        return loss

    def _update(self, rate: float, t: int) -> None:
        """Update the parameters θ along the gradient g in step t, which counts from 1."""
        values, g, m, v = self.values_P, self.gradient_P, self.first_P, self.second_P
        (beta1, beta2), epsilon = self.choice.betas, self.choice.epsilon
        if self.is_plain_sgd:
            # θ ← θ − η·g, where g is multiplied by η already.
            values -= g
            return
        if self.choice.name == "sgd":
            # Polyak 1964: m ← μ·m + g, θ ← θ − η·m.
            m *= self.choice.momentum
            m += g
            values -= rate * m
            return
        # Kingma and Ba 2015: m ← m + (1 − β₁)·(g − m), then algorithm 1 or 2.
        m += (1 - beta1) * (g - m)
        v *= beta2
        if self.choice.name == "adam":
            # As at the end of section 2: v ← β₂·v + (1 − β₂)·g²,
            # θ ← θ − η·√(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε·√(1 − β₂ᵗ)).
            root = (1 - beta2**t) ** 0.5
            v += (1 - beta2) * g**2
            values -= rate * root / (1 - beta1**t) * (m / (np.sqrt(v) + epsilon * root))
        else:
            # Adamax, with ε against 0/0: v ← max(β₂·v, |g| + ε), θ ← θ − η / (1 − β₁ᵗ) · m / v.
            np.maximum(v, np.abs(g) + epsilon, out=v)
            values -= rate / (1 - beta1**t) * (m / v)


def _layer_of(layer: nn.Module) -> Layer | None:
    """Return the NumPy layer on the memory of a torch layer; None for the first and the last."""
    match layer:
        case nn.Linear():
            tensors = (layer.weight.data, layer.bias.data, layer.weight.grad, layer.bias.grad)
            return Linear(*(tensor.numpy() for tensor in tensors if tensor is not None))
        case nn.ReLU():
            return LeakyReLU(0.0)
        case nn.LeakyReLU():
            return LeakyReLU(layer.negative_slope)
        case nn.Dropout():
            return Dropout(layer.p)
        case nn.LogSoftmax():
            return LogSoftmax()
    return None


def _refuse_unsupported(network: nn.Sequential, training: Training) -> None:
    """Raise ConfigError, with the recipe's key, for what this engine does not have."""
    kinds, optimizer = {type(layer) for layer in network}, training.optimizer
    needed = {
        ("model.batch_norm", "false"): nn.BatchNorm1d in kinds,
        ("model.activation", "relu or leaky_relu"): kinds & {nn.Tanh, nn.GELU},
        ("training.optimizer.name", "sgd, adam or adamax"): optimizer.name == "adamw",
        ("training.optimizer.weight_decay", "0"): optimizer.weight_decay,
        ("training.optimizer.nesterov", "false"): optimizer.nesterov,
    }
    for key, values in (choice for choice, is_needed in needed.items() if is_needed):
        found = "a value that the NumPy engine does not support"
        remedy = f"Set training.engine to torch, or {key} to {values}."
        raise ConfigError(key, found=found, expected=values, remedy=remedy)
