"""SGD, Adam, AdamW and Adamax in NumPy: the rules of `optimizers.py`, written a second time.

Twice on purpose: the two engines share no arithmetic, so that each is a proof of the other. P is
the number of parameters; matrices come first, so that weight decay, which spares biases and batch
norm, is one slice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_config.recipe import Optimizer
from tasks.model.numpy_layers import Array


class NumpyOptimizer:
    """The parameters of a network as one vector, and the recipe's way to step along its gradient.

    Torch's parameters become views into `values_P`, so a network is always up to date. A matrix
    lies there column by column, so that the dearest product, images × errors, reads and writes
    everything in the order in which it lies. Of the gradient nothing is kept: a step uses its
    memory for what it works out on the way.
    """

    def __init__(self, network: nn.Module, choice: Optimizer) -> None:
        parameters = sorted(network.parameters(), key=lambda parameter: parameter.ndim <= 1)
        self.choice = choice
        values_P = torch.cat([parameter.detach().t().flatten() for parameter in parameters])
        self.values_P: Array = values_P.numpy()
        self.gradient_P, self.work_P = np.zeros_like(self.values_P), np.empty_like(self.values_P)
        self.first_P, self.second_P = np.zeros_like(self.values_P), np.zeros_like(self.values_P)
        self.num_steps = np.zeros((), np.int64)
        # Plain gradient descent: `gradient_P` then arrives multiplied by the learning rate.
        self.is_plain = choice.name == "sgd" and not (choice.momentum or choice.weight_decay)
        self.num_decayed = sum(p.numel() for p in parameters if p.ndim > 1)
        self._views: dict[Tensor, tuple[Array, Array]] = {}
        start = 0
        for parameter in parameters:
            rows = slice(start, start + parameter.numel())
            columns = parameter.t().shape
            parameter.data = values_P[rows].view(columns).t()
            gradient = self.gradient_P[rows].reshape(columns).T
            self._views[parameter] = (parameter.detach().numpy(), gradient)
            start = rows.stop

    def views(self, layer: nn.Linear | nn.BatchNorm1d) -> tuple[Array, Array, Array, Array]:
        """Weight and bias of a layer, then the gradients by them: views into the two vectors."""
        weight, dweight = self._views[layer.weight]
        bias, dbias = self._views[layer.bias]
        return weight, bias, dweight, dbias

    def state(self) -> dict[str, Tensor]:
        """The vectors that this optimiser remembers, and the number of its steps; all live."""
        remembered = {"num_steps": self.num_steps}
        if self.choice.name != "sgd" or self.choice.momentum:
            remembered["first_P"] = self.first_P
        if self.choice.name != "sgd":
            remembered["second_P"] = self.second_P
        return {name: torch.from_numpy(array) for name, array in remembered.items()}

    def step(self, learning_rate: float) -> None:
        """Move the parameters by one update; weight decay is L2, but decoupled for AdamW."""
        self.num_steps += 1
        if self.is_plain:
            self.values_P -= self.gradient_P
            return
        decay = self.choice.weight_decay
        if decay:
            matrices, work = self.values_P[: self.num_decayed], self.work_P[: self.num_decayed]
            if self.choice.name == "adamw":
                matrices *= 1 - learning_rate * decay
            else:
                np.multiply(matrices, decay, out=work)
                self.gradient_P[: self.num_decayed] += work
        if self.choice.name == "sgd":
            self._sgd(learning_rate)
        elif self.choice.name == "adamax":
            self._adamax(learning_rate)
        else:
            self._adam(learning_rate)

    def _sgd(self, learning_rate: float) -> None:
        """Heavy-ball momentum, or Nesterov's (Sutskever et al. 2013, eq. 3 and 4, torch's form)."""
        momentum, direction = self.choice.momentum, self.gradient_P
        if momentum:
            self.first_P *= momentum
            self.first_P += self.gradient_P
            direction = self.first_P
        if self.choice.nesterov:
            np.multiply(self.first_P, momentum, out=self.work_P)
            direction = np.add(self.work_P, self.gradient_P, out=self.gradient_P)
        self.values_P -= np.multiply(direction, learning_rate, out=self.gradient_P)

    def _adam(self, learning_rate: float) -> None:
        """Kingma and Ba 2015, algorithm 1, with the corrections folded as their section 2 ends."""
        beta2 = self.choice.betas[1]
        num_steps = int(self.num_steps)
        self._move_first()
        np.multiply(self.gradient_P, self.gradient_P, out=self.work_P)
        self.work_P *= 1 - beta2
        self.second_P *= beta2
        self.second_P += self.work_P
        correction1 = 1 - self.choice.betas[0] ** num_steps
        correction2 = (1 - beta2**num_steps) ** 0.5
        np.sqrt(self.second_P, out=self.work_P)
        self.work_P += self.choice.epsilon * correction2
        np.divide(self.first_P, self.work_P, out=self.work_P)
        self.work_P *= learning_rate * correction2 / correction1
        self.values_P -= self.work_P

    def _adamax(self, learning_rate: float) -> None:
        """Kingma and Ba 2015, algorithm 2; epsilon keeps a parameter that never moved from 0/0."""
        beta1, beta2 = self.choice.betas
        self._move_first()
        np.abs(self.gradient_P, out=self.work_P)
        self.work_P += self.choice.epsilon
        self.second_P *= beta2
        np.maximum(self.second_P, self.work_P, out=self.second_P)
        np.divide(self.first_P, self.second_P, out=self.work_P)
        self.work_P *= learning_rate / (1 - beta1 ** int(self.num_steps))
        self.values_P -= self.work_P

    def _move_first(self) -> None:
        """Move the mean of the gradients a step of 1 − beta1 towards the newest."""
        np.subtract(self.gradient_P, self.first_P, out=self.work_P)
        self.work_P *= 1 - self.choice.betas[0]
        self.first_P += self.work_P
