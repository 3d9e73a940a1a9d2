"""The torch engine: autograd, on any device, in the precision of its matrix products.

Axes: B images of a batch, D pixels of an image, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline_config.recipe import Training
from tasks.model.chance import seed_of
from tasks.model.optimizers import FlatOptimizer
from tasks.model.scoring import loss_of
from tasks.runtime.devices import Precision


class TorchEngine:
    """Trains a network in place with autograd; see `engine.Engine`."""

    def __init__(self, network: nn.Sequential, training: Training, precision: Precision) -> None:
        self.training = training
        self.precision = precision
        self.optimizer = FlatOptimizer(network, training.optimizer)
        last = max(place for place, layer in enumerate(network) if isinstance(layer, nn.Linear))
        self.until_logits, self.behind = network[: last + 1], network[last + 1 :]
        self.has_dropout = any(isinstance(layer, nn.Dropout) for layer in network)

    def step(self, images_BD: Tensor, labels_B: Tensor, learning_rate: float) -> Tensor:
        """Move the weights once along a batch; returns the mean loss before the move."""
        if self.has_dropout:
            # Its mask is drawn from torch's own generator, on the CPU put back by `fit` at the end.
            number = int(self.optimizer.num_steps)
            torch.manual_seed(seed_of(self.training.seed, "dropout", number))
        loss = loss_of(self._outputs(images_BD), labels_B, self.training)
        self.optimizer.zero_gradient()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(learning_rate)
        return loss.detach()

    def _outputs(self, images_BD: Tensor) -> Tensor:
        """The network's outputs in float32; in between, bfloat16 where the machine has it.

        What stands behind the last matrix product is computed in float32 as well.
        """
        is_mixed = self.precision == "bfloat16"
        with torch.autocast(images_BD.device.type, torch.bfloat16, enabled=is_mixed):
            logits_BC = self.until_logits(images_BD)
        outputs: Tensor = self.behind(logits_BC.float() if is_mixed else logits_BC)
        return outputs

    def state(self) -> dict[str, Tensor]:
        """The optimiser's vectors, live."""
        return self.optimizer.state()
