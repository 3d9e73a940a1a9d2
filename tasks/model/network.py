"""The network: uint8 pixels in, logits out. The normalization is its first layer.

Here are also the files of its weights and of checkpoints, and the seeds of a training.

Axes: B images of a batch, D pixels of an image (height × width), C classes, N images, P parameters.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline_config.recipe import Model
from tasks.runtime.errors import RawDataError

logger = logging.getLogger(__name__)

SCORE_BATCH = 4096
PURPOSES = ("order", "dropout", "warp", "fields")  # of random numbers


class Normalize(nn.Module):
    """(pixels − mean) / std in float32, inside the model, so that serving cannot differ from it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images_BD: Tensor) -> Tensor:
        """Return float32 (B, D) for uint8 (B, D)."""
        return torch.sub(images_BD, self.mean).div_(self.std)


class Temperature(nn.Module):
    """Logits / T, with T > 0 fitted on validation rows after the training, which has T = 1.

    Guo et al. 2017, section 4.2. It changes the confidence and no prediction.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, logits_BC: Tensor) -> Tensor:
        """Return the logits over the temperature, float (B, C)."""
        return logits_BC if self.training else logits_BC / self.temperature


def build_network(
    model: Model, num_pixels: int, num_classes: int, mean: float, std: float
) -> nn.Sequential:
    """Return the network of a recipe, uint8 (B, D) → logits (B, C), with weights not yet drawn.

    Each hidden layer is Linear, batch norm if chosen, activation, dropout if chosen. The last one
    is Linear, followed by the layer that `output` names and by the temperature. The layers' names
    are those of their weights in files.
    """
    layers: dict[str, nn.Module] = {"scaling": Normalize(mean, std)}
    width = num_pixels
    for number, (hidden, dropout) in enumerate(zip(model.hidden, model.dropout, strict=True), 1):
        layers[f"hidden{number}"] = nn.Linear(width, hidden)
        if model.batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(hidden)
        layers[f"activation{number}"] = _activation(model)
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = hidden
    layers["output"] = nn.Linear(width, num_classes)
    if model.output == "log_softmax":
        layers["log_softmax"] = nn.LogSoftmax(dim=1)
    elif model.output == "activation":
        layers["output_activation"] = _activation(model)
    layers["calibration"] = Temperature()
    return nn.Sequential(OrderedDict(layers))


def _activation(model: Model) -> nn.Module:
    if model.activation == "leaky_relu":
        return nn.LeakyReLU(model.negative_slope)
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    return kinds[model.activation]()


@torch.no_grad()
def initialize(network: nn.Sequential, model: Model, seed: int) -> None:
    """Draw the weights of every Linear layer from `seed` alone, always on the CPU.

    `he_normal`: N(0, 2/fan_in), He et al. 2015, eq. 10. `glorot_uniform`:
    U(±√(6/(fan_in+fan_out))), Glorot and Bengio 2010, eq. 16. Both with zero biases. `torch`:
    weights and biases from U(±1/√fan_in), as `torch.nn.Linear` does. `inverse_size_normal`: each
    weight matrix and each bias from N(0, 1/n²), n the number of its elements.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if not isinstance(layer, nn.Linear):
            continue
        weight, bias = layer.weight, nn.init.zeros_(layer.bias)
        if model.initialization == "he_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        elif model.initialization == "glorot_uniform":
            nn.init.xavier_uniform_(weight, generator=generator)
        elif model.initialization == "inverse_size_normal":
            for drawn in (weight, bias):
                nn.init.normal_(drawn, std=1 / drawn.numel(), generator=generator)
        else:
            bound = 1 / math.sqrt(layer.in_features)
            for drawn in (weight, bias):
                nn.init.uniform_(drawn, -bound, bound, generator=generator)


def seed_of(seed: int, purpose: str, place: int) -> int:
    """Return 32 mixed bits for one purpose at one step or epoch.

    No generator is carried from step to step: a training that is resumed at step 1,000 draws the
    same numbers as one that was never interrupted, and a checkpoint has no generator to save.
    """
    mixed = np.random.SeedSequence((seed, PURPOSES.index(purpose), place))
    return int(mixed.generate_state(1)[0])


def generator_of(seed: int, purpose: str, place: int) -> torch.Generator:
    """Return a new generator on the CPU for one purpose at one step or epoch."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, place))


def flatten_parameters(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return all parameters and all gradients as two vectors (P,), weight matrices first.

    Each parameter and its gradient become views into them. A matrix is stored column by column:
    the product that gives its gradient, images × errors, then reads both of its factors in the
    order of memory, which is up to twice as fast on a CPU.
    """
    parameters = sorted(network.parameters(), key=lambda parameter: parameter.ndim <= 1)
    sizes = [parameter.numel() for parameter in parameters]
    values_P = torch.cat([parameter.detach().t().flatten() for parameter in parameters])
    gradient_P = torch.zeros_like(values_P)
    views = (torch.split(vector, sizes) for vector in (values_P, gradient_P))
    for parameter, values, gradient in zip(parameters, *views, strict=True):
        columns = parameter.t().shape
        parameter.data, parameter.grad = values.view(columns).t(), gradient.view(columns).t()
    return values_P, gradient_P


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies of the tensors on the CPU, each in memory of its own."""
    form: Any = {"copy": True, "memory_format": torch.contiguous_format}
    return {name: tensor.detach().to("cpu", **form) for name, tensor in tensors.items()}


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights and buffers as safetensors: the same weights, the same bytes."""
    # `save_file` of the library would hide a full disk in an error of its own.
    path.write_bytes(save(copied(weights), metadata={"format": "pt"}))


def load_network(path: Path, model: Model, num_pixels: int, num_classes: int) -> nn.Sequential:
    """Return a recipe's network with the weights of a safetensors file, in eval mode on the CPU.

    Raises RawDataError for a file that is not safetensors or holds the weights of another network.
    """
    try:
        weights = load_file(path)
        # First without memory: the file decides whether there is a network of that size.
        with torch.device("meta"):
            shape = build_network(model, num_pixels, num_classes, mean=0.0, std=1.0)
        names = [name for name, _ in shape.named_children()]
        # Earlier versions of this project numbered the layers.
        if "0.mean" in weights:
            keys = (key.split(".") for key in weights)
            named = [f"{names[int(place)]}.{kind}" for place, kind in keys]
            weights = dict(zip(named, weights.values(), strict=True))
        shape.load_state_dict(weights, assign=True)
        network = build_network(model, num_pixels, num_classes, mean=0.0, std=1.0)
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError, LookupError, ValueError) as error:
        widths = "-".join(map(str, (num_pixels, *model.hidden, num_classes)))
        expected = f"the weights of a {widths} network"
        remedy = "Use the recipe that the weights were trained with."
        found = " ".join(str(error).split())[:300]
        raise RawDataError(path, found=found, expected=expected, remedy=remedy) from error
    return network.eval()


@torch.inference_mode()
def logits_of(network: nn.Module, images_ND: Tensor) -> Tensor:
    """Return the logits, float32 (N, C). Hidden layers are computed for SCORE_BATCH at a time."""
    batches = torch.split(images_ND, SCORE_BATCH)
    return torch.cat([network(images_BD).float() for images_BD in batches])


def probabilities(network: nn.Module, images_ND: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the softmax of the logits, float32 (N, C)."""
    found: NDArray[np.float32] = logits_of(network, torch.from_numpy(images_ND)).softmax(1).numpy()
    return found
