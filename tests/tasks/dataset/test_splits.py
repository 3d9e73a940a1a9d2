import numpy as np
import pytest

from tasks.dataset.profile import frame_of, profile
from tasks.dataset.splits import Differences, compare_splits, near_copies, with_differences

LABELS = (np.arange(400) % 4).astype(np.uint8)


def wedges(seed, rows=400, side=12):
    """Images of noise with a bright slanted stroke, thicker on the left, at a place by label."""
    images = np.random.default_rng(seed).integers(0, 60, (rows, side, side))
    y, x = np.indices((side, side))
    for image, label in zip(images, LABELS[:rows].tolist(), strict=True):
        image[np.abs(y - x / 3 - 2 - 2 * label) < 2 - x / 8] += 150
    return images.astype(np.uint8)


TRAIN, TEST = (wedges(0), LABELS), (wedges(1), LABELS)


def test_equal_splits_differ_in_nothing():
    found = compare_splits(TRAIN, TEST)
    assert set(found.figures.values()) == {0.0}
    assert set(found.near_N) == {-1}


def test_two_swapped_classes_are_a_rise_whichever_split_has_them():
    swapped = np.array([0, 2, 1, 3], np.uint8)[LABELS]
    assert compare_splits((TRAIN[0], swapped), TEST).figures["swapped"] > 0.7
    assert compare_splits(TRAIN, (TEST[0], swapped)).figures["swapped"] > 0.7


def test_wrong_labels_are_noise_of_their_split():
    rows = np.random.default_rng(5).permutation(400)[:80]
    labels = LABELS.copy()
    labels[rows] = (labels[rows] + 1) % 4
    train, test = (
        compare_splits(*pair) for pair in (((TRAIN[0], labels), TEST), (TRAIN, (TEST[0], labels)))
    )
    assert train.figures["train_noise"] > 0.15 and train.figures["test_noise"] == 0
    assert test.figures["test_noise"] > 0.15 and test.figures["train_noise"] == 0


def test_a_mirror_and_a_turn_are_measured_where_labels_fit():
    from scipy.ndimage import rotate

    turned = np.round(rotate(TEST[0] * 1.0, 8, axes=(2, 1), reshape=False, order=1))
    mirrored = compare_splits(TRAIN, (TEST[0][:, :, ::-1], LABELS)).figures
    assert mirrored["mirrored"] == pytest.approx(1, abs=0.1) and mirrored["turned"] == 0
    figures = compare_splits(TRAIN, (turned.astype(np.uint8), LABELS)).figures
    assert 4 < figures["turned"] < 10 and figures["mirrored"] < 0.3
    shuffled = np.random.default_rng(0).permutation(LABELS)
    figures = compare_splits(TRAIN, (turned.astype(np.uint8), shuffled)).figures
    assert figures["turned"] == figures["mirrored"] == 0


def test_near_copies_are_found_with_their_originals():
    margin = ((0, 0), (2, 2), (2, 2))
    images, test = np.pad(TRAIN[0], margin), np.pad(TEST[0][:20], margin)
    test[3], test[5], test[7] = images[40], np.roll(images[41], 1, axis=1), images[42]
    test[3, 6, 6] ^= 4
    near = near_copies(images, test)
    assert near[[3, 5, 7]].tolist() == [40, 41, 42]
    assert np.count_nonzero(near >= 0) == 3

    frame = frame_of(profile(images, LABELS), profile(test, LABELS[:20]), {"train": 1, "test": 1})
    differences = Differences({}, {}, near)
    rows = with_differences(frame, differences)
    assert rows.index[rows["near"] == 1].tolist() == [403, 405]
    assert rows["near_twin"][403] == 40
    assert rows["near"].isna().sum() == 400


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (2, 40, 1), (5, 3, 70)])
def test_any_shape_and_number_of_rows_can_be_compared(shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = np.zeros(shape[0], np.uint8)
    found = compare_splits((images, labels), (images[:1], labels[:1]))
    assert np.isfinite(list(found.figures.values())).all()
    assert found.near_N.tolist() == [0]
