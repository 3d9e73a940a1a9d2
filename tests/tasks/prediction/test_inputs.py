"""Files and folders as batches: the same images in the same order, whatever they lie in."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.prediction import inputs
from tasks.prediction.inputs import files_of, image_batches
from tasks.prediction.pictures import Form
from tasks.raw.idx import write_idx
from tasks.runtime.errors import RawDataError

FORM = Form(6, 5, is_digits=True)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 6, 5), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BATCH", 4)
    monkeypatch.setattr(inputs, "PICTURES", 2)


def read(*files: Path) -> tuple[list[tuple[str, int]], np.ndarray]:
    """The (source, index) of every image, and the images."""
    found = list(image_batches(files_of([*map(str, files)]), FORM))
    rows = [row for batch in found for row in zip(batch.sources, batch.index_B, strict=True)]
    return rows, np.concatenate([batch.images_BHW for batch in found])


def write_parquet(path: Path, images: np.ndarray, kind: pa.DataType, **how: object) -> Path:
    column = pa.array([image.tobytes() for image in images], kind)
    pq.write_table(pa.table({"label": [0] * len(images), "image": column}), path, **how)
    return path


def write_one(path: Path, images: np.ndarray, kind: str) -> Path:
    match kind:
        case "idx":
            write_idx(path, images)
        case "gzip":
            write_idx(path, images)
            path.write_bytes(gzip.compress(path.read_bytes()))
        case "fixed":
            write_parquet(path, images, pa.binary(30), row_group_size=3)
        case "binary":
            write_parquet(path, images, pa.binary())
        case "large":
            write_parquet(path, images, pa.large_binary())
    return path


@pytest.mark.parametrize("kind", ["idx", "gzip", "fixed", "binary", "large"])
def test_every_kind_gives_its_images_in_order(
    images: np.ndarray, tmp_path: Path, kind: str
) -> None:
    path = write_one(tmp_path / "a file", images, kind)
    rows, found = read(path)
    assert rows == [(str(path), index) for index in range(11)]
    assert np.array_equal(found, images)


def test_a_folder_gives_its_known_files_in_natural_order(
    images: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "sub 10" / "deep").mkdir(parents=True)
    (tmp_path / "sub 9").mkdir()
    names = ["2.png", "10.png", "sub 9/x.PNG", "sub 10/deep/b1.png", "sub 10/deep/b02.png"]
    plain = np.zeros((5, 6, 5), np.uint8)
    for number, name in enumerate(names):
        plain[number, 2, 2] = 100 + number
        Image.fromarray(plain[number]).save(tmp_path / name)
    write_idx(tmp_path / "t10k-images.idx3-ubyte", images)
    write_idx(tmp_path / "t10k-labels.idx1-ubyte", np.arange(11, dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._2.png").write_bytes(b"of another system")
    (tmp_path / ".hidden").mkdir()
    Image.fromarray(plain[0]).save(tmp_path / ".hidden" / "3.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    rows, found = read(tmp_path)
    order = [(str(tmp_path / name), 0) for name in names]
    order[5:] = [(str(tmp_path / "t10k-images.idx3-ubyte"), index) for index in range(11)]
    assert rows == order
    assert np.array_equal(found, np.concatenate([plain, images]))


def test_a_name_that_is_not_utf_8_is_shown_with_a_replacement(
    images: np.ndarray, tmp_path: Path
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.idx"))
    write_idx(path, images)
    rows, _ = read(path)
    assert rows[0] == (f"{tmp_path}/\N{REPLACEMENT CHARACTER}.idx", 0)


def unfit(folder: Path, images: np.ndarray, fault: str) -> tuple[Path, str]:  # noqa: C901
    """A file that does not do, and a piece of what is said about it."""
    path = folder / "unfit"
    match fault:
        case "labels":
            write_idx(path, np.arange(5, dtype=np.uint8))
            return path, "5 uint8, expected N×6×5 uint8"
        case "size":
            write_idx(path, images.transpose(0, 2, 1))
            return path, "11×5×6 uint8, expected N×6×5"
        case "type":
            write_idx(path, images.astype(np.int32))
            return path, "11×6×5 int32"
        case "none":
            write_idx(path, images[:0])
            return path, "no images"
        case "cut":
            write_idx(path, images)
            path.write_bytes(path.read_bytes()[:-1])
            return path, "truncated"
        case "gzip cut":
            path.write_bytes(write_one(path, images, "gzip").read_bytes()[:-9])
            return path, "damaged"
        case "gzip size":
            return write_one(path, images[:, 1:], "gzip"), "11×5×5 uint8"
        case "column":
            pq.write_table(pa.table({"pixels": [b"x"]}), path)
            return path, r"\['pixels'\], expected a column 'image' of 30 bytes"
        case "column type":
            pq.write_table(pa.table({"image": ["x" * 30]}), path)
            return path, "image: string"
        case "fixed size":
            return write_parquet(
                path, images[:, 1:], pa.binary(25)
            ), r"image: fixed_size_binary\[25\]"
        case "binary size":
            return write_parquet(path, images[:, 1:], pa.binary()), "cannot be read so"
        case "null":
            pq.write_table(pa.table({"image": pa.array([None, b"x" * 30], pa.binary())}), path)
            return path, "rows without an image"
        case "no rows":
            return write_parquet(path, images[:0], pa.binary(30)), "no images"
        case "parquet cut":
            path.write_bytes(write_parquet(path, images, pa.binary()).read_bytes()[:-9])
            return path, "cannot be read so"
        case "text":
            path.write_text("hello")
            return path, "the first bytes 68 65"
        case "empty":
            path.touch()
            return path, "an empty file"
        case "pipe":
            os.mkfifo(path)
            return path, "neither a file nor a folder"
        case "missing":
            return path, "no such file"
        case _:
            path.mkdir()
            (path / "notes.txt").touch()
            return path, "a folder without"


FAULTS = ["labels", "size", "type", "none", "cut", "gzip cut", "gzip size", "column"]
FAULTS += ["column type", "fixed size", "binary size", "null", "no rows", "parquet cut"]
FAULTS += ["text", "empty", "pipe", "missing", "folder"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_named(images: np.ndarray, tmp_path: Path, fault: str) -> None:
    path, words = unfit(tmp_path, images, fault)
    with pytest.raises(RawDataError, match=words) as caught:
        read(write_one(tmp_path / "good", images, "idx"), path)
    assert caught.value.what == str(path)


def test_damaged_parquet_is_a_raw_data_error(images: np.ndarray, tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "good", images, pa.binary(30)).read_bytes()
    path = tmp_path / "damaged"
    for place in range(4, len(good) - 4, 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            read(path)
        except RawDataError as error:
            assert error.what == str(path)


MEASURED = """
import re, sys
from pathlib import Path
from tasks.prediction.inputs import files_of, image_batches
from tasks.prediction.pictures import Form
import pyarrow.parquet
from PIL import Image

def most():
    # Of this process alone: what the parent once held is not in it.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before, height, width, *files = most(), int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
try:
    for batch in image_batches(files_of(files), Form(height, width, is_digits=False)):
        pass
except Exception as error:
    print(type(error).__name__)
else:
    print(batch.images_BHW.shape)
print(most() - before)
"""


def measured(*files: Path, form: tuple[int, int]) -> tuple[str, int]:
    """How reading files ended, in a process of its own, and how many MB it took."""
    words = [*map(str, (*form, *files))]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], check=True, capture_output=True, text=True
    )
    ended, megabytes = done.stdout.splitlines()
    return ended, int(megabytes)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(400_000)])
@pytest.mark.parametrize("form", [(28, 28), (400, 1000)])
def test_a_repeated_value_is_in_memory_once(
    tmp_path: Path, kind: pa.DataType, form: tuple[int, int]
) -> None:
    path = tmp_path / "repeated"
    one = pa.array([bytes(400_000)], kind)
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), one)
    pq.write_table(pa.table({"image": rows}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 16_000
    ended, megabytes = measured(path, form=form)
    fits = form == (400, 1000)
    assert (ended == "RawDataError") == (not fits)
    assert megabytes < 150


def test_a_parquet_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    pq.write_table(pa.table({"image": [bytes(300_000_000)]}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    ended, megabytes = measured(path, form=(28, 28))
    assert ended == "RawDataError"
    assert megabytes < 100


def test_large_images_make_small_batches(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.write(b"\0\0\x08\x03" + np.array([40, 3000, 3000], ">u4").tobytes())
        file.truncate(16 + 40 * 3000 * 3000)
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (20, 20, 40, 40))
    pictures = [tmp_path / f"{number}.png" for number in range(40)]
    for path in pictures:
        picture.save(path)
    for files in ([tmp_path / "large"], pictures):
        ended, megabytes = measured(*files, form=(3000, 3000))
        assert ended == "(1, 3000, 3000)"
        assert megabytes < 150
