"""Tests of the IDX format: reading, writing, malformed files and files that do not fit together.

Damaged files in large numbers are tested in tests/faults/test_fuzzing.py.
"""

from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.raw.idx import DTYPES, read_idx, read_splits, write_idx
from tasks.runtime.errors import RawDataError

any_array = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    )
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def message_of(path: Path) -> str:
    with pytest.raises(RawDataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def content_of(array: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        write_idx(path, array)
        return path.read_bytes()


@quick
@given(any_array)
def test_reading_returns_what_was_written(array):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        write_idx(path, array)
        back = read_idx(path)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes()
        assert not back.flags.writeable


def test_arrays_of_any_byte_order_and_layout_are_written(tmp_path):
    array = np.arange(24, dtype="<i4").reshape(2, 3, 4)
    write_idx(tmp_path / "a", array.T)
    write_idx(tmp_path / "b", np.ascontiguousarray(array.T).astype(">i4"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array.T)


def test_the_header_follows_the_format(tmp_path):
    write_idx(tmp_path / "a", np.zeros((2, 3), np.int16))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000b02 00000002 00000003") + bytes(12)


def test_arrays_have_at_most_64_dimensions(tmp_path):
    array = np.arange(2, dtype=np.uint8).reshape((1,) * 63 + (2,))
    write_idx(tmp_path / "a", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)
    (tmp_path / "b").write_bytes(bytes((0, 0, 8, 65)) + bytes(400))
    assert "65 dimensions" in message_of(tmp_path / "b")


@quick
@given(any_array, st.data())
def test_truncated_data_and_trailing_bytes_are_refused(array, data):
    content = content_of(array)
    length = data.draw(st.integers(0, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(content[:length])
        assert "truncated" in message_of(path) or "empty file" in message_of(path)
        path.write_bytes(content + b"x")
        assert "trailing bytes" in message_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\x00", "a truncated header of 1 bytes in place of 4"),
        (b"\x00\x00\x08\x03\x00\x00", "a truncated header of 6 bytes in place of 16"),
        (b"\n<!DOCTYPE html><html>", "a web page (HTML)"),
        (gzip.compress(b"x", mtime=0), "a gzip file"),
        (b"PK\x03\x04rest", "a zip file"),
        (b"\x01\x00\x08\x01" + bytes(4), "the wrong magic number 01 00 08 01"),
        (b"\x00\x00\x07\x01" + bytes(4), "the unknown type 07"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(7), "truncated data: 23 bytes"),
        # Twenty bytes that declare terabytes, and sizes whose product overflows 63 bits.
        (struct.pack(">4B2I", 0, 0, 14, 2, 2**20, 2**20) + bytes(8), "8,796,093,022,220 bytes"),
        (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "whose product overflows"),
        (struct.pack(">4B4I", 0, 0, 8, 4, 0, *[2**32 - 1] * 3), "whose product overflows"),
    ],
)
def test_each_fault_has_its_own_message(tmp_path, content, words):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    assert words in message_of(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in message_of(tmp_path / "loop")
    assert "No such file" in message_of(tmp_path / "none")
    assert "directory" in message_of(tmp_path)


# The four files together

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def u8(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def test_the_splits_of_an_intact_data_set_are_read(raw):
    found = read_splits(raw, 10)
    shapes = [(images.shape, labels.shape) for images, labels in found.values()]
    assert [*found] == ["train", "test"]
    assert shapes == [((20, 4, 4), (20,)), ((10, 4, 4), (10,))]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({TRAIN_IMAGES: u8(20), TRAIN_LABELS: u8(20, 4, 4)}, "files are swapped"),
        ({TRAIN_LABELS: u8(19)}, "19 labels, expected 20, one for each image"),
        ({TRAIN_IMAGES: u8(20, 16)}, "20×16 uint8, expected N×H×W uint8"),
        ({TRAIN_LABELS: np.zeros((20, 8), np.int32)}, "20×8 int32, expected N uint8"),
        ({TEST_LABELS: np.zeros(10, np.int16)}, "10 int16, expected N uint8"),
        ({TEST_IMAGES: u8(10, 4, 5)}, "images of 4×5, expected 4×4 as in training"),
        ({TEST_IMAGES: u8(0, 4, 4), TEST_LABELS: u8(0)}, "0×4×4 uint8, expected N×H×W uint8"),
        ({TRAIN_IMAGES: u8(20, 0, 4)}, "20×0×4 uint8"),
        (
            {TRAIN_LABELS: np.array([1, 2, 3, 10, 4, 11] + [0] * 14, np.uint8)},
            "label 10 in row 3 (2 rows outside the classes), expected labels from 0 to 9",
        ),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, arrays, changes, words):
    for name, array in {**arrays, **changes}.items():
        write_idx(tmp_path / name, array)
    with pytest.raises(RawDataError) as caught:
        read_splits(tmp_path, 10)
    assert words in str(caught.value)
    assert caught.value.what == str(tmp_path / next(iter(changes)))


def test_a_data_set_may_have_more_than_ten_classes(tmp_path, arrays):
    labels = arrays[TRAIN_LABELS] + np.uint8(20)
    for name, array in {**arrays, TRAIN_LABELS: labels}.items():
        write_idx(tmp_path / name, array)
    assert len(read_splits(tmp_path, 30)["train"][1]) == 20
    with pytest.raises(RawDataError, match="--classes 30"):
        read_splits(tmp_path, 29)


def test_an_error_names_the_file_and_its_data_set(tmp_path, arrays):
    for name, array in {**arrays, TRAIN_LABELS: u8(19)}.items():
        write_idx(tmp_path / name, array)
    with pytest.raises(RawDataError) as caught:
        read_splits(tmp_path, 10, "the folder /home/me/digits")
    assert caught.value.what == f"{TRAIN_LABELS} of the folder /home/me/digits"
    assert str(tmp_path) not in str(caught.value)


def test_the_error_for_a_missing_file_names_it(tmp_path):
    with pytest.raises(RawDataError, match=TRAIN_IMAGES):
        read_splits(tmp_path, 10)
