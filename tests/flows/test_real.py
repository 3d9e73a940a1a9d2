"""The main job on the real MNIST, from whatever source answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest

from flows.summary import Summary
from pipeline_config.datasets import named_dataset
from tasks.raw.idx import read_idx
from tasks.runtime.errors import FetchError
from tasks.runtime.files import sha256_file

pytestmark = [pytest.mark.flow, pytest.mark.real]
Run = Callable[..., Summary]


@pytest.fixture
def summary(run: Run) -> Summary:
    try:
        return run(dataset="mnist", overrides=())
    except FetchError as error:
        pytest.skip(f"no source of MNIST answers here: {error.found}")


def test_the_default_recipe_reaches_its_mark_on_mnist(summary: Summary, tmp_path: Path) -> None:
    assert summary.metrics["accuracy"] >= 0.985
    paths = {row["name"]: Path(row["path"]) for row in summary.stages}
    for name, file in named_dataset("mnist").files.items():
        assert sha256_file(paths["fetch"] / name) == file.sha256

    bundle = Path(summary.bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert sha256_file(bundle / name) == entry["sha256"]

    images = read_idx(paths["fetch"] / "t10k-images-idx3-ubyte")
    labels = read_idx(paths["fetch"] / "t10k-labels-idx1-ubyte")
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    (probabilities,) = session.run(
        ["probabilities"], {session.get_inputs()[0].name: np.asarray(images)}
    )
    assert (probabilities.argmax(axis=1) == labels).mean() == pytest.approx(
        summary.metrics["accuracy"]
    )
    table = pyarrow.parquet.read_table(bundle / "probabilities.parquet")
    assert np.array_equal(table["label"].to_numpy(), labels)


def test_digits_drawn_in_the_report_are_read(
    summary: Summary, open_page: Callable[[Path], Any], draw: Callable[..., str]
) -> None:
    """Its page is small enough to open at once, and answers as onnxruntime does."""
    assert Path(summary.report).stat().st_size < 3_000_000
    page = open_page(Path(summary.report))
    seven, one = [(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)], [(0.5, 0.15), (0.5, 0.85)]
    turns = np.linspace(0, 2 * np.pi, 40)
    zero = [(0.5 + 0.22 * np.sin(turn), 0.5 - 0.34 * np.cos(turn)) for turn in turns]
    assert [draw(page, [stroke]) for stroke in (seven, one, zero)] == ["7", "1", "0"]

    images = page.evaluate("rows.slice(-100).map(({ image }) => [...image])")
    found = page.evaluate("rows.slice(-100).map(({ image }) => [...probabilities(image)])")
    session = onnxruntime.InferenceSession(Path(summary.bundle) / "model.onnx")
    images_NHW = np.array(images, np.uint8).reshape(-1, 28, 28)
    (expected_NC,) = session.run(["probabilities"], {"images": images_NHW})
    assert np.abs(np.array(found) - expected_NC).max() < 1e-3


def test_the_same_rows_as_csv_become_the_same_files(
    run: Run, summary: Summary, tmp_path: Path
) -> None:
    """The first thousand rows only: the format is the question, not the speed."""
    fetched = Path(summary.stages[0]["path"])
    folder = tmp_path / "table"
    folder.mkdir()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(fetched / f"{prefix}-images-idx3-ubyte")[:1000].reshape(1000, -1)
        labels = read_idx(fetched / f"{prefix}-labels-idx1-ubyte")[:1000]
        with (folder / f"mnist_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(np.column_stack([labels, images]).tolist())
    again = run(dataset=str(folder), recipe="small")
    made = Path(again.stages[0]["path"])
    for prefix in ("train", "t10k"):
        ours = read_idx(made / f"{prefix}-images-idx3-ubyte")
        assert np.array_equal(ours, read_idx(fetched / f"{prefix}-images-idx3-ubyte")[:1000])
