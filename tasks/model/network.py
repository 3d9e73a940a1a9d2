"""The network: uint8 pixels in, logits out; the normalization is its first layer.

Axes: B images of a batch, D pixels of an image (height × width), C classes, N images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline_config.recipe import Model
from tasks.runtime.errors import RawDataError

SCORE_BATCH = 4096


class Normalize(nn.Module):
    """(pixels − mean) / std in float32, inside the model: serving cannot skew from training."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images_BD: Tensor) -> Tensor:
        """uint8 (B, D) → float32 (B, D)."""
        return torch.sub(images_BD, self.mean).div_(self.std)


class Temperature(nn.Module):
    """Logits divided by a number that is fitted on validation rows after the training.

    Guo et al. 2017, section 4.2. It changes no prediction, only how sure the model is; while the
    network trains it is the identity.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, logits_BC: Tensor) -> Tensor:
        """The logits over the temperature, float (B, C)."""
        return logits_BC if self.training else logits_BC / self.temperature


def build_network(
    model: Model, num_pixels: int, num_classes: int, mean: float, std: float
) -> nn.Sequential:
    """The network of a recipe, before its weights are drawn: uint8 (B, D) → logits (B, C).

    Each hidden layer is Linear, batch norm if asked for, activation, dropout if asked for; the last
    one is Linear, with what `output` asks for behind it, and the temperature.
    """
    layers: list[nn.Module] = [Normalize(mean, std)]
    width = num_pixels
    for hidden, dropout in zip(model.hidden, model.dropout, strict=True):
        layers.append(nn.Linear(width, hidden))
        if model.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(_activation(model))
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = hidden
    layers.append(nn.Linear(width, num_classes))
    if model.output == "log_softmax":
        layers.append(nn.LogSoftmax(dim=1))
    elif model.output == "activation":
        layers.append(_activation(model))
    return nn.Sequential(*layers, Temperature())


def _activation(model: Model) -> nn.Module:
    match model.activation:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU(model.negative_slope)
        case "tanh":
            return nn.Tanh()
        case "gelu":
            return nn.GELU()


@torch.no_grad()
def initialize(network: nn.Sequential, model: Model, seed: int) -> None:
    """Draw the weights of every Linear layer from `seed` alone; always on the CPU.

    `he_normal`: N(0, 2/fan_in), He et al. 2015, eq. 10. `glorot_uniform`:
    U(±√(6/(fan_in+fan_out))), Glorot and Bengio 2010, eq. 16. Both with zero biases. `torch`:
    weights and biases from U(±1/√fan_in), as `torch.nn.Linear` does. `inverse_size_normal`: each
    weight matrix and each bias from N(0, 1/n²), n the number of its elements.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if not isinstance(layer, nn.Linear):
            continue
        if model.initialization == "he_normal":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        elif model.initialization == "glorot_uniform":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        elif model.initialization == "inverse_size_normal":
            for drawn in (layer.weight, layer.bias):
                nn.init.normal_(drawn, std=1 / drawn.numel(), generator=generator)
        else:
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def describe_layers(network: nn.Sequential) -> list[dict[str, object]]:
    """A row a layer: name, shape of its weight (empty where it has none), number of parameters."""
    return [
        {
            "name": type(layer).__name__,
            "shape": list(weight.shape)
            if (weight := getattr(layer, "weight", None)) is not None
            else [],
            "parameters": sum(parameter.numel() for parameter in layer.parameters()),
        }
        for layer in network
    ]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now: on the CPU, each in memory of its own, row by row."""
    kind = torch.contiguous_format
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=kind)
        for name, tensor in tensors.items()
    }


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights and buffers as safetensors: the same weights, the same bytes."""
    # Written by us: the library hides a full disk in an error of its own.
    path.write_bytes(save(copied(weights)))


def load_network(path: Path, model: Model, num_pixels: int, num_classes: int) -> nn.Sequential:
    """The network of a recipe with the weights of a safetensors file, in eval mode on the CPU.

    Raises RawDataError when the file is not safetensors or its tensors are of another network.
    """
    try:
        weights = load_file(path)
        # First without memory: whether there is a network of that size, the file says.
        with torch.device("meta"):
            shape = build_network(model, num_pixels, num_classes, mean=0.0, std=1.0)
        shape.load_state_dict(weights, assign=True)
        network = build_network(model, num_pixels, num_classes, mean=0.0, std=1.0)
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        widths = "-".join(map(str, (num_pixels, *model.hidden, num_classes)))
        raise RawDataError(
            str(path),
            found=" ".join(str(error).split())[:300],
            expected=f"the weights of a {widths} network",
            remedy="Use the recipe that the weights were trained with.",
        ) from error
    return network.eval()


@torch.inference_mode()
def logits_in_batches(network: nn.Module, images_ND: Tensor) -> Iterator[Tensor]:
    """The logits, SCORE_BATCH images at a time, so that memory does not grow with N."""
    for start in range(0, len(images_ND), SCORE_BATCH):
        yield network(images_ND[start : start + SCORE_BATCH]).float()


def probabilities(network: nn.Module, images_ND: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The softmax of the logits: float32 (N, C), rows summing to one."""
    batches = logits_in_batches(network, torch.from_numpy(images_ND))
    return np.concatenate([logits.softmax(dim=1).numpy() for logits in batches])
