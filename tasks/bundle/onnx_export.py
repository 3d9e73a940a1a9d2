"""The network as an ONNX model: raw uint8 images in, probabilities out, the same bytes every time.

Axes: B images of a batch, H × W pixels, D = H·W, C classes, N images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tasks.bundle.contents import ONNX
from tasks.bundle.onnx_model import OPSET, read_model
from tasks.model.network import Normalize, Temperature, probabilities
from tasks.runtime.errors import ReleaseError

# The format of the release (ONNX 1.15) that brought OPSET.
IR_VERSION = 9
# Between torch's and onnxruntime's probabilities: they add the same numbers in another order.
# Pixels up to 255 that nothing scales down leave float32 fewer digits behind the point.
TOLERANCE, UNSCALED_TOLERANCE = 1e-5, 1e-4


@dataclass
class _Graph:
    """Nodes and weights as they are strung together; `last` is the name of the newest value."""

    last: str = "images"
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def weight(self, name: str, value: Tensor | NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, name: str, *weights: str, **attributes: Any) -> None:
        """Add a node that takes the newest value and makes the next one, called `name`."""
        inputs = [self.last, *weights]
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.last = name


def onnx_bytes(
    network: nn.Sequential, image_shape: tuple[int, int], num_classes: int, words: Mapping[str, Any]
) -> bytes:
    """The ONNX model of a trained network, serialized.

    Input `images`, uint8 (B, H, W); output `probabilities`, float32 (B, C). `words` become its
    metadata, each as JSON. Raises ReleaseError for a layer that it does not know.
    """
    height, width = image_shape
    graph = _Graph()
    shape = graph.weight("flat_shape", np.array([-1, height * width], dtype=np.int64))
    graph.node("Reshape", "pixels", shape)
    for position, layer in enumerate(network):
        _add(graph, layer, f"layer{position}")
    graph.node("Softmax", "probabilities", axis=1)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width])
    output = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["batch", num_classes]
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "classifier", [images], [output], graph.weights),
        producer_name="idxflow",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    texts = {name: json.dumps(words[name], ensure_ascii=False) for name in sorted(words)}
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _add(graph: _Graph, layer: nn.Module, name: str) -> None:
    """Add one layer of the network, as it computes in eval mode."""
    match layer:
        case Normalize():
            graph.node("Cast", f"{name}.float", to=TensorProto.FLOAT)
            graph.node("Sub", f"{name}.centred", graph.weight(f"{name}.mean", layer.mean))
            graph.node("Div", f"{name}.scaled", graph.weight(f"{name}.std", layer.std))
        case nn.Linear():
            weights = [graph.weight(f"{name}.weight", layer.weight)]
            weights += [graph.weight(f"{name}.bias", layer.bias)]
            graph.node("Gemm", f"{name}.linear", *weights, transB=1)
        case nn.BatchNorm1d():
            kinds = ("weight", "bias", "running_mean", "running_var")
            weights = [graph.weight(f"{name}.{kind}", getattr(layer, kind)) for kind in kinds]
            graph.node("BatchNormalization", f"{name}.norm", *weights, epsilon=layer.eps)
        case nn.ReLU() | nn.Tanh() | nn.LogSoftmax():
            kind = type(layer).__name__
            graph.node({"ReLU": "Relu"}.get(kind, kind), f"{name}.{kind.lower()}")
        case nn.LeakyReLU():
            graph.node("LeakyRelu", f"{name}.leaky_relu", alpha=layer.negative_slope)
        case nn.GELU():
            graph.node("Gelu", f"{name}.gelu", approximate=layer.approximate)
        case Temperature():
            temperature = graph.weight(f"{name}.temperature", layer.temperature)
            graph.node("Div", f"{name}.calibrated", temperature)
        case nn.Dropout():
            pass
        case _:
            raise ReleaseError(
                f"layer {name} of the network",
                found=type(layer).__name__,
                expected="a layer that tasks/bundle/onnx_export.py can write",
                remedy="Teach it this layer, as it computes in eval mode.",
            )


def onnx_probabilities(model: bytes, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What onnxruntime makes of the images on the CPU: float32 (N, C)."""
    return read_model(model, ONNX).probabilities(images_NHW)


def tolerance_of(network: nn.Sequential) -> float:
    """How far apart two right probabilities may be: 1e-5, or 1e-4 where pixels enter unscaled."""
    scaled = any(isinstance(layer, Normalize) and layer.std > 1 for layer in network)
    return TOLERANCE if scaled else UNSCALED_TOLERANCE


def check_against_torch(
    model: bytes,
    network: nn.Sequential,
    images_ND: NDArray[np.uint8],
    image_shape: tuple[int, int],
    path: Path,
) -> None:
    """Hold the ONNX model against the network on some images.

    Raises ReleaseError if a class or, by more than the tolerance, a probability differs; `path` is
    what the error names.
    """
    tolerance = tolerance_of(network)
    expected = probabilities(network, images_ND)
    found = onnx_probabilities(model, images_ND.reshape(-1, *image_shape))
    difference = float(np.abs(found - expected).max())
    chosen = np.take_along_axis(expected, found.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    # Of two classes that are as likely, either may be chosen.
    flips = int((expected.max(axis=1) - chosen > tolerance).sum())
    if flips or not difference <= tolerance:
        raise ReleaseError(
            path.name,
            found=f"{flips} of {len(images_ND)} images with another class than torch gives them, "
            f"and probabilities up to {difference:.1e} apart",
            expected=f"the same classes and probabilities within {tolerance:.0e}",
            remedy="The model was not published. Report it with the recipe: the export is wrong.",
        )
