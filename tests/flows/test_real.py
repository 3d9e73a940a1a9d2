"""The main job on the real MNIST, from whatever source answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

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
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})
    assert (probabilities.argmax(axis=1) == labels).mean() == pytest.approx(
        summary.metrics["accuracy"]
    )
    table = pyarrow.parquet.read_table(bundle / "probabilities.parquet")
    assert np.array_equal(table["label"].to_numpy(), labels)


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
