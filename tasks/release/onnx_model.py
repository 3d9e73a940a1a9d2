"""Runs ONNX models: raw uint8 images in, probabilities out.

A model is run only if it has the form that `tasks/release/onnx_export.py` writes: a foreign graph
may loop without end or take any amount of memory, whatever its digest is.

Axes: B images of a batch, N images, H × W pixels, C classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tasks.runtime.errors import ReleaseError

# Opset 20 is the first with Gelu; ONNX 1.15, which introduced it, has this format.
OPSET, IR_VERSION = 20, 9
CHAIN = re.compile(
    r"Reshape Cast Sub Div( Gemm( BatchNormalization)?( Relu| Tanh| LeakyRelu| Gelu| LogSoftmax)?)+"
    r"( Div)? Softmax"
)
ATTRIBUTES = {"to", "transB", "epsilon", "alpha", "approximate", "axis"}
OUTPUTS = "probabilities", "logits", "features"
# Protobuf's own limit.
MAX_MODEL_BYTES = 2**31
# At most this many images at once, and this many numbers between two layers.
MAX_BATCH, MAX_NUMBERS = 4096, 2**24
# How far the sum of an image's probabilities may be from 1.
SUM_TOLERANCE = 1e-3

Floats = NDArray[np.float32]


class OnnxModel(NamedTuple):
    """A model that can be run. `words` are its metadata; errors call it `name`."""

    name: str
    image_shape: tuple[int, int]
    num_classes: int
    words: dict[str, Any]
    batch: int
    session: Any
    num_features: int = 0

    def probabilities(self, images_NHW: NDArray[np.uint8]) -> Floats:
        """Return the probabilities (N, C). Raises ReleaseError if they are none."""
        return self.outputs(images_NHW, OUTPUTS[:1])[0]

    def outputs(self, images_NHW: NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        """Return the outputs of these names, the first of which are the probabilities."""
        batches = (images_NHW[at : at + self.batch] for at in range(0, len(images_NHW), self.batch))
        try:
            parts = [self.session.run(names, {"images": batch}) for batch in batches]
        except Exception as error:  # onnxruntime has its own errors for each layer
            found = f"a model that cannot be computed ({type(error).__name__})"
            raise unusable_model(self.name, found) from error
        found_NC, *others = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        sums_N = found_NC.sum(axis=1)
        if not ((found_NC >= 0).all() and (abs(sums_N - 1) <= SUM_TOLERANCE).all()):
            raise unusable_model(self.name, "a model whose outputs are no probabilities")
        return [found_NC, *others]


def read_model(content: bytes, name: str, threads: int = 0) -> OnnxModel:
    """Return the model in a file's bytes. Raises ReleaseError if the export did not write it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        model = onnx.ModelProto.FromString(content)
        widths = _widths(model)
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        ends = [_end(end) for end in (*model.graph.input, *model.graph.output)]
        _, _, _, height, width = ends[0]
        wanted: list[Any] = [("images", TensorProto.UINT8, "batch", height, width)]
        wide = zip(OUTPUTS, (widths[-1], widths[-1], widths[-2]), strict=True)
        wanted += [(name, TensorProto.FLOAT, "batch", width) for name, width in wide]
        # Without a hidden layer there are no features. Once there were probabilities alone.
        is_known = ends in (wanted, wanted[:3], wanted[:2])
        if min(height, width) < 1 or height * width != widths[0] or not is_known:
            raise ValueError(f"{ends}")
        words = {word.key: _word(word.value) for word in model.metadata_props}
    except Exception as error:  # each library has its own errors for foreign bytes
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise unusable_model(name, f"another kind of ONNX model ({detail})") from error
    batch = max(1, min(MAX_BATCH, MAX_NUMBERS // max(widths)))
    return OnnxModel(name, (height, width), widths[-1], words, batch, session, widths[-2])


def _end(value: Any) -> tuple[Any, ...]:
    """Return the name, the type and the sizes of an input or an output."""
    kind = value.type.tensor_type
    return value.name, kind.elem_type, *(dim.dim_param or dim.dim_value for dim in kind.shape.dim)


def _word(text: str) -> Any:
    """Return a value of the metadata. Earlier versions of this project wrote texts as JSON, too."""
    text.encode()  # raises ValueError for bytes that are not text
    return json.loads(text) if text[:1] in ("[", '"') else text


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
