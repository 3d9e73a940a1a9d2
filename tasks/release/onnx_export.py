"""Writes the network as an ONNX model, always with the same bytes, and checks what it computes.

Axes: B images of a batch, N images, H × W pixels, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version as library_version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.release.bundle import ONNX
from tasks.release.onnx_model import IR_VERSION, OPSET, OUTPUTS, read_model
from tasks.runtime.errors import ReleaseError

if TYPE_CHECKING:
    from torch import nn

# How far torch and onnxruntime may differ. Unscaled pixels leave float32 fewer decimals.
TOLERANCE, UNSCALED_TOLERANCE = 1e-5, 1e-4


# A node: its operator, its name, its weights by name, its attributes.
Node = tuple[str, str, dict[str, NDArray[Any]], dict[str, Any]]


def onnx_bytes(
    network: nn.Sequential, image_shape: tuple[int, int], num_classes: int, words: Mapping[str, Any]
) -> bytes:
    """Return the serialized ONNX model of a trained network.

    Input `images`, uint8 (B, H, W); outputs, float32: `probabilities` (B, C), `logits` (B, C), of
    which they are the softmax, and `features` (B, F), the last hidden layer, if there is one. The
    metadata are `words`: texts as they are, lists as JSON. Raises ReleaseError for an unknown
    layer.
    """
    flat = {"flat_shape": np.array([-1, math.prod(image_shape)], dtype=np.int64)}
    parts: list[Node] = [("Reshape", "pixels", flat, {})]
    for layer_name, layer in network.named_children():
        parts += _nodes_of(layer, layer_name)
    widths = dict.fromkeys(OUTPUTS[:2], num_classes)
    parts[-1] = parts[-1][0], OUTPUTS[1], *parts[-1][2:]
    gemms = [place for place, part in enumerate(parts) if part[0] == "Gemm"]
    if len(gemms) > 1:
        hidden, (last_weights, _) = gemms[-1] - 1, parts[gemms[-1]][2].values()
        parts[hidden] = parts[hidden][0], OUTPUTS[2], *parts[hidden][2:]
        widths[OUTPUTS[2]] = last_weights.shape[1]
    parts.append(("Softmax", "probabilities", {}, {"axis": 1}))
    nodes, initializers, last = list[Any](), list[Any](), "images"
    for operator, name, weights, attributes in parts:
        nodes.append(helper.make_node(operator, [last, *weights], [name], name=name, **attributes))
        initializers += map(numpy_helper.from_array, weights.values(), weights)
        last = name
    value = helper.make_tensor_value_info
    images = value("images", TensorProto.UINT8, ["batch", *image_shape])
    outputs = [value(name, TensorProto.FLOAT, ["batch", width]) for name, width in widths.items()]
    graph = helper.make_graph(nodes, "classifier", [images], outputs, initializers)
    facts = {"producer_name": "idxflow", "producer_version": library_version("idxflow")}
    opsets, size = [helper.make_opsetid("", OPSET)], f"{image_shape[0]}×{image_shape[1]}"
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, **facts)
    model.doc_string = f"Classifies {size} grey images, uint8 from 0 (dark) to 255, as {words}"
    texts = {
        name: word if isinstance(word, str) else json.dumps(word, ensure_ascii=False)
        for name, word in sorted(words.items())
    }
    helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _nodes_of(layer: nn.Module, name: str) -> Iterator[Node]:
    """Yield the nodes of one layer. Raises ReleaseError for an unknown one."""
    from torch import nn

    from tasks.model.network import Normalize, Temperature

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
            found, remedy = type(layer).__name__, "Add it there, as it computes in eval mode."
            expected = "a layer that tasks/release/onnx_export.py can write"
            raise ReleaseError(f"layer {name}", found=found, expected=expected, remedy=remedy)


def check_outputs(
    name: str, found_NC: NDArray[Any], expected_NC: NDArray[Any], network: nn.Sequential
) -> str:
    """Return how much two outputs of a network differ. Raises ReleaseError if it is too much."""
    from tasks.model.network import Normalize

    is_scaled = any(isinstance(layer, Normalize) and layer.std > 1 for layer in network)
    tolerance = TOLERANCE if is_scaled else UNSCALED_TOLERANCE
    is_alike = found_NC.shape == expected_NC.shape
    difference = float(np.abs(found_NC - expected_NC).max()) if is_alike else math.inf
    found = f"probabilities of {len(found_NC)} images that differ by up to {difference:.1e}"
    if not difference <= tolerance:
        remedy = "Do not use it. If it was just built, the export is wrong: report the recipe."
        raise ReleaseError(name, found=found, expected=f"up to {tolerance:.0e}", remedy=remedy)
    return f"{found}, {tolerance:.0e} is allowed"


def compare_with_torch(model: bytes, network: nn.Sequential, images_NHW: NDArray[np.uint8]) -> None:
    """Raise ReleaseError if the ONNX model and the network differ on some images."""
    from tasks.model.network import probabilities

    expected_NC = probabilities(network, images_NHW.reshape(len(images_NHW), -1))
    check_outputs(ONNX, read_model(model, ONNX).probabilities(images_NHW), expected_NC, network)
