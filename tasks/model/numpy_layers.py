"""The layers of the NumPy engine: forward and backward by hand, in buffers made once.

In the code `x` is a layer's input and `y` its output; `dx` and `dy` are the loss's derivatives by
them. No layer writes into its input; going back, it may overwrite the `dy` that it is handed.
Axes: B images of a batch, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.runtime.errors import ConfigError

# Of the network's dtype: float32, or float64 where the two engines are held against each other.
Array: TypeAlias = NDArray[Any]


class Layer:
    """A function of a batch, one row an image, and its derivative.

    What stands here suits a function of each number by itself, which sets `y` and `dydx`.
    """

    def allocate(self, x: Array) -> Array:
        """Make the buffers for inputs shaped like `x`; returns the one for outputs."""
        self.y, self.dydx = np.empty_like(x), np.empty_like(x)
        return self.y

    def forward(self, x: Array) -> Array:
        """`y` for `x`, in a buffer of the layer's own."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """`dx` for the `x` of the last `forward`."""
        return np.multiply(dy, self.dydx, out=dy)


class LearningLayer(Layer):
    """A layer with weight and bias; `backward` writes their gradient to `dweight` and `dbias`."""

    def __init__(self, weight: Array, bias: Array, dweight: Array, dbias: Array) -> None:
        self.weight, self.bias = weight, bias
        self.dweight, self.dbias = dweight, dbias


class Normalize(Layer):
    """(pixels − mean) / std; pixels do not learn, so the way back ends here."""

    def __init__(self, mean: Array, std: Array) -> None:
        self.mean, self.std = mean, std

    def forward(self, x: Array) -> Array:
        """uint8 or float (B, I) → float (B, I)."""
        np.copyto(self.y, x)
        if mean := self.mean.item():
            np.subtract(self.y, mean, out=self.y)
        if (std := self.std.item()) != 1:
            np.divide(self.y, std, out=self.y)
        return self.y

    def backward(self, dy: Array) -> Array:
        """Whatever it is handed."""
        return dy


class Linear(LearningLayer):
    """y = x·Wᵀ + b with W (O, I), as torch names it; in memory column by column, as its gradient.

    `np.dot` and not `@`: it has the outer product of a batch of one in a fifth of the time.
    """

    is_first = False  # then nothing before it learns, and the dearest product can be left out

    def allocate(self, x: Array) -> Array:
        """Buffers for `y` and `dx`."""
        self.y, self.dx = np.empty((len(x), len(self.bias)), x.dtype), np.empty_like(x)
        return self.y

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, O)."""
        self.x = x
        np.dot(x, self.weight.T, out=self.y)
        return np.add(self.y, self.bias, out=self.y)

    def backward(self, dy: Array) -> Array:
        """(B, O) → (B, I); the first layer gives `dy` back."""
        np.dot(self.x.T, dy, out=self.dweight.T)
        np.add.reduce(dy, axis=0, out=self.dbias)
        return dy if self.is_first else np.dot(dy, self.weight, out=self.dx)


class BatchNorm(LearningLayer):
    """Each feature to mean 0 and variance 1 over the batch, then times weight plus bias.

    Ioffe and Szegedy 2015, algorithm 1. `running` are the mean and the unbiased variance for
    scoring, and the number of batches, as torch keeps them. A batch of one row is a ConfigError.
    """

    running: tuple[Array, Array, Array]
    epsilon, momentum = 1e-5, 0.1

    def allocate(self, x: Array) -> Array:
        """Buffers for `y` and for `normal`, which is `x` normalized."""
        if len(x) == 1:
            raise ConfigError(
                "training.batch_size",
                found="a batch of one row, in a network with batch norm",
                expected="at least two rows, for a variance",
                remedy="Raise training.batch_size or set model.batch_norm to false.",
            )
        self.y, self.normal = np.empty_like(x), np.empty_like(x)
        return self.y

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I)."""
        mean = np.add.reduce(x, axis=0) / len(x)
        np.subtract(x, mean, out=self.normal)
        np.multiply(self.normal, self.normal, out=self.y)
        squares = np.add.reduce(self.y, axis=0)
        self._remember(mean, squares / (len(x) - 1))
        self.std: Array = np.sqrt(squares / len(x) + self.epsilon)
        np.divide(self.normal, self.std, out=self.normal)
        np.multiply(self.normal, self.weight, out=self.y)
        return np.add(self.y, self.bias, out=self.y)

    def _remember(self, mean: Array, variance: Array) -> None:
        """Move the running statistics a tenth of the way."""
        running_mean, running_variance, num_batches = self.running
        running_mean += self.momentum * (mean - running_mean)
        running_variance += self.momentum * (variance - running_variance)
        num_batches += 1

    def backward(self, dy: Array) -> Array:
        """(B, I) → (B, I); mean and variance depend on every row, hence the two corrections."""
        np.multiply(dy, self.normal, out=self.y)  # the output has served: its buffer is free
        np.add.reduce(self.y, axis=0, out=self.dweight)
        np.add.reduce(dy, axis=0, out=self.dbias)
        np.subtract(dy, self.dbias / len(dy), out=dy)
        np.multiply(self.normal, self.dweight / len(dy), out=self.normal)
        np.subtract(dy, self.normal, out=dy)
        return np.multiply(dy, self.weight / self.std, out=dy)


class LeakyReLU(Layer):
    """x where it is positive, slope·x elsewhere; ReLU is the one with slope 0."""

    def __init__(self, slope: float = 0.0) -> None:
        self.slope = slope

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I)."""
        np.greater(x, 0, out=self.dydx)
        if self.slope:
            np.maximum(self.dydx, self.slope, out=self.dydx)
        return np.multiply(x, self.dydx, out=self.y)


class Tanh(Layer):
    """tanh(x), whose derivative is 1 − tanh²(x)."""

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I)."""
        np.tanh(x, out=self.y)
        np.multiply(self.y, self.y, out=self.dydx)
        np.subtract(1, self.dydx, out=self.dydx)
        return self.y


class GELU(Layer):
    """x·Φ(x), Φ the normal distribution function, exactly (Hendrycks and Gimpel 2016)."""

    def __init__(self) -> None:
        from scipy.special import ndtr

        self.distribution = ndtr

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I); the derivative is Φ(x) + x·φ(x), φ the normal density."""
        np.exp(-0.5 * x * x, out=self.dydx)
        np.multiply(self.dydx, x / math.sqrt(2 * math.pi), out=self.dydx)
        self.distribution(x, out=self.y)
        np.add(self.dydx, self.y, out=self.dydx)
        return np.multiply(x, self.y, out=self.y)


class Dropout(Layer):
    """Zeroes each number with a probability and scales the others up: the expectation stays.

    Srivastava et al. 2014. `generator` is set anew for each step.
    """

    generator: Generator

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I)."""
        self.generator.random(out=self.dydx, dtype=self.dydx.dtype)
        np.greater_equal(self.dydx, self.probability, out=self.dydx)
        np.divide(self.dydx, 1 - self.probability, out=self.dydx)
        return np.multiply(x, self.dydx, out=self.y)


class LogSoftmax(Layer):
    """x − log Σ exp(x) over a row; its largest is taken off first, against overflow."""

    def allocate(self, x: Array) -> Array:
        """Buffers for `y`, for the softmax and for one number a row."""
        self.y, self.softmax = np.empty_like(x), np.empty_like(x)
        self.row = np.empty((len(x), 1), x.dtype)
        return self.y

    def forward(self, x: Array) -> Array:
        """(B, I) → (B, I)."""
        np.maximum.reduce(x, axis=1, keepdims=True, out=self.row)
        np.subtract(x, self.row, out=self.y)
        np.exp(self.y, out=self.softmax)
        np.add.reduce(self.softmax, axis=1, keepdims=True, out=self.row)
        np.divide(self.softmax, self.row, out=self.softmax)
        return np.subtract(self.y, np.log(self.row, out=self.row), out=self.y)

    def backward(self, dy: Array) -> Array:
        """(B, I) → (B, I)."""
        np.add.reduce(dy, axis=1, keepdims=True, out=self.row)
        np.multiply(self.softmax, self.row, out=self.softmax)
        return np.subtract(dy, self.softmax, out=dy)
