"""Figures: reproducible bytes, complete PNGs of one width, and unusual inputs."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from tasks.evaluation import figures
from tasks.evaluation.calibration import confidence_metrics, sureness
from tasks.evaluation.confidence_figures import draw_coverage, draw_reliability
from tasks.evaluation.evaluate import Examples, draw_figures
from tasks.evaluation.figures import (
    DPI,
    WIDTH_IN,
    draw_confusion,
    draw_history,
    draw_misclassified,
    draw_per_class,
    draw_samples,
    draw_test_curve,
)
from tasks.evaluation.metrics import measure
from tasks.evaluation.robustness import CHANGES

WIDTH = int(WIDTH_IN * DPI)
FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Ankle boot")

ROBUST = [
    {"change": name, "strength": strength, "accuracy": 0.5}
    for name, strengths in {"none": (0,), **{n: each[2] for n, each in CHANGES.items()}}.items()
    for strength in strengths
]


def problem(names, num_rows=120, shape=(8, 8), sharpness=3.0):
    """Return noise images, labels and noisy probabilities, the same on every call."""
    chance = np.random.default_rng(0)
    labels = np.arange(num_rows) % len(names)
    logits = chance.normal(size=(num_rows, len(names)))
    logits[np.arange(num_rows), labels] += sharpness
    shares = np.exp(logits)
    probabilities = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    images = chance.integers(0, 256, (num_rows, *shape)).astype(np.uint8)
    return images, labels, probabilities


def draw_all(folder, names, **choices):
    """Draw every figure of a problem; return their bytes by name."""
    images, labels, probabilities = problem(names, **choices)
    blunt = np.sqrt(probabilities)
    before = blunt / blunt.sum(axis=1, keepdims=True)
    metrics = measure(probabilities, labels, names)
    metrics |= confidence_metrics(probabilities, before, labels)
    metrics |= {
        "calibrated": True,
        "temperature": 0.5,
        "test_curve": curve(3),
        "robustness": ROBUST,
    }
    rows = Examples(np.arange(len(labels)), images, labels)
    draw_figures(folder, rows, rows, probabilities, metrics, epochs(3), names)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def curve(num_epochs):
    return [
        {"epoch": epoch, "accuracy": 1 - 0.1 / epoch, "macro_f1": 0.9, "loss": 1 / epoch}
        for epoch in range(1, num_epochs + 1)
    ]


def epochs(num_epochs, validated=True):
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "validation_loss": 1.1 / epoch if validated else None,
            "validation_accuracy": 1 - 0.1 / epoch if validated else None,
            "learning_rate": 0.001,
        }
        for epoch in range(1, num_epochs + 1)
    ]


def size(path):
    """Return the width and height of a PNG, and decode it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


def ink(path, box=None):
    """Return whether something is drawn on the white page, or in a box of it."""
    with Image.open(path) as image:
        pixels = np.asarray((image.crop(box) if box else image).convert("L"))
    return bool((pixels < 250).any())


def test_the_bytes_do_not_depend_on_rcparams_which_stay_unchanged(tmp_path):
    first = draw_all(tmp_path / "first", FASHION)
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 30, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        second = draw_all(tmp_path / "second", FASHION)
        assert dict(matplotlib.rcParams) == before
    assert len(first) == 9
    assert first == second


@pytest.mark.parametrize(
    ("names", "choices"),
    [
        (("$1", "a_b^c"), {}),
        (tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), {"num_rows": 520}),
        (tuple(str(i) for i in range(47)), {"num_rows": 470}),
        (FASHION, {"shape": (12, 20), "num_rows": 12}),
    ],
    ids=["two", "letters", "47", "wide and few"],
)
def test_nothing_is_cut_off(tmp_path, names, choices):
    images, labels, probabilities = problem(names, **choices)
    metrics = measure(probabilities, labels, names)
    draw_samples(tmp_path / "samples.png", images, labels, names)
    draw_per_class(tmp_path / "per_class.png", metrics["per_class"])
    draw_confusion(tmp_path / "confusion_matrix.png", metrics["confusion_matrix"], names)
    draw_misclassified(tmp_path / "misclassified.png", images, labels, probabilities, names)
    refuse_cut_off(tmp_path)


def refuse_cut_off(folder):
    """Fail for a figure of another width, an empty one, or one with ink on its edges."""
    for path in folder.glob("*.png"):
        width, height = size(path)
        assert width == WIDTH
        assert ink(path)
        edges = ((0, 0, width, 2), (0, height - 2, width, height))
        edges += ((0, 0, 2, height), (width - 2, 0, width, height))
        assert not any(ink(path, edge) for edge in edges), path.name


def test_figures_without_errors(tmp_path):
    images, labels, probabilities = problem(("a", "b"), sharpness=99.0)
    draw_misclassified(tmp_path / "none.png", images, labels, probabilities, ("a", "b"))
    draw_confusion(tmp_path / "matrix.png", [[60, 0], [0, 60]], ("a", "b"))
    assert size(tmp_path / "none.png")[1] < size(tmp_path / "matrix.png")[1] / 5
    assert ink(tmp_path / "none.png")


def test_a_class_that_is_never_predicted(tmp_path):
    _, labels, probabilities = problem(("a", "b", "c"))
    probabilities[:, 2] = 0
    metrics = measure(probabilities, labels, ("a", "b", "c"))
    assert metrics["per_class"][2]["f1"] == 0
    draw_per_class(tmp_path / "per_class.png", metrics["per_class"])
    assert size(tmp_path / "per_class.png")[0] == WIDTH


@pytest.mark.parametrize(("num_epochs", "validated"), [(1, True), (1, False), (60, True)], ids=str)
def test_history_of_one_and_of_many_epochs(tmp_path, num_epochs, validated):
    draw_history(tmp_path / "history.png", epochs(num_epochs, validated))
    assert size(tmp_path / "history.png")[1] > (800 if validated else 400)


def test_misclassified_images_are_sorted_by_confidence(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        figures,
        "_draw_tiles",
        lambda path, title, images, titles: shown.update(im=images, titles=titles),
    )
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], np.float32)
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    labels = np.array([0, 0, 0, 1])
    draw_misclassified(tmp_path / "x.png", images, labels, probabilities, ("4", "9"))
    assert shown["titles"] == ["4 vs. 9\n80.0 %", "9 vs. 4\n70.0 %", "4 vs. 9\n60.0 %"]
    assert shown["im"].ravel().tolist() == [2, 3, 1]


def test_samples_have_each_class_once_before_any_twice(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        figures, "_draw_tiles", lambda path, title, images, titles: shown.extend(titles)
    )
    labels = np.array([0] * 30 + [1] * 30 + [2] * 2)
    images = np.zeros((62, 8, 8), np.uint8)
    draw_samples(tmp_path / "x.png", images, labels, ("a", "b", "c"))
    assert shown == [*"abcabcabababababab"][:15]


@pytest.mark.parametrize(
    ("num_rows", "sharpness", "calibrated"),
    [(1, 3.0, False), (12, 3.0, True), (300, 0.0, False), (120, 99.0, True)],
    ids=["one row", "a row a bin", "guessing", "always right"],
)
def test_figures_of_confidence(tmp_path, num_rows, sharpness, calibrated):
    _, labels, probabilities = problem(FASHION, num_rows=num_rows, sharpness=sharpness)
    metrics = confidence_metrics(probabilities, probabilities, labels)
    metrics |= {"calibrated": calibrated, "temperature": 1.0}
    draw_reliability(tmp_path / "reliability.png", metrics)
    draw_coverage(
        tmp_path / "coverage.png", sureness(probabilities, labels), metrics["coverage"][0]
    )
    refuse_cut_off(tmp_path)


@pytest.mark.parametrize("num_epochs", [1, 60])
def test_curve_of_one_and_of_many_epochs(tmp_path, num_epochs):
    draw_test_curve(tmp_path / "test_curve.png", curve(num_epochs))
    assert size(tmp_path / "test_curve.png")[1] > 800
