"""The network: layers, initialisation, and the file of its weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_config.recipe import Model
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import (
    Normalize,
    build_network,
    initialize,
    load_network,
    probabilities,
    save_weights,
)
from tasks.model.train import describe_layers
from tasks.runtime.errors import RawDataError

PIXELS, CLASSES = 36, 3


def model_of(*overrides: str) -> Model:
    return load_recipe("fast", ("model.hidden=[16]", *overrides)).model


def images(num_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_rows, PIXELS), generator=generator, dtype=torch.uint8)


def test_normalization_is_the_first_layer_and_travels_with_the_weights(tmp_path: Path) -> None:
    model = model_of()
    network = build_network(model, PIXELS, CLASSES, mean=33.5, std=78.25)
    initialize(network, model, 0)
    assert isinstance(network[0], Normalize)
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8)
    torch.testing.assert_close(network[0](pixels), torch.tensor([[-33.5, 221.5]]) / 78.25)
    save_weights(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_network(tmp_path / "model.safetensors", model, PIXELS, CLASSES)
    assert torch.equal(loaded(images(20)), network.eval()(images(20)))


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    model = model_of()
    for name in ("a", "b"):
        network = build_network(model, PIXELS, CLASSES, 0.0, 1.0)
        initialize(network, model, 7)
        save_weights(network.state_dict(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 100])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(RawDataError, match=r"model\.safetensors"):
        load_network(path, model_of(), PIXELS, CLASSES)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = build_network(model_of(), PIXELS, CLASSES, 0.0, 1.0)
    save_weights(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(RawDataError, match="36-17-3"):
        wider = model_of("model.hidden=[17]")
        load_network(tmp_path / "model.safetensors", wider, PIXELS, CLASSES)


def test_a_recipe_takes_no_memory_that_its_weights_do_not_justify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three layers of 60,000 are 28 GB, whatever the file of the weights holds."""
    path, small = tmp_path / "model.safetensors", model_of()
    save_weights(build_network(small, PIXELS, CLASSES, 0.0, 1.0).state_dict(), path)
    built = []

    def build(model: Model, *given: object, **named: object) -> torch.nn.Sequential:
        built.append(torch.get_default_device().type)
        assert built[-1] == "meta" or model == small, "memory before a look at the file"
        return build_network(model, *given, **named)

    monkeypatch.setattr("tasks.model.network.build_network", build)
    wide = model_of("model.hidden=[60000, 60000, 60000]")
    with pytest.raises(RawDataError, match="36-60000-60000-60000-3"):
        load_network(path, wide, PIXELS, CLASSES)
    assert built == ["meta"]
    assert load_network(path, small, PIXELS, CLASSES)
    assert built == ["meta", "meta", "cpu"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_weights_of_another_type_become_float32_or_are_refused(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    path, model = tmp_path / "model.safetensors", model_of()
    weights = build_network(model, PIXELS, CLASSES, 0.0, 1.0).state_dict()
    save_weights({name: weight.to(dtype) for name, weight in weights.items()}, path)
    if dtype == torch.int64:
        with pytest.raises(RawDataError, match="floating point"):
            load_network(path, model, PIXELS, CLASSES)
        return
    network = load_network(path, model, PIXELS, CLASSES)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def initial_weights(initialization: str) -> torch.Tensor:
    model = model_of(f"model.initialization={initialization}", "model.hidden=[400]")
    network = build_network(model, 900, CLASSES, 0.0, 1.0)
    initialize(network, model, 0)
    layer = next(layer for layer in network if isinstance(layer, torch.nn.Linear))
    if initialization != "torch":
        assert not layer.bias.any()
    return layer.weight.detach()


def test_initialisations_have_the_spread_of_their_papers() -> None:
    assert initial_weights("he_normal").std().item() == pytest.approx(math.sqrt(2 / 900), rel=0.01)
    glorot, bound = initial_weights("glorot_uniform"), math.sqrt(6 / 1300)
    assert glorot.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert glorot.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert initial_weights("torch").abs().max().item() == pytest.approx(1 / 30, rel=0.01)


def test_layers_are_described_with_their_parameters() -> None:
    network = build_network(model_of("model.batch_norm=false"), PIXELS, CLASSES, 0.0, 1.0)
    linear = [layer for layer in describe_layers(network) if layer["kind"] == "Linear"]
    assert [layer["shape"] for layer in linear] == [[16, 36], [3, 16]]
    assert [layer["parameters"] for layer in linear] == [16 * 36 + 16, 3 * 16 + 3]


def test_probabilities_sum_to_one_and_do_not_depend_on_the_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network(model_of(), PIXELS, CLASSES, 0.0, 255.0).eval()
    pixels = images(50).numpy()
    whole = probabilities(network, pixels)
    assert whole.dtype == np.float32
    assert whole.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-6)
    monkeypatch.setattr("tasks.model.network.SCORE_BATCH", 7)
    assert probabilities(network, pixels) == pytest.approx(whole, abs=1e-6)
