import hashlib
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import cohen_kappa_score
from sklearn.neighbors import NearestCentroid

from tasks.dataset.profile import SAMPLE_SIDE, agreements, frame_of, kappa, profile

stacks = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 0, 1, 7, 200, 255]),
)


def labels_of(images):
    return (np.arange(len(images)) % 3).astype(np.uint8)


@given(stacks)
def test_each_row_has_the_figures_of_its_image(images):
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


@given(stacks, st.integers(1, 100))
def test_pieces_of_any_size_give_the_same_profile(images, num_bytes):
    with mock.patch("tasks.dataset.profile.PIECE_BYTES", num_bytes):
        pieces = profile(images, labels_of(images))
    assert pieces.equals(profile(images, labels_of(images)))


def test_the_profile_of_large_images_takes_little_memory():
    """The bound is for twelve images of 4 MB, of which one is converted at a time."""
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


def test_the_frame_names_the_copies_of_each_row():
    blank, dot, line = np.zeros((3, 2, 2), np.uint8)
    dot[0, 0] = line[0] = 9
    train = profile(np.stack([dot, blank, dot, line]), np.array([0, 0, 1, 1], np.uint8))
    test = profile(np.stack([line, dot]), np.array([1, 0], np.uint8))
    frame = frame_of(train, test, {"train": 0.5, "test": 0.25})
    assert frame["twin"].tolist() == [2, -1, 0, 4, 3, 0]
    assert frame["twin_labels"].tolist() == [2, 1, 2, 1, 1, 2]
    assert frame["leaked"].tolist() == [0, 0, 0, 0, 1, 1]
    assert frame["agreement"].tolist() == [0.5] * 4 + [0.25] * 2
    assert frame["class_rows"].tolist() == [2, 2, 2, 2, 1, 1]


# The agreement of labels with the nearest class mean

LABELS = (np.arange(300) % 3).astype(np.uint8)


def squares(labels, height=9, width=7, seed=0):
    """Return images of noise with a bright square at a place that depends on the label."""
    images = np.random.default_rng(seed).integers(0, 90, (len(labels), height, width))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[: height // 3, label * width // 3 : (label + 1) * width // 3] += 150
    return images.astype(np.uint8)


@given(npst.arrays(np.int64, (2, 20), elements=st.integers(0, 3)))
def test_kappa_is_that_of_scikit_learn(classes):
    given_R, named_R = classes
    known = 1.0 if len(set(classes.ravel())) == 1 else cohen_kappa_score(given_R, named_R)
    assert kappa(given_R, named_R) == pytest.approx(known)


def test_the_agreement_is_that_of_a_nearest_centroid_on_unseen_rows():
    train, test = squares(LABELS), squares(LABELS[:90], seed=1)
    mixed = np.random.default_rng(0).permutation(LABELS[:90])
    found = agreements((train, LABELS), (test, mixed))
    named = NearestCentroid().fit(train.reshape(300, -1), LABELS).predict(test.reshape(90, -1))
    assert found["train"] == 1
    assert found["test"] == pytest.approx(cohen_kappa_score(mixed, named), abs=1e-9)


@pytest.mark.parametrize("side", [SAMPLE_SIDE, 5 * SAMPLE_SIDE + 1])
def test_the_agreement_of_large_images_and_of_single_rows(side):
    labels = LABELS[:60]
    split = (squares(labels, side, side), labels)
    assert agreements(split, split) == {"train": 1, "test": 1}
    one = (split[0][:1], labels[:1])
    assert agreements(one, one) == {"train": 1, "test": 1}


def test_the_agreement_of_shuffled_labels_is_near_zero():
    labels = np.random.default_rng(1).permutation(LABELS)
    found = agreements((squares(LABELS), labels), (squares(LABELS), LABELS))
    assert abs(found["train"]) < 0.1
