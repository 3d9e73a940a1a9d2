"""The two pages: what they say about confidence, corrected labels, test curves and cautions."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import mistune
import pytest
from markdown_it import MarkdownIt

from pipeline_config.datasets import named_dataset
from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import cautions_of, load_recipe
from tasks.release import live
from tasks.release.assemble import Lineage, copy_outputs, provenance_of
from tasks.release.bundle import CARD, METRICS, REPORT, evenly
from tasks.release.pages import MAX_HISTORY_ROWS, write_report

PLUGINS = ["table", "strikethrough", "url", "math"]
Pages = Callable[[Lineage], tuple[str, str]]


def recipe_with(*overrides: str) -> Recipe:
    """The recipe of the small lineage, with overrides."""
    small = ("model.hidden=[6]", "training.epochs=2", "split.validation.rows=10")
    return load_recipe("fast", (*small, *overrides))


def written(lineage: Lineage, folder: Path) -> tuple[str, str]:
    """The report and the card of a lineage."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy_outputs(lineage, folder)
    write_report(lineage, "0" * 12, provenance_of(lineage), folder)
    return (folder / REPORT).read_text(), (folder / CARD).read_text()


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """`pages(lineage)` → the report and the card, each on one line."""

    def render(lineage: Lineage) -> tuple[str, str]:
        report, card = written(lineage, tmp_path / "bundle")
        return " ".join(unescape(report).split()), " ".join(card.split())

    return render


def test_pages_of_a_calibrated_model(make_lineage, pages):
    for page in pages(make_lineage()):
        assert "1.250" in page
        assert "7.77" in page
        assert "The measured 2.00 points are within it: no sign of false confidence." in page
        assert "ncalibrated" not in page
        assert "on 19 rows" in page or "of 19 images" in page
        assert "Northcutt" in page
    assert "fitting the temperature" in pages(make_lineage())[0]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("split.validation={kind: none}",), "there was nothing to calibrate it on"),
        ((), "Every validation row is classified correctly"),
        (("training.loss=mse", "training.label_smoothing=0.0"), "is not a probability"),
    ],
    ids=["no validation rows", "no errors", "no logits"],
)
def test_pages_say_why_a_model_is_uncalibrated(make_lineage, pages, overrides, reason):
    lineage = make_lineage(
        recipe=recipe_with(*overrides),
        calibrated=False,
        confidence="uncalibrated",
        temperature=1.0,
    )
    for page in pages(lineage):
        assert "Uncalibrated." in page
        assert reason in page
        assert "7.77" not in page


@pytest.mark.parametrize(
    ("ece", "words"), [(0.07, "above it: confidence and accuracy do differ"), (0.001, "below it")]
)
def test_an_error_beside_its_noise_floor(make_lineage, pages, ece, words):
    for page in pages(make_lineage(ece=ece)):
        assert f"{100 * ece:.2f} points are {words}" in page
        assert "Calibrated" not in page
        assert "probabilities are calibrated" not in page


def test_without_corrections_there_is_no_second_figure(make_lineage, pages):
    names = ("accuracy", "interval_95", "rows", "wrong", "labels", "left_out")
    lineage = make_lineage(**dict.fromkeys(f"corrected_{name}" for name in names))
    for page in pages(lineage):
        assert "econd figure" not in page


def test_the_page_says_that_nothing_was_chosen_on_the_test_curve(make_lineage, pages):
    curve = [
        {"epoch": epoch, "accuracy": 0.5, "macro_f1": 0.5, "loss": 1.5} for epoch in range(1, 41)
    ]
    report, card = pages(make_lineage(test_curve=curve))
    assert "Nothing was chosen on this curve" in report
    assert "20 of the 40 epochs" in report
    assert "nothing was chosen on those scores" in card


def test_the_pages_show_the_cautions_of_a_recipe(make_lineage, pages):
    for page in pages(make_lineage()):
        assert "classic mistake" not in page
        assert "Caution" not in page
    recipe = recipe_with("scaling=none")
    for page in pages(make_lineage(recipe=recipe)):
        assert cautions_of(recipe)[0] in page


def test_early_stopping_names_the_epoch_of_the_weights(make_lineage, pages):
    lineage = make_lineage(recipe=recipe_with("training.patience=3"))
    assert "The weights are those after epoch 2, which had the lowest loss" in pages(lineage)[0]


EVIL = (
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png) [ref][1] <javascript:alert(1)> "
    "<img src=x onerror=alert(1)> https://evil.example www.evil.example *bold* _em_ __b__ ~~gone~~ "
    "`code` a|b &lt;i&gt; $x^2$ \\\\[y](z)\n\n# Heading\n\n"
    "[1]: javascript:alert(1)\n- item\n***\n| a |"
)


def tags_of(html: str) -> Counter[str]:
    return Counter(re.findall(r"</?\w+", html))


@pytest.mark.parametrize("flavour", ["commonmark", "mistune"])
def test_foreign_text_is_escaped_in_the_card(
    make_lineage: Callable[..., Lineage], tmp_path: Path, flavour: str
) -> None:
    """In the description, the title, a class's name and where corrections come from."""
    parsers = {
        "commonmark": MarkdownIt("commonmark").enable(["table", "strikethrough"]).render,
        "mistune": mistune.create_markdown(escape=False, plugins=PLUGINS),
    }

    def rendered(words: str) -> str:
        usual = json.loads((make_lineage().evaluated.path / METRICS).read_bytes())
        classes, pairs = usual["per_class"], usual["top_pairs"]
        mnist = named_dataset("mnist")
        assert mnist.corrections
        corrections = mnist.corrections.model_copy(update={"source": words})
        lineage = make_lineage(
            recipe=recipe_with().model_copy(update={"description": words}),
            dataset=mnist.model_copy(update={"title": words, "corrections": corrections}),
            per_class=[{**classes[0], "name": words}, *classes[1:]],
            top_pairs=[{**pairs[0], "first": words}],
        )
        report, card = written(lineage, tmp_path / "bundle")
        assert tags_of(report)["<img"] == 6
        assert tags_of(report)["<script"] == 2
        assert "javascript:" not in str(re.findall(r"<[^>]*>", report))
        return str(parsers[flavour](card))

    plain, evil = rendered("plain"), rendered(EVIL)
    assert tags_of(evil) == tags_of(plain)
    assert unescape(evil).count(" ".join(EVIL.split())) == plain.count("plain")


VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects what a page would load and whether its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "srcset", "href", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("pooled", [False, True])
def test_the_report_is_well_formed_and_self_contained(make_lineage, tmp_path, pooled):
    text, card = written(make_lineage(pooled=pooled), tmp_path / "bundle")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert page.tags.count("img") == 6
    assert page.tags.count("script") == 2
    assert not {"link", "iframe"} & {*page.tags}
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert " style=" not in text
    assert "&lt;1 % of the pixels" in text
    assert ("pooled test split" in text) == pooled
    assert ("pooled test split" in card) == pooled


def test_large_images_are_left_out_but_for_the_surest_errors(make_lineage, tmp_path, monkeypatch):
    """One of the 20 test rows is an error; each image has 4×5 pixels."""

    def rows_within(num_bytes: int) -> list[tuple[int, int, int, float]]:
        monkeypatch.setattr(live, "MAX_IMAGE_BYTES", num_bytes)
        written(make_lineage(), tmp_path / "bundle")
        content = live.live_data(make_lineage(), tmp_path / "bundle")
        assert len(base64.b64decode(content["images"])) == 20 * len(content["rows"]) <= num_bytes
        return content["rows"]

    assert rows_within(20 * 10) == [(0, 0, 1, 0.91)]
    assert [row[1:3] for row in rows_within(20 * 20)] == [(0, 1), *((n, n) for n in range(10))]
    assert len(rows_within(20 * 100)) == 20


def test_a_long_history_is_thinned():
    shown = evenly(500, MAX_HISTORY_ROWS).tolist()
    assert (len(shown), shown[0], shown[-1]) == (20, 0, 499)
    assert shown == sorted(set(shown))
    assert evenly(20, MAX_HISTORY_ROWS).tolist() == [*range(20)]
