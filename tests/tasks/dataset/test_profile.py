import hashlib
import tracemalloc
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tasks.dataset.profile import SCHEMA, frame_of, profile_batches

stacks = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 0, 1, 7, 200, 255]),
)


def profile(images, labels):
    """The profile of a whole split."""
    return pa.Table.from_batches(profile_batches(images, labels), SCHEMA)


def labels_of(images):
    return (np.arange(len(images)) % 3).astype(np.uint8)


@given(stacks)
def test_each_row_says_what_its_image_is(images):
    rows = profile(images, labels_of(images)).to_pylist()
    for index, (image, row) in enumerate(zip(images, rows, strict=True)):
        assert (row["index"], row["label"]) == (index, index % 3)
        assert (row["min"], row["max"]) == (image.min(), image.max())
        assert row["mean"] == pytest.approx(image.mean())
        assert row["std"] == pytest.approx(image.std(), abs=1e-9)
        edges = (image[0], image[-1], image[:, 0], image[:, -1])
        assert row["edge"] == pytest.approx(np.concatenate(edges).mean())
        assert row["ink"] == np.count_nonzero(image) / image.size
        assert row["sha256"] == hashlib.sha256(image.tobytes()).digest()
        box = image[row["top"] : row["bottom"], row["left"] : row["right"]]
        assert np.count_nonzero(box) == np.count_nonzero(image)
        if image.any():
            sides = (box[0], box[-1], box[:, 0], box[:, -1])
            assert all(side.any() for side in sides)
            y, x = np.indices(image.shape)
            assert row["centre_y"] == pytest.approx(np.average(y, weights=image))
            assert row["centre_x"] == pytest.approx(np.average(x, weights=image))
        else:
            assert box.size == 0 and row["centre_y"] is None and row["centre_x"] is None


@given(stacks, st.integers(1, 4), st.integers(1, 100))
def test_pieces_are_the_whole(images, batch, num_bytes):
    with mock.patch("tasks.dataset.profile.PIECE_BYTES", num_bytes):
        batches = list(profile_batches(images, labels_of(images), batch))
    assert all(len(piece) == batch for piece in batches[:-1])
    assert pa.Table.from_batches(batches, SCHEMA).equals(profile(images, labels_of(images)))


def test_large_images_are_looked_at_one_by_one():
    """Twelve of 4 MB: all at once took 384 MB."""
    images = np.random.default_rng(0).integers(0, 256, (12, 2000, 2000), np.uint8)
    tracemalloc.start()
    try:
        found = profile(images, labels_of(images))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 12
    assert most < 20 * images[0].size


def test_a_constant_image_has_a_spread_of_exactly_zero():
    images = np.full((3, 28, 28), 173, np.uint8)
    assert profile(images, labels_of(images))["std"].to_pylist() == [0.0] * 3


def test_the_frame_knows_each_rows_copies():
    blank, dot, line = np.zeros((3, 2, 2), np.uint8)
    dot[0, 0] = line[0] = 9
    train = profile(np.stack([dot, blank, dot, line]), np.array([0, 0, 1, 1], np.uint8))
    test = profile(np.stack([line, dot]), np.array([1, 0], np.uint8))
    frame = frame_of(train, test)
    assert frame["twin"].tolist() == [2, -1, 0, 4, 3, 0]
    assert frame["twin_labels"].tolist() == [2, 1, 2, 1, 1, 2]
    assert frame["leaked"].tolist() == [0, 0, 0, 0, 1, 1]
    assert frame["class_rows"].tolist() == [2, 2, 2, 2, 1, 1]
