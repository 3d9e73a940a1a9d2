"""The torch engine: loss, autograd and torch's optimisers, on any device.

Axes: N rows, B images of a batch, D pixels of an image, C classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd
from torch.utils.data import TensorDataset

from pipeline_config.recipe import Optimizer, Training
from tasks.model.network import SCORE_BATCH, flatten_parameters, logits_of, seed_of
from tasks.runtime.devices import Precision


def loss_of(outputs_BC: Tensor, labels_B: Tensor, training: Training) -> Tensor:
    """Return the mean loss of a batch: nats, or squares of the distance from one-hot labels.

    The outputs are logits for cross_entropy, and log-probabilities for nll.
    """
    if training.loss == "mse":
        target = functional.one_hot(labels_B, outputs_BC.shape[1]).to(outputs_BC.dtype)
        return functional.mse_loss(outputs_BC, target)
    if training.loss == "nll":
        return functional.nll_loss(outputs_BC, labels_B)
    return functional.cross_entropy(outputs_BC, labels_B, label_smoothing=training.label_smoothing)


def score(network: nn.Module, rows: TensorDataset, training: Training) -> tuple[float, float]:
    """Return mean loss (without label smoothing) and accuracy over `rows`, in eval mode."""
    network.eval()
    images_ND, labels_N = rows.tensors
    plain = training.model_copy(update={"label_smoothing": 0.0})
    total, right = 0.0, 0
    pairs = (torch.split(each, SCORE_BATCH) for each in (logits_of(network, images_ND), labels_N))
    for outputs, labels in zip(*pairs, strict=True):
        total += loss_of(outputs, labels, plain).item() * len(labels)
        right += int((outputs.argmax(dim=1) == labels).sum())
    return total / len(rows), right / len(rows)


class TorchEngine:
    """Trains a network in place, batch by batch. Its weights are up to date after each step.

    `precision` is that of the matrix products; weights, losses and updates are float32.
    """

    def __init__(self, network: nn.Sequential, training: Training, precision: Precision) -> None:
        self.training, self.is_mixed = training, precision == "bfloat16"
        last = max(place for place, layer in enumerate(network) if isinstance(layer, nn.Linear))
        self.until_logits, self.behind = network[: last + 1], network[last + 1 :]
        self.has_dropout = any(isinstance(layer, nn.Dropout) for layer in network)
        values_P, self.gradient_P = flatten_parameters(network)
        self.first_P, self.second_P = torch.zeros_like(values_P), torch.zeros_like(values_P)
        self.num_steps = torch.zeros(2, device=values_P.device)
        num_weights = sum(each.numel() for each in network.parameters() if each.ndim > 1)
        vectors = (values_P, self.gradient_P, self.first_P, self.second_P)
        parts = zip(*(vector.tensor_split([num_weights]) for vector in vectors), strict=True)
        # Weight decay does not apply to the second part, biases and batch norm.
        decays = (training.optimizer.weight_decay, 0.0)
        self.updates = [
            _update_of(training.optimizer, decay, num_steps, *part)
            for decay, num_steps, part in zip(decays, self.num_steps, parts, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors: a checkpoint saves them and writes into them."""
        return {"num_steps": self.num_steps, "first": self.first_P, "second": self.second_P}

    def step(self, images_BD: Tensor, labels_B: Tensor, learning_rate: float, step: int) -> Tensor:
        """Update the weights once; returns the mean loss before the update.

        Images are uint8, or float32 between 0 and 255 where they were augmented; labels int64.
        Dropout depends on the seed and the number `step` alone.
        """
        if self.has_dropout:
            # Dropout uses torch's global generator, which `Trainer.fit` restores at the end.
            torch.manual_seed(seed_of(self.training.seed, "dropout", step))
        loss = loss_of(self._outputs(images_BD), labels_B, self.training)
        self.gradient_P.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for update in self.updates:
                update(lr=learning_rate)
        return loss.detach()

    def _outputs(self, images_BD: Tensor) -> Tensor:
        """Return the network's outputs in float32. What follows the last product is float32 too."""
        with torch.autocast(images_BD.device.type, torch.bfloat16, enabled=self.is_mixed):
            logits_BC = self.until_logits(images_BD)
        outputs: Tensor = self.behind(logits_BC.float() if self.is_mixed else logits_BC)
        return outputs


def _update_of(
    choice: Optimizer, weight_decay: float, num_steps: Tensor, *vectors: Tensor
) -> Callable[..., None]:
    """Return the function of `lr` that updates a part of the parameters.

    `vectors` are their values, their gradient and the optimiser's two vectors. The functions of
    `torch.optim` are used: its classes import torch's compiler at their first step, for 3 s.
    """
    optimizers: dict[str, Any] = {"sgd": sgd, "adam": adam, "adamw": adamw, "adamax": adamax}
    update, lists = optimizers[choice.name], [[vector] for vector in vectors]
    shared: dict[str, Any] = {"weight_decay": weight_decay, "maximize": False}
    if choice.name == "sgd":
        shared |= {"momentum": choice.momentum, "nesterov": choice.nesterov, "dampening": 0.0}
        return partial(update, *lists[:3], foreach=False, **shared)
    shared |= {"beta1": choice.betas[0], "beta2": choice.betas[1], "eps": choice.epsilon}
    if choice.name == "adamax":
        return partial(update, *lists, [num_steps], foreach=False, **shared)
    return partial(update, *lists, [], [num_steps], fused=True, amsgrad=False, **shared)
