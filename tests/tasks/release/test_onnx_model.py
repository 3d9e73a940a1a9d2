"""ONNX models that the export did not write: refused before they run, in one error each."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from tasks.model.network import Normalize, Temperature
from tasks.prediction.classifier import load_classifier
from tasks.release.onnx_export import onnx_bytes
from tasks.release.onnx_model import MAX_BATCH, read_model
from tasks.runtime.errors import ReleaseError

WORDS = {"class_names": ["a", "b", "c"], "dataset": "mnist", "version": "v"}
Harm = Callable[[ModelProto], object]


def written(words: dict[str, Any] = WORDS, width: int = 6) -> bytes:
    """A model of every kind of part: images of 4×5 pixels, three classes."""
    layers = [nn.Linear(20, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 3)]
    network = nn.Sequential(Normalize(33.0, 78.0), *layers, nn.LogSoftmax(1), Temperature())
    return onnx_bytes(network.eval(), (4, 5), 3, words)


def weight(model: ModelProto, name: str) -> TensorProto:
    return next(each for each in model.graph.initializer if each.name.endswith(name))


def node(model: ModelProto, kind: str) -> Any:
    return next(each for each in model.graph.node if each.op_type == kind)


def replaced(model: ModelProto, name: str, array: np.ndarray) -> None:
    found = weight(model, name)
    found.CopyFrom(numpy_helper.from_array(array, found.name))


def outside(model: ModelProto) -> None:
    """The weights of the last layer in a file of the working directory."""
    found = weight(model, "4.bias")
    Path("weights.bin").write_bytes(found.raw_data)
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="location", value="weights.bin")


def claimed(model: ModelProto) -> None:
    found = weight(model, "4.bias")
    found.ClearField("raw_data")
    found.dims[0] = 2**40


def endless(model: ModelProto) -> None:
    """A loop without end behind the last layer."""
    condition = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    counter = helper.make_tensor_value_info("counter", TensorProto.INT64, [])
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"])], "body", [counter, condition], [again]
    )
    model.graph.node.insert(1, helper.make_node("Loop", ["", "yes"], [], body=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "yes"))


def expanded(model: ModelProto) -> None:
    """A terabyte of zeros that are then summed up."""
    shape = numpy_helper.from_array(np.array([2**38], np.int64), "huge")
    model.graph.initializer.append(shape)
    model.graph.node.insert(1, helper.make_node("Expand", ["0.mean", "huge"], ["zeros"]))


def with_subgraph(model: ModelProto) -> None:
    attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH)
    attribute.g.CopyFrom(model.graph)
    node(model, "Softmax").attribute.append(attribute)


def dim(end: Any, place: int, size: int | str | None) -> None:
    found = end.type.tensor_type.shape.dim[place]
    found.Clear()
    if isinstance(size, str):
        found.dim_param = size
    elif size is not None:
        found.dim_value = size


def reordered(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:4], *nodes[8:9], *nodes[4:8], *nodes[9:]])


def from_the_middle(model: ModelProto) -> None:
    """The hidden layer's six numbers in place of the last one's three."""
    names = {node(model, "Gelu").output[0]: "probabilities", "probabilities": "others"}
    for each in model.graph.node:
        for ends in (each.input, each.output):
            ends[:] = [names.get(name, name) for name in ends]


HARMS: dict[str, Harm] = {
    "another operator": lambda m: setattr(node(m, "Gelu"), "op_type", "Erf"),
    "an operator of another domain": lambda m: setattr(node(m, "Gelu"), "domain", "com.microsoft"),
    "an endless loop": endless,
    "a terabyte of zeros": expanded,
    "a subgraph": with_subgraph,
    "a function": lambda m: m.functions.add(name="Gelu", domain=""),
    "training": lambda m: m.training_info.add(),
    "a sparse weight": lambda m: m.graph.sparse_initializer.add(dims=[2**40]),
    "another opset": lambda m: setattr(m.opset_import[0], "version", 21),
    "two opsets": lambda m: m.opset_import.add(domain="x", version=1),
    "weights in another file": outside,
    "weights that are only claimed": claimed,
    "weights of another kind": lambda m: replaced(m, "4.bias", np.zeros(3, np.float64)),
    "a weight that makes images many": lambda m: replaced(
        m, "0.mean", np.zeros((1000, 1, 1), np.float32)
    ),
    "a weight of many columns": lambda m: replaced(m, "0.std", np.ones(20, np.float32)),
    "no sides": lambda m: replaced(m, "0.mean", np.array(0, np.float32)),
    "a side of nothing": lambda m: replaced(m, "1.bias", np.zeros(0, np.float32)),
    "layers that do not fit": lambda m: replaced(m, "1.weight", np.zeros((6, 7), np.float32)),
    "a short norm": lambda m: replaced(m, "running_mean", np.zeros(5, np.float32)),
    "another shape": lambda m: replaced(m, "flat_shape", np.array([-1, 1], np.int64)),
    "a missing weight": lambda m: weight(m, "1.bias").ClearField("name"),
    "layers in another order": reordered,
    "an answer from the middle": from_the_middle,
    "a second input": lambda m: m.graph.input.add(name="more"),
    "another input": lambda m: setattr(m.graph.input[0], "name", "pictures"),
    "floats": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
    "no input": lambda m: m.graph.ClearField("input"),
    "no output": lambda m: m.graph.ClearField("output"),
    "two ranks": lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(),
    "four ranks": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
    "one rank": lambda m: m.graph.output[0].type.tensor_type.shape.dim.pop(),
    "a fixed batch": lambda m: dim(m.graph.input[0], 0, 1),
    "a height of nothing": lambda m: dim(m.graph.input[0], 1, 0),
    "a height below nothing": lambda m: dim(m.graph.input[0], 1, -4),
    "an unknown height": lambda m: dim(m.graph.input[0], 1, None),
    "any height": lambda m: (dim(m.graph.input[0], 1, "h"), dim(m.graph.input[0], 2, 2**45)),
    "a huge image": lambda m: dim(m.graph.input[0], 1, 2**60),
    "other classes": lambda m: dim(m.graph.output[0], 1, 4),
    "no graph": lambda m: m.ClearField("graph"),
    "metadata that are no JSON": lambda m: setattr(m.metadata_props[0], "value", "["),
    "deep metadata": lambda m: setattr(m.metadata_props[0], "value", "[" * 100_000),
    "no text": lambda m: None,
}


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An empty working directory, and at most 3 GB more than there is now."""
    monkeypatch.chdir(tmp_path)
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 3 * 10**9, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def test_an_exported_model_can_be_read() -> None:
    found = read_model(written(), "model.onnx")
    assert (found.image_shape, found.num_classes, found.words) == ((4, 5), 3, WORDS)
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    said = found.probabilities(images)
    assert said.shape == (9, 3)
    assert found.batch == MAX_BATCH
    wide = read_model(written(width=9000), "model.onnx")
    assert wide.batch < MAX_BATCH
    several = np.tile(images, (300, 1, 1))
    assert wide.probabilities(several).shape == (2700, 3)


@pytest.mark.parametrize("harm", HARMS)
def test_another_model_is_refused_before_it_runs(harm: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(written())
    HARMS[harm](model)
    content = model.SerializeToString()
    if harm == "no text":
        content = content.replace(b"mnist", b"mni\xff\xfe")
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"foreign\.onnx: found another kind of ONNX model \("):
        load_classifier(str(path), None)


@pytest.mark.parametrize("content", [b"", b"\x00" * 99, b"\xff" * 99, b"{}", written()[:-40]])
def test_bytes_that_are_not_a_model_are_refused(content: bytes) -> None:
    with pytest.raises(ReleaseError, match="another kind of ONNX model"):
        read_model(content, "model.onnx")


@pytest.mark.parametrize("place", range(0, len(written()), 41))
def test_one_changed_byte_is_another_model_or_another_answer(place: int) -> None:
    content = bytearray(written())
    content[place] ^= 0xFF
    images = np.zeros((2, 4, 5), np.uint8)
    try:
        read_model(bytes(content), "model.onnx").probabilities(images)
    except ReleaseError as error:
        assert error.what == "model.onnx"


@pytest.mark.parametrize(
    "names", [None, "abc", 3, {}, [], ["a", "b"], ["a", "b", 3], ["a", "b", "b"], ["a"] * 3]
)
def test_classes_without_a_name_each_are_refused(names: object, tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(written({} if names is None else {"class_names": names}))
    with pytest.raises(ReleaseError, match="3 classes, called "):
        load_classifier(str(path), None)


def test_answers_that_are_no_probabilities_are_refused() -> None:
    model = onnx.load_from_string(written())
    node(model, "Softmax").attribute[0].i = 0
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    with pytest.raises(ReleaseError, match="outputs are no probabilities"):
        read_model(model.SerializeToString(), "model.onnx").probabilities(images)
    replaced(model, "4.bias", np.full(3, np.nan, np.float32))
    node(model, "Softmax").attribute[0].i = 1
    with pytest.raises(ReleaseError, match="outputs are no probabilities"):
        read_model(model.SerializeToString(), "model.onnx").probabilities(images)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_only_a_regular_model_file_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(ReleaseError, match="no readable file"):
        load_classifier(str(path), None)


def test_a_link_to_a_model_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(written())
    (tmp_path / "model.onnx").symlink_to(tmp_path / "blob")
    assert load_classifier(str(tmp_path / "model.onnx"), None).class_names == ("a", "b", "c")
    assert json.dumps(load_classifier(str(tmp_path / "model.onnx"), None).title) == '"mnist/v"'
