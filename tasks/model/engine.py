"""What the two engines have in common: a step of training on a network's own weights.

Axes: B images of a batch, D pixels of an image, C classes, P parameters.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from pipeline_config.recipe import Training
from tasks.runtime.devices import Precision


class Engine(Protocol):
    """Trains a network in place, batch by batch; the loop around it is `training.fit`'s.

    The network's weights are always up to date, so that it can be scored and saved at any moment.
    """

    def step(self, images_BD: Tensor, labels_B: Tensor, learning_rate: float) -> Tensor | float:
        """Move the weights once along a batch; returns the mean loss before the move.

        Images are uint8, or float32 between 0 and 255 where they were augmented; labels int64.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step besides the weights: the optimiser's vectors.

        The tensors are live: a checkpoint saves them and writes into them.
        """
        ...


def engine_of(network: nn.Sequential, training: Training, precision: Precision) -> Engine:
    """The engine that a recipe names, on the network's device."""
    if training.engine == "numpy":
        from tasks.model.numpy_engine import NumpyEngine

        return NumpyEngine(network, training)
    from tasks.model.torch_engine import TorchEngine

    return TorchEngine(network, training, precision)
