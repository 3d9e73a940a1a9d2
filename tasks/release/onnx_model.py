"""The ONNX model of a bundle: it is run only if it has the form that `onnx_export` writes.

A foreign graph whose digest is right may still loop without end or take any amount of memory.

Axes: N images, H × W pixels, C classes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.errors import ReleaseError

# Opset 20 is the first with Gelu.
OPSET = 20
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


@dataclass(frozen=True)
class OnnxModel:
    """A model that can be run. `words` are its metadata; errors call it `name`."""

    name: str
    image_shape: tuple[int, int]
    num_classes: int
    words: dict[str, Any]
    batch: int
    session: Any

    def probabilities(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, C). Raises ReleaseError if they are none."""
        batches = [
            self.session.run(["probabilities"], {"images": images_NHW[start : start + self.batch]})
            for start in range(0, len(images_NHW), self.batch)
        ]
        found_NC: NDArray[np.float32] = np.concatenate([found for (found,) in batches])
        sums_N = found_NC.sum(axis=1)
        if not ((found_NC >= 0).all() and (abs(sums_N - 1) <= SUM_TOLERANCE).all()):
            raise unusable_model(self.name, "a model whose outputs are no probabilities")
        return found_NC


def read_model(content: bytes, name: str, threads: int = 0) -> OnnxModel:
    """Return the model in a file's bytes. Raises ReleaseError if the export did not write it."""
    import onnxruntime
    from onnx import ModelProto

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        model = ModelProto.FromString(content)
        widths = _widths(model)
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        (images,), (output,) = session.get_inputs(), session.get_outputs()
        ends = [(end.name, end.type, *end.shape) for end in (images, output)]
        _, height, width = images.shape
        shape = ("images", "tensor(uint8)", "batch", height, width)
        wanted = [shape, ("probabilities", "tensor(float)", "batch", widths[-1])]
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
    return ReleaseError(
        name,
        found=found,
        expected="an ONNX model that `idxflow run` wrote: images uint8 (B, H, W) in, probabilities "
        "(B, C) out, and class_names",
        remedy="Choose another model (`idxflow models`), or publish this one again.",
    )


def _widths(model: Any) -> list[int]:
    """Return the numbers for an image before each Gemm and at the end.

    Raises ValueError for anything but the layers that the export writes, with weights that fit.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    more = model.functions or model.training_info or graph.sparse_initializer
    if more or opsets != [("", OPSET)]:
        raise ValueError(f"the opsets {opsets}, or more than a graph")
    layers = " ".join(node.op_type for node in graph.node)
    if not CHAIN.fullmatch(layers) or graph.node[-1].output[:] != ["probabilities"]:
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
    return widths
