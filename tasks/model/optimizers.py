"""SGD, Adam, AdamW and Adamax, each a few lines over one flat vector of all parameters.

Ours and not `torch.optim`, for two reasons: a student can read the whole update, and the first step
of a torch optimiser imports torch's compiler, 3 s that a short training does not have. The tests
hold each against torch's. P is the number of parameters; matrices come first, so that weight decay,
which spares biases and batch norm, is one slice.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline_config.recipe import Optimizer


class FlatOptimizer:
    """The parameters of a network as one vector, and the recipe's way to step along its gradient.

    Every parameter and its gradient become views into `values_P` and `gradient_P`.
    """

    def __init__(self, network: nn.Module, choice: Optimizer) -> None:
        parameters = sorted(network.parameters(), key=lambda parameter: parameter.ndim <= 1)
        self.choice = choice
        self.values_P = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient_P = torch.zeros_like(self.values_P)
        self.first_P = torch.zeros_like(self.values_P)
        self.second_P = torch.zeros_like(self.values_P)
        self.num_steps = 0
        self.num_decayed = sum(p.numel() for p in parameters if p.ndim > 1)
        start = 0
        for parameter in parameters:
            rows = slice(start, start + parameter.numel())
            parameter.data = self.values_P[rows].view_as(parameter)
            parameter.grad = self.gradient_P[rows].view_as(parameter)
            start = rows.stop

    def zero_gradient(self) -> None:
        """Forget the last batch; the next `backward` adds into the same vector."""
        self.gradient_P.zero_()

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the parameters by one update; weight decay is L2, but decoupled for AdamW."""
        self.num_steps += 1
        decayed = slice(0, self.num_decayed)
        decay = self.choice.weight_decay
        if decay and self.choice.name == "adamw":
            self.values_P[decayed].mul_(1 - learning_rate * decay)
        elif decay:
            self.gradient_P[decayed].add_(self.values_P[decayed], alpha=decay)
        if self.choice.name == "sgd":
            self._sgd(learning_rate)
        elif self.choice.name == "adamax":
            self._adamax(learning_rate)
        else:
            self._adam(learning_rate)

    def _sgd(self, learning_rate: float) -> None:
        """Gradient descent with heavy-ball momentum (Polyak 1964; Sutskever et al. 2013, eq. 1)."""
        if not self.choice.momentum:
            self.values_P.add_(self.gradient_P, alpha=-learning_rate)
            return
        self.first_P.mul_(self.choice.momentum).add_(self.gradient_P)
        self.values_P.add_(self.first_P, alpha=-learning_rate)

    def _adam(self, learning_rate: float) -> None:
        """Kingma and Ba 2015, algorithm 1, with both bias corrections."""
        beta1, beta2 = self.choice.betas
        self.first_P.lerp_(self.gradient_P, 1 - beta1)
        self.second_P.mul_(beta2).addcmul_(self.gradient_P, self.gradient_P, value=1 - beta2)
        correction1 = 1 - beta1**self.num_steps
        correction2 = 1 - beta2**self.num_steps
        spread_P = self.second_P.sqrt().div_(correction2**0.5).add_(self.choice.epsilon)
        self.values_P.addcdiv_(self.first_P, spread_P, value=-learning_rate / correction1)

    def _adamax(self, learning_rate: float) -> None:
        """Kingma and Ba 2015, algorithm 2; epsilon keeps a parameter that never moved from 0/0."""
        beta1, beta2 = self.choice.betas
        self.first_P.lerp_(self.gradient_P, 1 - beta1)
        size_P = self.gradient_P.abs().add_(self.choice.epsilon)
        torch.maximum(self.second_P.mul_(beta2), size_P, out=self.second_P)
        correction1 = 1 - beta1**self.num_steps
        self.values_P.addcdiv_(self.first_P, self.second_P, value=-learning_rate / correction1)
