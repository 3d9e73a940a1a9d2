"""The network as an ONNX model: raw uint8 images in, probabilities out, always the same bytes.

Axes: B images of a batch, H × W pixels, C classes, N images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tasks.model.network import Normalize, Temperature, probabilities
from tasks.release.bundle import ONNX
from tasks.release.onnx_model import OPSET, read_model
from tasks.runtime.errors import ReleaseError

# The format of the release (ONNX 1.15) that introduced OPSET.
IR_VERSION = 9
# How much the probabilities of torch and onnxruntime may differ, which sum in different orders.
# Unscaled pixels of up to 255 leave float32 fewer decimals.
TOLERANCE, UNSCALED_TOLERANCE = 1e-5, 1e-4

# A node: its operator, its name, its weights by name, its attributes.
Node = tuple[str, str, dict[str, NDArray[Any]], dict[str, Any]]


def onnx_bytes(
    network: nn.Sequential, image_shape: tuple[int, int], num_classes: int, words: Mapping[str, Any]
) -> bytes:
    """Return the serialized ONNX model of a trained network.

    Input `images`, uint8 (B, H, W); output `probabilities`, float32 (B, C). The metadata are
    `words`, each as JSON. Raises ReleaseError for an unknown layer.
    """
    nodes: list[Any] = []
    initializers: list[Any] = []
    last = "images"
    for operator, name, weights, attributes in _nodes(network, math.prod(image_shape)):
        nodes.append(helper.make_node(operator, [last, *weights], [name], name=name, **attributes))
        initializers += map(numpy_helper.from_array, weights.values(), weights)
        last = name
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *image_shape])
    shape = ["batch", num_classes]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(nodes, "classifier", [images], [output], initializers),
        producer_name="idxflow",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    texts = {name: json.dumps(words[name], ensure_ascii=False) for name in sorted(words)}
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _nodes(network: nn.Sequential, num_pixels: int) -> Iterator[Node]:
    """Yield the nodes of a network in eval mode, a chain."""
    yield "Reshape", "pixels", {"flat_shape": np.array([-1, num_pixels], dtype=np.int64)}, {}
    for position, layer in enumerate(network):
        yield from _nodes_of(layer, f"layer{position}")
    yield "Softmax", "probabilities", {}, {"axis": 1}


def _nodes_of(layer: nn.Module, name: str) -> Iterator[Node]:
    """Yield the nodes of one layer. Raises ReleaseError for an unknown one."""

    def weights(*kinds: str) -> dict[str, NDArray[Any]]:
        arrays = {kind: getattr(layer, kind).detach().cpu().numpy() for kind in kinds}
        return {f"{name}.{kind}": np.ascontiguousarray(array) for kind, array in arrays.items()}

    match layer:
        case Normalize():
            yield "Cast", f"{name}.float", {}, {"to": TensorProto.FLOAT}
            yield "Sub", f"{name}.centred", weights("mean"), {}
            yield "Div", f"{name}.scaled", weights("std"), {}
        case nn.Linear():
            yield "Gemm", f"{name}.linear", weights("weight", "bias"), {"transB": 1}
        case nn.BatchNorm1d():
            kinds = weights("weight", "bias", "running_mean", "running_var")
            yield "BatchNormalization", f"{name}.norm", kinds, {"epsilon": layer.eps}
        case nn.ReLU() | nn.Tanh() | nn.LogSoftmax():
            kind = type(layer).__name__
            yield {"ReLU": "Relu"}.get(kind, kind), f"{name}.{kind.lower()}", {}, {}
        case nn.LeakyReLU():
            yield "LeakyRelu", f"{name}.leaky_relu", {}, {"alpha": layer.negative_slope}
        case nn.GELU():
            yield "Gelu", f"{name}.gelu", {}, {"approximate": layer.approximate}
        case Temperature():
            yield "Div", f"{name}.calibrated", weights("temperature"), {}
        case nn.Dropout():
            pass
        case _:
            raise ReleaseError(
                f"layer {name} of the network",
                found=type(layer).__name__,
                expected="a layer that tasks/release/onnx_export.py can write",
                remedy="Add it there, as it computes in eval mode.",
            )


def tolerance_of(network: nn.Sequential) -> float:
    """Return how much probabilities may differ: 1e-5, or 1e-4 for a network of unscaled pixels."""
    scaled = any(isinstance(layer, Normalize) and layer.std > 1 for layer in network)
    return TOLERANCE if scaled else UNSCALED_TOLERANCE


def compare_with_torch(model: bytes, network: nn.Sequential, images_NHW: NDArray[np.uint8]) -> None:
    """Compare the ONNX model with the network on some images.

    Raises ReleaseError if a class, or a probability by more than the tolerance, differs.
    """
    tolerance = tolerance_of(network)
    expected_NC = probabilities(network, images_NHW.reshape(len(images_NHW), -1))
    found_NC = read_model(model, ONNX).probabilities(images_NHW)
    difference = float(np.abs(found_NC - expected_NC).max())
    chosen_N = np.take_along_axis(expected_NC, found_NC.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    # Of two equally likely classes either may be chosen.
    flips = int((expected_NC.max(axis=1) - chosen_N > tolerance).sum())
    if flips or not difference <= tolerance:
        raise ReleaseError(
            ONNX,
            found=f"{flips} of {len(images_NHW)} images with another class than torch gives them, "
            f"and probabilities that differ by up to {difference:.1e}",
            expected=f"the same classes, and probabilities within {tolerance:.0e}",
            remedy="The model was not published. Report it with the recipe: the export is wrong.",
        )
