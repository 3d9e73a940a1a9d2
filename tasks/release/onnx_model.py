"""The network as an ONNX model: raw uint8 images in, probabilities out, always the same bytes.

A model is run only if it has the form that is written here: a foreign graph whose digest is right
may still loop without end or take any amount of memory.

Axes: B images of a batch, N images, H × W pixels, C classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tasks.release.bundle import ONNX
from tasks.runtime.errors import ReleaseError

if TYPE_CHECKING:
    from torch import nn

# Opset 20 is the first with Gelu; ONNX 1.15, which introduced it, has this format.
OPSET, IR_VERSION = 20, 9
CHAIN = re.compile(
    r"Reshape Cast Sub Div( Gemm( BatchNormalization)?( Relu| Tanh| LeakyRelu| Gelu| LogSoftmax)?)+"
    r"( Div)? Softmax"
)
ATTRIBUTES = {"to", "transB", "epsilon", "alpha", "approximate", "axis"}
# Protobuf's own limit.
MAX_MODEL_BYTES = 2**31
# At most this many images at once, and this many numbers between two layers.
MAX_BATCH, MAX_NUMBERS = 4096, 2**24
# How far the sum of an image's probabilities may be from 1.
SUM_TOLERANCE = 1e-3
# How far torch and onnxruntime may differ. Unscaled pixels leave float32 fewer decimals.
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
    flat = {"flat_shape": np.array([-1, math.prod(image_shape)], dtype=np.int64)}
    parts: list[Node] = [("Reshape", "pixels", flat, {})]
    for place, layer in enumerate(network):
        parts += _nodes_of(layer, f"layer{place}")
    parts.append(("Softmax", "probabilities", {}, {"axis": 1}))
    nodes, initializers, last = list[Any](), list[Any](), "images"
    for operator, name, weights, attributes in parts:
        nodes.append(helper.make_node(operator, [last, *weights], [name], name=name, **attributes))
        initializers += map(numpy_helper.from_array, weights.values(), weights)
        last = name
    value, shape = helper.make_tensor_value_info, ["batch", num_classes]
    images = value("images", TensorProto.UINT8, ["batch", *image_shape])
    output = value("probabilities", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "classifier", [images], [output], initializers)
    facts = {"producer_name": "idxflow", "opset_imports": [helper.make_opsetid("", OPSET)]}
    model = helper.make_model(graph, ir_version=IR_VERSION, **facts)
    texts = {name: json.dumps(words[name], ensure_ascii=False) for name in sorted(words)}
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
            expected = "a layer that tasks/release/onnx_model.py can write"
            raise ReleaseError(f"layer {name}", found=found, expected=expected, remedy=remedy)


class OnnxModel(NamedTuple):
    """A model that can be run. `words` are its metadata; errors call it `name`."""

    name: str
    image_shape: tuple[int, int]
    num_classes: int
    words: dict[str, Any]
    batch: int
    session: Any

    def probabilities(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, C). Raises ReleaseError if they are none."""
        starts = range(0, len(images_NHW), self.batch)
        batches = ({"images": images_NHW[start : start + self.batch]} for start in starts)
        outputs = [self.session.run(["probabilities"], batch)[0] for batch in batches]
        found_NC: NDArray[np.float32] = np.concatenate(outputs)
        sums_N = found_NC.sum(axis=1)
        if not ((found_NC >= 0).all() and (abs(sums_N - 1) <= SUM_TOLERANCE).all()):
            raise unusable_model(self.name, "a model whose outputs are no probabilities")
        return found_NC


def read_model(content: bytes, name: str, threads: int = 0) -> OnnxModel:
    """Return the model in a file's bytes. Raises ReleaseError if the export did not write it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        model = onnx.ModelProto.FromString(content)
        widths = _widths(model)
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        ends = [(end.name, end.type, *end.shape) for end in session.get_inputs()]
        ends += [(end.name, end.type, *end.shape) for end in session.get_outputs()]
        _, _, _, height, width = ends[0]
        wanted: list[Any] = [("images", "tensor(uint8)", "batch", height, width)]
        wanted += [("probabilities", "tensor(float)", "batch", widths[-1])]
        if min(height, width) < 1 or height * width != widths[0] or ends != wanted:
            raise ValueError(f"{ends}")
        words = {word.key: json.loads(word.value) for word in model.metadata_props}
    except Exception as error:  # each library has its own errors for foreign bytes
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise unusable_model(name, f"another kind of ONNX model ({detail})") from error
    batch = max(1, min(MAX_BATCH, MAX_NUMBERS // max(widths)))
    return OnnxModel(name, (height, width), widths[-1], words, batch, session)


def unusable_model(name: str, found: str) -> ReleaseError:
    """Return the error about a model that cannot be used."""
    expected = "an ONNX model that `idxflow run` wrote: images, probabilities and class_names"
    remedy = "Choose another model (`idxflow models`), or publish this one again."
    return ReleaseError(name, found=found, expected=expected, remedy=remedy)


def _widths(model: Any) -> list[int]:
    """Return the width before each Gemm and at the end. Raises ValueError for a foreign layer."""
    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    more = model.functions or model.training_info or graph.sparse_initializer
    layers = " ".join(node.op_type for node in graph.node)
    if more or opsets != [("", OPSET)] or not CHAIN.fullmatch(layers):
        raise ValueError("layers that the export does not write")
    for weight in graph.initializer:
        item = {TensorProto.FLOAT: 4, TensorProto.INT64: 8}[weight.data_type]
        is_whole = item * math.prod(weight.dims) == len(weight.raw_data) and min(weight.dims) > 0
        if weight.data_location or not is_whole:
            raise ValueError(f"weights {weight.name} that are not in the file")
    weights = {weight.name: weight for weight in graph.initializer}
    rows, num_pixels = numpy_helper.to_array(weights[graph.node[0].input[1]]).tolist()
    widths, last, shapes = [num_pixels], "images", {"Reshape": [[2]], "Sub": [[1]], "Div": [[1]]}
    for node in graph.node:
        given = [list(weights[name].dims) for name in node.input[1:]]
        if node.op_type == "Gemm":
            widths.append(given[0][0])
            shapes["Gemm"] = [[widths[-1], widths[-2]], [widths[-1]]]
        shapes["BatchNormalization"] = [[widths[-1]]] * 4
        names = {attribute.name for attribute in node.attribute}
        fits = node.input[0] == last and given == shapes.get(node.op_type, [])
        if not fits or node.domain or names - ATTRIBUTES or rows != -1:
            raise ValueError(f"layer {node.name}, which does not fit the one before it")
        (last,) = node.output
    if last != "probabilities":
        raise ValueError(f"a last layer called {last}")
    return widths


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
