"""The signals of drift, on real 8×8 digits and a small model of scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tasks.prediction.drift import (
    DRIFT,
    NO_DRIFT,
    TOO_FEW,
    Answered,
    Signal,
    block_means,
    find_drift,
    verdict_of,
    worth_labelling,
)

NAMES = tuple("0123456789")
Look = Callable[..., dict[str, Signal]]
IMAGES = (load_digits().images * 15.9).astype(np.uint8)
LABELS = load_digits().target
ORDER = np.random.default_rng(0).permutation(len(IMAGES))
TRAIN, HELD = ORDER[:900], ORDER[900:]


@pytest.fixture(scope="module")
def answered() -> Callable[[np.ndarray], Answered]:
    model = LogisticRegression(C=0.01, max_iter=2000)
    model.fit(IMAGES[TRAIN].reshape(-1, 64) / 16, LABELS[TRAIN])

    def ask(images: np.ndarray) -> Answered:
        likely = model.predict_proba(images.reshape(-1, 64) / 16)
        return Answered(images, likely.astype(np.float32))

    return ask


@pytest.fixture(scope="module")
def look(answered: Callable[[np.ndarray], Answered]) -> Look:
    confidence = float(answered(IMAGES[HELD]).probabilities_NC.max(axis=1).mean())
    metrics = {"num_rows": len(HELD)}
    metrics["reliability"] = [{"confidence": confidence, **metrics}]

    def signals(images: np.ndarray) -> dict[str, Signal]:
        found, unlike = find_drift(answered(IMAGES[TRAIN]), answered(images), metrics, NAMES)
        assert len(unlike) == len(TRAIN) + len(images)
        return {signal.name: signal for signal in found}

    return signals


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_rows", [200, 500])
def test_clean_rows_are_no_drift(look: Look, seed: int, num_rows: int) -> None:
    rows = np.random.default_rng(seed).choice(HELD, num_rows, replace=False)
    assert verdict_of(tuple(look(IMAGES[rows]).values())) == NO_DRIFT


def test_each_signal_sees_its_own_kind_of_drift(look: Look) -> None:
    def alarms(images: np.ndarray) -> set[str]:
        found = look(images)
        assert verdict_of(tuple(found.values())) == DRIFT
        return {name for name, signal in found.items() if signal.alarms}

    clean = IMAGES[HELD]
    grain = np.random.default_rng(0).normal(0, 10, clean.shape)
    assert alarms(np.clip(clean + grain, 0, 255).astype(np.uint8)) == {"auc"}
    turned = ndimage.rotate(clean, 25, axes=(1, 2), reshape=False, order=1)
    assert alarms(turned) >= {"auc", "estimated_accuracy"}
    mixed = HELD[(LABELS[HELD] < 5) | (np.arange(len(HELD)) % 5 == 0)]
    found = look(IMAGES[mixed])
    assert found["class_shares"].alarms
    assert not found["estimated_accuracy"].alarms


def test_an_estimate_says_when_it_does_not_hold(look: Look) -> None:
    assert "far lower" in look(255 - IMAGES[HELD])["estimated_accuracy"].words
    assert "far lower" not in look(IMAGES[HELD])["estimated_accuracy"].words


def test_few_rows_have_no_signals_and_wider_limits(look: Look) -> None:
    assert look(IMAGES[HELD[:199]]) == {}
    assert verdict_of(()) == TOO_FEW
    few, many = look(IMAGES[HELD[:200]]), look(IMAGES[HELD])
    assert few["auc"].limit > many["auc"].limit
    assert few["class_shares"].limit > many["class_shares"].limit


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (5, 9), (1, 1), (30, 17)])
def test_blocks_are_means_whatever_the_shape(shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    blocks = block_means(images)
    assert blocks.shape == (3, min(7, shape[0]) * min(7, shape[1]))
    assert block_means(np.full_like(images, 200)) == pytest.approx(200)
    if shape == (28, 28):
        assert blocks[1].reshape(7, 7)[2, 3] == pytest.approx(images[1, 8:12, 12:16].mean())


def test_the_uncertain_and_unlike_are_worth_labelling_and_no_image_twice(
    answered: Callable[[np.ndarray], Answered],
) -> None:
    turned = ndimage.rotate(IMAGES[HELD[:50]], 40, axes=(1, 2), reshape=False, order=1)
    mixed = np.concatenate([IMAGES[HELD[50:]], turned])
    picked = worth_labelling(IMAGES[TRAIN], answered(mixed), 20)
    assert len(set(picked.tolist())) == 20
    assert (picked >= len(HELD) - 50).mean() > 0.4  # of 6 % of the images
    assert sorted(worth_labelling(IMAGES[TRAIN], answered(mixed[:7]), 20)) == list(range(7))
