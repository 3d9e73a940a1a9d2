"""What is like the training images and what is not, on the real 8×8 digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tasks.evaluation.likeness import Arrays, fit_likeness, strangeness, with_scales

Seen = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def world() -> tuple[Arrays, Seen, LogisticRegression]:
    """Arrays fitted on 1,000 digits and scaled on 400; the other digits, as a model sees them."""
    images, labels = load_digits(return_X_y=True)
    images = (images * 255 / 16).round().astype(np.uint8)
    model = LogisticRegression(max_iter=1000).fit(images[:1000] / 255, labels[:1000])
    fitted = fit_likeness(images[:1000], images[:1000].astype(np.float32) / 255, labels[:1000])
    return with_scales(fitted, *seen(model, images[1000:1400])), seen(model, images[1400:]), model


def seen(model: LogisticRegression, images: np.ndarray) -> Seen:
    return images, images.astype(np.float32) / 255, model.decision_function(images / 255)


def test_few_digits_are_rejected(world) -> None:
    arrays, others, _ = world
    assert (strangeness(arrays, *others) > 1).mean() < 0.04


def test_what_is_no_digit_is_rejected(world) -> None:
    arrays, (images, *_), model = world
    chance = np.random.default_rng(0)
    grid = np.zeros((9, 8, 8), np.uint8)
    grid[:, ::3], grid[:, :, ::3] = 255, 255
    things = {
        "noise": chance.integers(0, 256, (200, 64)).astype(np.uint8),
        "inverted": 255 - images,
        "squared paper": grid.reshape(9, 64),
        "scrambled": chance.permuted(images, axis=1),
    }
    for name, thing in things.items():
        assert (strangeness(arrays, *seen(model, thing)) > 1).mean() > 0.9, name
