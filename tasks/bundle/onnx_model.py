"""The ONNX model of a bundle: held against what `onnx_export` writes, then run.

A foreign graph may loop without end or take any memory, and its digest holds all the same.

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
# Protobuf itself ends here.
MAX_BYTES = 2**31
# So many images at once, and so many numbers between two layers.
MAX_BATCH, MAX_NUMBERS = 4096, 2**24
# How far the sum of an image's probabilities may be from 1.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class OnnxModel:
    """A model that can be run; `words` are what its metadata say, `name` what an error names."""

    name: str
    image_shape: tuple[int, int]
    num_classes: int
    words: dict[str, Any]
    batch: int
    session: Any

    def probabilities(self, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it makes of the images: (N, C); raises ReleaseError where that is no probability."""
        batches = [
            self.session.run(["probabilities"], {"images": images_NHW[start : start + self.batch]})
            for start in range(0, len(images_NHW), self.batch)
        ]
        found_NC: NDArray[np.float32] = np.concatenate([found for (found,) in batches])
        sums_N = found_NC.sum(axis=1)
        if not ((found_NC >= 0).all() and (abs(sums_N - 1) <= SUM_TOLERANCE).all()):
            raise fault(self.name, "a model whose answers are no probabilities")
        return found_NC


def read_model(content: bytes, name: str, threads: int = 0) -> OnnxModel:
    """The model in a file's bytes; raises ReleaseError for one that the export did not write."""
    import onnxruntime
    from onnx import ModelProto

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        model = ModelProto.FromString(content)
        widths = _widths(model)
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        (images,), (answers,) = session.get_inputs(), session.get_outputs()
        ends = [(end.name, end.type, *end.shape) for end in (images, answers)]
        _, height, width = images.shape
        shape = ("images", "tensor(uint8)", "batch", height, width)
        wanted = [shape, ("probabilities", "tensor(float)", "batch", widths[-1])]
        if min(height, width) < 1 or height * width != widths[0] or ends != wanted:
            raise ValueError(f"{ends}")
        words = {word.key: json.loads(word.value) for word in model.metadata_props}
    except Exception as error:  # of foreign bytes each library complains in its own way
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise fault(name, f"another kind of ONNX model ({told})") from error
    batch = max(1, min(MAX_BATCH, MAX_NUMBERS // max(widths)))
    return OnnxModel(name, (height, width), widths[-1], words, batch, session)


def fault(name: str, found: str) -> ReleaseError:
    """The error about a model that cannot be used."""
    return ReleaseError(
        name,
        found=found,
        expected="an ONNX model that `idxflow run` wrote: images uint8 (B, H, W) in, probabilities "
        "(B, C) out, and class_names",
        remedy="Take another model (`idxflow models`), or publish this one again.",
    )


def _widths(model: Any) -> list[int]:
    """How many numbers an image is before each Gemm and at the end; ValueError for other layers."""
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
