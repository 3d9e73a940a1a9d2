"""A folder to be labelled: the images worth it most, and what becomes of it when filled in."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline_config.datasets import named_dataset
from pipeline_config.sections import ConfigError
from tasks.dataset.incoming import take_in
from tasks.dataset.shards import read_shard
from tasks.prediction import labelling
from tasks.prediction.answers import Request, predict_files
from tasks.raw.forms import read_parts
from tasks.raw.idx import write_idx
from tasks.runtime.errors import RawDataError

MakeBundle = Callable[..., Path]


@pytest.fixture
def ask(
    make_bundle: MakeBundle, digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, Path], None]:
    """Answer twenty digits, half of them blurred with another, and write N to be labelled."""
    monkeypatch.setattr(labelling, "training_rows", lambda bundle, size: digits)
    blurred = digits // 3 + np.roll(digits, 1, axis=0) // 3
    write_idx(tmp_path / "images", np.concatenate([digits, digits, blurred]))
    model = make_bundle()

    def call(num_wanted: int, folder: Path) -> None:
        words = {"files": (str(tmp_path / "images"),), "model": str(model)}
        predict_files(Request(**words, to_label=(num_wanted, str(folder))))

    return call


def fill_in(folder: Path, labels: list[str]) -> None:
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    lines = [("file", "label"), *zip(names, labels, strict=True)]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def test_a_filled_in_folder_is_a_shard(ask: Callable[[int, Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "to label"
    ask(5, folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"000{n}.png" for n in range(1, 6)] + ["labels.csv"]
    assert (folder / "labels.csv").read_text().split() == [
        "file,label",
        *(f"{n}," for n in names[:5]),
    ]
    with pytest.raises(RawDataError, match=r"labels\.csv: row 1, '0001\.png': found no label"):
        take_in(named_dataset("mnist"), folder)
    fill_in(folder, ["3", "3", " 9", "0", "1"])
    images, labels = read_shard(take_in(named_dataset("mnist"), folder))
    assert list(labels) == [3, 3, 9, 0, 1]
    with Image.open(folder / "0001.png") as picture:
        assert np.array_equal(images[0], np.asarray(picture))


def test_labels_are_names_or_numbers(ask: Callable[[int, Path], None], tmp_path: Path) -> None:
    fashion = named_dataset("fashion-mnist")
    for number, labels in enumerate((["Sandal", "Bag", "Sandal"], ["5", "8", "5"])):
        ask(3, tmp_path / str(number))
        fill_in(tmp_path / str(number), labels)
        shard = take_in(fashion, tmp_path / str(number))
        assert list(read_shard(shard)[1]) == [5, 8, 5]
    fill_in(tmp_path / "0", ["Sandal", "8", "Sandal"])
    with pytest.raises(RawDataError, match="the class '8'"):
        take_in(fashion, tmp_path / "0")


def test_the_unsure_come_first_and_no_image_twice(
    ask: Callable[[int, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = labelling.drift_limits().model_copy(update={"max_rows": 12})
    monkeypatch.setattr(labelling, "drift_limits", lambda: limits)
    ask(99, tmp_path / "all")
    fill_in(tmp_path / "all", ["0"] * 12)
    images = read_parts(tmp_path / "all", tmp_path)["all"].images_NHW
    assert len(np.unique(images, axis=0)) == 12
    # A digit that is blurred with another has no pixel as bright as one alone.
    assert (images.max(axis=(1, 2)) < 200).sum() == 10


def test_a_folder_with_something_in_it_stays(
    ask: Callable[[int, Path], None], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ask(1, tmp_path / "empty")
    before = sorted(tmp_path.joinpath("empty").iterdir())
    for taken in (tmp_path / "empty", tmp_path / "images"):
        with pytest.raises(ConfigError, match="a new or empty folder"):
            ask(1, taken)
    assert sorted(tmp_path.joinpath("empty").iterdir()) == before


@pytest.mark.parametrize("name", ["../images", "gone.png", ""])
def test_a_row_names_a_picture_beside_it(
    ask: Callable[[int, Path], None], tmp_path: Path, name: str
) -> None:
    ask(1, tmp_path / "one")
    (tmp_path / "one" / "labels.csv").write_text(f"file,label\n{name},3\n")
    with pytest.raises(RawDataError, match=r"row 1, .*: found no file of this name"):
        read_parts(tmp_path / "one", tmp_path)
