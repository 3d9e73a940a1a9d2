"""The four files together: each way in which they may not fit has its own message."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.raw.idx import write_idx
from tasks.raw.structure import check_structure
from tasks.runtime.errors import RawDataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def u8(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def test_a_sound_data_set(raw):
    found = check_structure(raw, 10)
    assert found.rows == {"train": 20, "test": 10}
    assert found.image_shape == (4, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({TRAIN_IMAGES: u8(20), TRAIN_LABELS: u8(20, 4, 4)}, "files are swapped"),
        ({TRAIN_LABELS: u8(19)}, "19 labels, expected 20, one for each image"),
        ({TRAIN_IMAGES: u8(20, 16)}, "20×16 uint8, 2 dimensions, expected uint8 in 3"),
        ({TRAIN_LABELS: np.zeros((20, 8), np.int32)}, "20×8 int32, 2 dimensions"),
        ({TEST_LABELS: np.zeros(10, np.int16)}, "10 int16, 1 dimensions, expected uint8 in 1"),
        ({TEST_IMAGES: u8(10, 4, 5)}, "images of 4×5, expected 4×4 as in training"),
        ({TEST_IMAGES: u8(0, 4, 4), TEST_LABELS: u8(0)}, "nothing in it"),
        ({TRAIN_IMAGES: u8(20, 0, 4)}, "nothing in it (20×0×4 uint8)"),
        (
            {TRAIN_LABELS: np.array([1, 2, 3, 10, 4, 11] + [0] * 14, np.uint8)},
            "label 10 in row 3 (2 rows outside the classes), expected labels from 0 to 9",
        ),
    ],
)
def test_what_does_not_fit(tmp_path, arrays, changes, words):
    for name, array in {**arrays, **changes}.items():
        write_idx(tmp_path / name, array)
    with pytest.raises(RawDataError) as caught:
        check_structure(tmp_path, 10)
    assert words in str(caught.value)
    assert caught.value.what == str(tmp_path / next(iter(changes)))


def test_more_classes_than_ten(tmp_path, arrays):
    labels = arrays[TRAIN_LABELS] + np.uint8(20)
    for name, array in {**arrays, TRAIN_LABELS: labels}.items():
        write_idx(tmp_path / name, array)
    assert check_structure(tmp_path, 30).rows["train"] == 20
    with pytest.raises(RawDataError, match="--classes 30"):
        check_structure(tmp_path, 29)


def test_an_error_says_whose_file_it_is_about(tmp_path, arrays):
    for name, array in {**arrays, TRAIN_LABELS: u8(19)}.items():
        write_idx(tmp_path / name, array)
    with pytest.raises(RawDataError) as caught:
        check_structure(tmp_path, 10, "the folder /home/me/digits")
    assert caught.value.what == f"{TRAIN_LABELS} of the folder /home/me/digits"
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RawDataError, match=TRAIN_IMAGES):
        check_structure(tmp_path, 10)
