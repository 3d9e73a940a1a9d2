"""The ONNX model of a bundle: held against what `onnx_export` writes, then run.

A foreign graph may loop without end or take any memory, and a digest says nothing against that. So
a model is run only if it is one chain of layers that the export knows, with its weights in it.

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
# At once: so many images, and so many numbers between two layers.
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
        height, width, num_classes = _ends(model)
        widest = _widest(model.graph, height * width, num_classes)
        words = {word.key: json.loads(word.value) for word in model.metadata_props}
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # of foreign bytes each library complains in its own way
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise fault(name, f"another kind of ONNX model ({told})") from error
    batch = max(1, min(MAX_BATCH, MAX_NUMBERS // widest))
    return OnnxModel(name, (height, width), num_classes, words, batch, session)


def fault(name: str, found: str) -> ReleaseError:
    """The error about a model that cannot be used."""
    return ReleaseError(
        name,
        found=found,
        expected="an ONNX model that `idxflow run` wrote: images uint8 (B, H, W) in, probabilities "
        "(B, C) out, and class_names",
        remedy="Take another model (`idxflow models`), or publish this one again.",
    )


def _ends(model: Any) -> tuple[int, int, int]:
    """H, W and C; raises ValueError for other inputs or outputs, and for what is no plain graph."""
    from onnx import TensorProto

    ends: list[Any] = []
    for value in (*model.graph.input, *model.graph.output):
        tensor = value.type.tensor_type
        sides = (dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        ends.append([value.name, tensor.elem_type, *sides])
    (*images, height, width), (*answers, num_classes) = ends
    wanted = ["images", TensorProto.UINT8, "batch"], ["probabilities", TensorProto.FLOAT, "batch"]
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    others = (model.functions, model.training_info, model.graph.sparse_initializer)
    sizes = all(isinstance(side, int) and side > 0 for side in (height, width, num_classes))
    if not sizes or (images, answers) != wanted or opsets != [("", OPSET)] or any(others):
        raise ValueError(f"{ends}, opset {opsets}")
    return height, width, num_classes


def _widest(graph: Any, width: int, num_classes: int) -> int:
    """The most numbers that an image becomes between two layers; ValueError for other layers."""
    from onnx import TensorProto, numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    item = {TensorProto.FLOAT: 4, TensorProto.INT64: 8}
    for weight in graph.initializer:
        num_bytes = math.prod(weight.dims) * item[weight.data_type]
        if min(weight.dims) < 1 or num_bytes != len(weight.raw_data) or weight.data_location:
            raise ValueError(f"weights {weight.name} that are not in the file")
    if not CHAIN.fullmatch(" ".join(node.op_type for node in graph.node)):
        raise ValueError("layers that the export does not write")
    if numpy_helper.to_array(weights[graph.node[0].input[1]]).tolist() != [-1, width]:
        raise ValueError("images in another form")
    last, widest = "images", width
    for node in graph.node:
        given = [tuple(weights[name].dims) for name in node.input[1:]]
        before, width = width, given[0][0] if node.op_type == "Gemm" else width
        wanted = {
            "Reshape": [(2,)],
            "Sub": [(1,)],
            "Div": [(1,)],
            "Gemm": [(width, before), (width,)],
            "BatchNormalization": [(width,)] * 4,
        }.get(node.op_type, [])
        names = {attribute.name for attribute in node.attribute}
        if node.input[0] != last or given != wanted or node.domain or names - ATTRIBUTES:
            raise ValueError(f"layer {node.name}, which does not fit the one before it")
        (last,), widest = node.output, max(widest, width)
    if (last, width) != ("probabilities", num_classes):
        raise ValueError(f"{width} numbers called {last} at the end")
    return widest
