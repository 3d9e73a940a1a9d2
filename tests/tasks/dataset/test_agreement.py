"""How far the nearest class mean agrees with the labels: the figure itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import cohen_kappa_score
from sklearn.neighbors import NearestCentroid

from tasks.dataset.agreement import MAX_SIDE, agreements, kappa

LABELS = (np.arange(300) % 3).astype(np.uint8)


def squares(labels, height=9, width=7, seed=0):
    """Noise, and a bright square whose place tells the label."""
    images = np.random.default_rng(seed).integers(0, 90, (len(labels), height, width))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[: height // 3, label * width // 3 : (label + 1) * width // 3] += 150
    return images.astype(np.uint8)


@given(npst.arrays(np.int64, (2, 20), elements=st.integers(0, 3)))
def test_kappa_is_the_one_that_is_known(classes):
    given_R, named_R = classes
    known = 1.0 if len(set(classes.ravel())) == 1 else cohen_kappa_score(given_R, named_R)
    assert kappa(given_R, named_R) == pytest.approx(known)


def test_it_is_the_nearest_centroid_on_rows_that_it_has_not_seen():
    train, test = squares(LABELS), squares(LABELS[:90], seed=1)
    mixed = np.random.default_rng(0).permutation(LABELS[:90])
    found = agreements((train, LABELS), (test, mixed))
    named = NearestCentroid().fit(train.reshape(300, -1), LABELS).predict(test.reshape(90, -1))
    assert found["train"] == 1
    assert found["test"] == pytest.approx(cohen_kappa_score(mixed, named), abs=1e-9)


@pytest.mark.parametrize("side", [MAX_SIDE, 5 * MAX_SIDE + 1])
def test_large_images_are_sampled_and_one_row_is_enough(side):
    labels = LABELS[:60]
    split = (squares(labels, side, side), labels)
    assert agreements(split, split) == {"train": 1, "test": 1}
    one = (split[0][:1], labels[:1])
    assert agreements(one, one) == {"train": 1, "test": 1}


def test_labels_that_have_nothing_to_do_with_the_images():
    labels = np.random.default_rng(1).permutation(LABELS)
    found = agreements((squares(LABELS), labels), (squares(LABELS), LABELS))
    assert abs(found["train"]) < 0.1
