"""Changed validation rows: what changes, by how much, and always in the same way."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluation.robustness import CHANGES, changed, robustness


@pytest.fixture
def images() -> np.ndarray:
    """Bright bars on a dark ground, uint8 (20, 28, 28)."""
    bars = np.zeros((20, 28, 28), np.uint8)
    bars[:, 6:22, 12:16] = 200
    return bars


def test_every_change_alters_the_images_and_always_alike(images: np.ndarray) -> None:
    before, found = images.copy(), list(changed(images))
    assert [name for name, *_ in found] == [name for name in CHANGES for _ in range(4)]
    for (name, _, first), (*_, again) in zip(found, changed(images), strict=True):
        assert (first.dtype, first.shape) == (np.uint8, images.shape)
        assert not np.array_equal(first, images), name
        assert np.array_equal(first, again), name
    assert np.array_equal(images, before)


def test_strengths_mean_what_they_say(images: np.ndarray) -> None:
    found = {(name, strength): each for name, strength, each in changed(images)}
    assert found["contrast", 50].max() == 100
    assert (found["stroke width", 1] > 0).sum() > (images > 0).sum()
    assert (found["stroke width", -1] > 0).sum() < (images > 0).sum()
    height = (found["size", 60] > 100).any(axis=2).sum(axis=1)
    assert abs(height - 0.6 * 16).max() <= 1
    rows = np.argwhere(found["shift", 14][0] > 100)[:, 0]
    assert abs(abs(rows.mean() - 13.5) - 0.14 * 28 / np.sqrt(2)) < 0.5


def test_the_accuracy_is_that_of_the_answers(images: np.ndarray) -> None:
    labels = np.ones(20, int)
    rows = robustness(lambda each: (each.max(axis=(1, 2)) > 150).astype(int), images, labels)
    accuracy = {(row["change"], row["strength"]): row["accuracy"] for row in rows}
    assert accuracy["none", 0] == 1
    assert accuracy["contrast", 50] == 0
    assert len(rows) == 33
