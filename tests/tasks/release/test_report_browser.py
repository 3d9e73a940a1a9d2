"""The report in a real browser: its model, pad, galleries and tables; no errors, no requests."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from pipeline_config.datasets import named_dataset
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, initialize
from tasks.model.training import Trainer
from tasks.prediction.pictures import Form, centred
from tasks.release import live
from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import REPORT, bundle_folder
from tasks.release.live import layers_of
from tasks.release.onnx_model import onnx_bytes, read_model
from tasks.runtime.devices import one_thread

WORDS = {"dataset": "mnist", "recipe": "fast", "version": "0" * 12}
BLOCK = re.compile(r'(<script type="application/json" id="live">).*?(</script>)', re.DOTALL)
# Points in shares of the pad, from stroke to stroke.
SEVEN = [[(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)]]
ONE = [[(0.45, 0.3), (0.53, 0.12), (0.53, 0.88)]]
ZERO = [[(0.5 + 0.24 * np.sin(a), 0.5 - 0.36 * np.cos(a)) for a in np.linspace(0, 6.28, 40)]]

NLL = ("training.loss=nll", "training.label_smoothing=0")

MakePage = Callable[..., Any]


def report_of(lineage: Lineage) -> Path:
    manifest, _ = ensure_bundle(lineage)
    return bundle_folder(manifest.dataset, manifest.version) / REPORT


@pytest.fixture
def page_with(
    make_lineage: Callable[..., Lineage], open_page: MakePage, tmp_path: Path
) -> MakePage:
    """`page_with(network, shape)` → a report whose script has this network and no images."""

    def make(network: nn.Sequential, shape: tuple[int, int]) -> Any:
        layers, weights = layers_of(network)
        names = named_dataset("mnist").class_names
        content = {"shape": shape, "classes": names, "digits": True, "draw": True, "rows": []}
        content |= {"layers": layers, "weights": base64.b64encode(weights).decode()}
        text = json.dumps({**content, "images": ""})
        path = tmp_path / "page.html"
        path.write_text(BLOCK.sub(rf"\g<1>{text}\g<2>", report_of(make_lineage()).read_text()))
        return open_page(path)

    return make


def random_network(shape: tuple[int, int], *overrides: str) -> nn.Sequential:
    """A network as after a training: no weight, mean or variance is what it was at first."""
    model = load_recipe("fast", ("model.hidden=[40, 30]", *overrides)).model
    network = build_network(model, shape[0] * shape[1], 10, mean=33.3, std=78.6)
    initialize(network, model, seed=1)
    torch.manual_seed(0)
    for name, value in network.named_buffers():
        if "running" in name or name.endswith("temperature"):
            value.uniform_(0.5, 2.0)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.activation=leaky_relu", "model.negative_slope=0.2", "model.batch_norm=false"),
        ("model.activation=tanh", "model.output=log_softmax", *NLL),
        ("model.activation=gelu", "model.dropout=0.2"),
        ("model.output=activation", "training.loss=mse", NLL[1]),
    ],
    ids=["batch norm", "leaky", "tanh", "gelu", "activation"],
)
def test_the_page_computes_what_onnxruntime_does(page_with: MakePage, overrides: Any) -> None:
    shape = (28, 28)
    network = random_network(shape, *overrides)
    generator = np.random.default_rng(0)
    images_NHW = generator.integers(0, 256, (100, *shape), dtype=np.uint8)
    images_NHW[generator.random(images_NHW.shape) < 0.8] = 0
    words = {**WORDS, "class_names": [str(label) for label in range(10)]}
    model = read_model(onnx_bytes(network, shape, 10, words), "model.onnx")
    program = "images => images.map(image => [...probabilities(image)])"
    found = page_with(network, shape).evaluate(program, images_NHW.reshape(100, -1).tolist())
    assert np.abs(np.array(found) - model.probabilities(images_NHW)).max() < 1e-3
    assert len({*np.argmax(found, axis=1)}) > 2


def test_gelu_by_tanh_and_weights_that_do_not_fit(
    page_with: MakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Linear(20, 9), nn.GELU("tanh"), nn.Linear(9, 10)).eval()
    image = torch.linspace(-3, 3, 20)
    found = page_with(network, (4, 5)).evaluate("x => [...run(x, data.layers)]", image.tolist())
    assert np.allclose(found, network(image).detach(), atol=0.01)
    network[0].weight.data[0, 0] = 1e6
    assert layers_of(network)[1] == b""
    monkeypatch.setattr(live, "MAX_WEIGHT_BYTES", 100)
    assert layers_of(random_network((4, 5)))[1] == b""


@pytest.mark.parametrize("strokes", [SEVEN, ONE, ZERO, [[(0.4, 0.4)]]], ids=["7", "1", "0", "dot"])
def test_strokes_become_what_predict_makes_of_them(
    page_with: MakePage, draw: Callable[..., str], strokes: Any
) -> None:
    page = page_with(random_network((28, 28)), (28, 28))
    draw(page, strokes)
    ink_hw, seen = page.evaluate("[[...render().pixels], [...seen]]")
    image_HW = centred(np.array(ink_hw, np.uint8).reshape(280, 280), Form(28, 28, is_digits=True))
    assert image_HW.max() == 255
    assert np.abs(np.array(seen).reshape(28, 28) - image_HW.astype(int)).max() <= 1


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """A network that knows scikit-learn's digits, 8×8."""
    digits, choice = load_digits(), load_recipe("small", ("training.epochs=20",))
    images = torch.from_numpy((digits.data * 255 / 16).round().astype(np.uint8))
    rows = TensorDataset(images, torch.from_numpy(digits.target))
    network = build_network(choice.model, 64, 10, float(images.float().mean()), 95.0)
    initialize(network, choice.model, seed=3)
    with one_thread():
        Trainer(network, choice.training, (8, 8), rows, rows).fit(lambda steps, words: None)
    return network.eval()


def test_a_drawn_7_1_and_0_are_read(
    page_with: MakePage, draw: Callable[..., str], trained: nn.Sequential
) -> None:
    page = page_with(trained, (8, 8))
    assert [draw(page, strokes) for strokes in (SEVEN, ONE, ZERO)] == ["7", "1", "0"]
    assert page.locator("#bars .best b").inner_text() == "0"
    page.click("#undo")
    assert page.locator("#answer").inner_text() == "–"
    assert page.locator("#seen").evaluate("() => seen.every(grey => grey === 0)")


def test_an_error_is_shown_loaded_and_altered(
    make_lineage: Callable[..., Lineage], open_page: MakePage, draw: Callable[..., str]
) -> None:
    matrix = [[2 * (row == column) for column in range(10)] for row in range(10)]
    matrix[0][:2] = [1, 1]
    page = open_page(report_of(make_lineage(confusion_matrix=matrix)))
    page.click("#matrix tbody tr:nth-child(4) td:nth-child(5) button")
    assert page.locator("#closer .soft").inner_text() == "3 named 3: 2 of 2 images"
    page.click("#matrix tbody tr:nth-child(1) td:nth-child(3) button")
    assert page.locator("#closer .soft").inner_text() == "0 named 1: 1 of 1 images"
    page.click("#closer .images button")
    assert page.locator("#origin").inner_text() == "Test image 0, labelled 0"
    assert page.evaluate("rows[0].image.every((grey, place) => grey === seen[place])")
    draw(page, [[(0.1, 0.5), (0.9, 0.5)]], clear=False)
    assert page.locator("#origin").inner_text().endswith("altered")
    assert page.evaluate("seen.slice(10, 15).reduce((sum, grey) => sum + grey)") > 1000
    page.click("#undo")
    assert page.evaluate("rows[0].image.every((grey, place) => grey === seen[place])")


def test_tables_sort_and_units_are_shown(
    make_lineage: Callable[..., Lineage], open_page: MakePage
) -> None:
    page = open_page(report_of(make_lineage()))
    header = page.locator("table.sorts", has_text="precision").locator("thead th").first
    for order in ("ascending", "descending"):
        header.locator("button").press("Enter")
        assert header.get_attribute("aria-sort") == order
    first = page.locator("table.sorts", has_text="precision").locator("tbody th").first
    assert first.inner_text() == "9"
    page.click("#units summary")
    page.locator("#unit-pictures canvas").nth(5).wait_for()
    assert page.locator("#unit-pictures canvas").count() == 6


def test_foreign_text_does_not_run_and_the_network_is_shut(
    make_lineage: Callable[..., Lineage], browser: Any
) -> None:
    evil = "</script><script>window.evil = 1</script><img src=x onerror='window.evil=1'>"
    names = tuple(f"{evil}{label}" for label in range(10))
    dataset = named_dataset("mnist").model_copy(update={"title": evil, "class_names": names})
    page = browser.new_page()
    page.goto(report_of(make_lineage(dataset=dataset)).as_uri())
    assert evil in page.locator("h1").inner_text()
    assert page.locator("#bars li").count() == 10
    assert page.locator("#pad").is_hidden()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{ textContent: 'window.evil = 1' }))"
    )
    assert page.evaluate("window.evil") is None
    assert "Failed" in page.evaluate("fetch('http://127.0.0.1:9/').catch(String)")
    page.close()


def test_without_javascript_the_page_says_so(
    make_lineage: Callable[..., Lineage], browser: Any
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report_of(make_lineage()).as_uri())
    assert page.get_by_text("With JavaScript off").is_visible()
    assert page.locator("#matrix td").first.is_visible()
    assert not page.locator(".live:visible").count()
    context.close()
