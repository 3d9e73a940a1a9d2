"""The ONNX model: what torch says, for every kind of layer, and a refusal where it does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import nn

from pipeline_config.recipe import Model
from tasks.model.network import build_network, initialize, probabilities
from tasks.release import assemble, onnx_export
from tasks.release.bundle import bundle_folder
from tasks.release.onnx_export import compare_with_torch, onnx_bytes
from tasks.release.onnx_model import read_model
from tasks.runtime.errors import ReleaseError

models = st.builds(
    Model,
    hidden=st.lists(st.integers(1, 12), max_size=3).map(tuple),
    activation=st.sampled_from(["relu", "leaky_relu", "tanh", "gelu"]),
    negative_slope=st.sampled_from([0.0, 0.01, 0.3]),
    dropout=st.sampled_from([0.0, 0.5]),
    batch_norm=st.booleans(),
    initialization=st.sampled_from(["torch", "he_normal", "glorot_uniform"]),
    output=st.sampled_from(["logits", "log_softmax", "activation"]),
)


def random_network(model: Model, num_pixels: int, num_classes: int, seed: int) -> nn.Sequential:
    """A network in eval mode whose batch norms have seen something."""
    network = build_network(model, num_pixels, num_classes, 33.0, 78.0)
    initialize(network, model, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.data.uniform_(0.01, 2.0, generator=generator)
    network[-1].temperature.fill_(0.7 + seed / 100)
    return network.eval()


@settings(max_examples=40, deadline=None)
@given(models, st.integers(1, 6), st.integers(1, 6), st.integers(2, 5), st.integers(0, 99))
def test_onnx_computes_what_torch_computes(model, height, width, num_classes, seed):
    network = random_network(model, height * width, num_classes, seed)
    content = onnx_bytes(network, (height, width), num_classes, {"class_names": ["a"]})
    images = np.random.default_rng(seed).integers(0, 256, (17, height * width), dtype=np.uint8)
    compare_with_torch(content, network, images.reshape(-1, height, width))
    assert content == onnx_bytes(network, (height, width), num_classes, {"class_names": ["a"]})


def example() -> tuple[nn.Sequential, bytes]:
    model = Model(
        hidden=(8,),
        activation="relu",
        negative_slope=0,
        dropout=0.1,
        batch_norm=True,
        initialization="torch",
        output="logits",
    )
    network = random_network(model, 20, 3, 0)
    return network, onnx_bytes(network, (4, 5), 3, {"version": "v", "class_names": ["ö", "b"]})


def test_the_model_declares_its_interface():
    model = onnx.load_from_string(example()[1])
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 4, 5],
        "probabilities": ["batch", 3],
        "logits": ["batch", 3],
        "features": ["batch", 8],
    }
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    words = {prop.key: prop.value for prop in model.metadata_props}
    assert words == {"version": "v", "class_names": '["ö", "b"]'}
    session = onnxruntime.InferenceSession(example()[1])
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    likely, logits = session.run(["probabilities", "logits"], {"images": images})
    assert np.allclose(softmax(logits, axis=1), likely, atol=1e-6)


@pytest.mark.parametrize("change", [1e-3, float("nan")])
def test_a_model_that_differs_is_refused(change):
    network, content = example()
    network[-2].bias.data[0] += change
    images = np.random.default_rng(0).integers(0, 256, (50, 20), dtype=np.uint8)
    with pytest.raises(ReleaseError, match=r"model.onnx: found .* of 50 images"):
        compare_with_torch(content, network, images.reshape(-1, 4, 5))


def test_a_tie_may_fall_either_way():
    """Two classes with the same weights: rounding alone decides which of them is chosen."""
    network, _ = example()
    last = network[-2]
    last.weight.data[1], last.bias.data[1] = last.weight.data[0], last.bias.data[0] + 1e-6
    last.bias.data[2] = -99
    content = onnx_bytes(network, (4, 5), 3, {})
    last.bias.data[1] -= 2e-6
    images = np.random.default_rng(0).integers(0, 256, (50, 20), dtype=np.uint8)
    model = read_model(content, "model.onnx")
    found = model.probabilities(images.reshape(-1, 4, 5)).argmax(axis=1)
    assert (found != probabilities(network, images).argmax(axis=1)).any()
    compare_with_torch(content, network, images.reshape(-1, 4, 5))


def test_an_unknown_layer_is_refused():
    with pytest.raises(ReleaseError, match="Sigmoid"):
        onnx_bytes(nn.Sequential(nn.Sigmoid()), (1, 1), 1, {})


def test_a_wrong_export_is_never_published(make_lineage, monkeypatch):
    monkeypatch.setattr(onnx_export, "onnx_bytes", lambda *_: example()[1])
    network = example()[0]
    content = onnx_bytes(nn.Sequential(network[0], nn.Linear(20, 10)), (4, 5), 10, {})
    monkeypatch.setattr(onnx_export, "onnx_bytes", lambda *_: content)
    lineage = make_lineage()
    with pytest.raises(ReleaseError, match=r"model\.onnx"):
        assemble.ensure_bundle(lineage)
    assert not list(bundle_folder("mnist", "").glob("*"))
