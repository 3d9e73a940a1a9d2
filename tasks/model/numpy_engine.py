"""The NumPy engine: a network trained by hand, without autograd.

A step goes forward through the layers, through the loss, and back through the layers by the chain
rule; then the optimiser moves all parameters at once. Whatever it writes goes into buffers that
live as long as batches keep their size. Axes: B images of a batch, D pixels, C classes.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from pipeline_config.recipe import Training
from tasks.model import network as torch_layers
from tasks.model import numpy_layers as layers
from tasks.model.chance import seed_of
from tasks.model.numpy_layers import Array
from tasks.model.numpy_optimizers import NumpyOptimizer
from tasks.runtime.errors import ConfigError

# Layers that have neither memory nor numbers of their own.
PLAIN: dict[type[nn.Module], type[layers.Layer]] = {
    nn.ReLU: layers.LeakyReLU,
    nn.Tanh: layers.Tanh,
    nn.GELU: layers.GELU,
    nn.LogSoftmax: layers.LogSoftmax,
}


class Loss:
    """The mean loss of a batch against labels as vectors: one-hot, or smoothed."""

    def __init__(self, training: Training, num_classes: int) -> None:
        smoothing = training.label_smoothing
        self.is_mse = training.loss == "mse"
        self.targets_CC = (1 - smoothing) * np.eye(num_classes) + smoothing / num_classes

    def allocate(self, y_BC: Array) -> None:
        """Make the buffer for outputs shaped like `y_BC`."""
        self.targets_CC = self.targets_CC.astype(y_BC.dtype)
        self.dy_BC = np.empty_like(y_BC)

    def __call__(self, y_BC: Array, labels_B: Array) -> tuple[float, Array]:
        """The loss and its gradient; for all but mse, `y_BC` are logarithms of probabilities."""
        targets_BC = self.targets_CC.take(labels_B, axis=0, out=self.dy_BC)
        if self.is_mse:
            wrong_BC = np.subtract(y_BC, targets_BC, out=self.dy_BC)
            loss = float(np.vdot(wrong_BC, wrong_BC)) / wrong_BC.size
            return loss, np.multiply(wrong_BC, 2 / wrong_BC.size, out=self.dy_BC)
        loss = -float(np.vdot(targets_BC, y_BC)) / len(y_BC)
        return loss, np.multiply(targets_BC, -1 / len(y_BC), out=self.dy_BC)


class NumpyEngine:
    """Trains a network's own weights in place; an `Engine` as `engine.py` says.

    Its chance, dropout, is a function of the seed and the number of the step, so there is no
    generator to save. Raises ConfigError for a network that is not in the CPU's memory.
    """

    def __init__(self, network: nn.Sequential, training: Training) -> None:
        device = next(network.parameters()).device
        if device.type != "cpu":
            raise ConfigError(
                "training.engine",
                found=f"numpy, and the network on {device}",
                expected="a network on the CPU, where NumPy computes",
                remedy="Choose --device cpu, or set training.engine to torch.",
            )
        self.seed = training.seed
        self.optimizer = NumpyOptimizer(network, training.optimizer)
        # While a network trains, the temperature is the identity.
        learning = [layer for layer in network if not isinstance(layer, torch_layers.Temperature)]
        self.layers = [_layer_of(layer, self.optimizer) for layer in learning]
        if training.loss == "cross_entropy":  # the negative log-likelihood of this layer's output
            self.layers.append(layers.LogSoftmax())
        linear = [layer for layer in self.layers if isinstance(layer, layers.Linear)]
        linear[0].is_first = True
        self.loss = Loss(training, num_classes=len(linear[-1].bias))
        self.dropouts = [layer for layer in self.layers if isinstance(layer, layers.Dropout)]
        self.num_rows = 0

    def step(self, images_BD: Tensor, labels_B: Tensor, learning_rate: float) -> float:
        """Move the weights once along a batch; returns the mean loss before the move.

        Images are uint8, or float32 between 0 and 255; labels int64. A training that diverges
        gives a loss of inf or nan, without a warning.
        """
        x = images_BD.numpy()
        if len(x) != self.num_rows:
            self._allocate(x)
        if self.dropouts:
            number = int(self.optimizer.num_steps)
            generator = np.random.default_rng(seed_of(self.seed, "dropout", number))
            for dropout in self.dropouts:
                dropout.generator = generator
        with np.errstate(over="ignore", invalid="ignore"):
            for layer in self.layers:
                x = layer.forward(x)
            loss, gradient = self.loss(x, labels_B.numpy())
            if self.optimizer.is_plain:
                # All that follows is linear in these few numbers: scaled here, not in each weight.
                gradient *= learning_rate
            for layer in reversed(self.layers):
                gradient = layer.backward(gradient)
            self.optimizer.step(learning_rate)
        return loss

    def state(self) -> dict[str, Tensor]:
        """The optimiser's vectors and `num_steps`, live: writing into them resumes exactly."""
        return self.optimizer.state()

    def _allocate(self, images_BD: Array) -> None:
        """Make all buffers for batches of this size: also for an epoch's smaller last one."""
        y = np.empty(images_BD.shape, self.optimizer.values_P.dtype)
        for layer in self.layers:
            y = layer.allocate(y)
        self.loss.allocate(y)
        self.num_rows = len(images_BD)


def _layer_of(layer: nn.Module, optimizer: NumpyOptimizer) -> layers.Layer:
    """The NumPy layer of a torch layer, on the same memory; KeyError for one that has none."""
    match layer:
        case torch_layers.Normalize():
            return layers.Normalize(layer.mean.numpy(), layer.std.numpy())
        case nn.Linear():
            return layers.Linear(*optimizer.views(layer))
        case nn.BatchNorm1d():
            norm = layers.BatchNorm(*optimizer.views(layer))
            mean, variance, num_batches = (buffer.numpy() for buffer in layer.buffers())
            norm.running = mean, variance, num_batches
            return norm
        case nn.LeakyReLU():
            return layers.LeakyReLU(layer.negative_slope)
        case nn.Dropout():
            return layers.Dropout(layer.p)
        case _:
            return PLAIN[type(layer)]()
