"""Fixtures: small data sets as arrays, and as outputs of the fetch and validate stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_config.datasets import FILES, Dataset
from tasks.dataset.profile import profile
from tasks.raw.idx import read_splits, write_idx
from tasks.runtime.files import sha256_file
from tasks.runtime.stages import FETCH, VALIDATE
from tasks.runtime.store import StageRef, build


@dataclass(frozen=True)
class Arrays:
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def changed(self, **changes: np.ndarray) -> Arrays:
        return replace(self, **changes)


def draw_images(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return images of 6×5 random pixels, about half of them black, with a stroke for the label."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(labels), 6, 5)) * (rng.random((len(labels), 6, 5)) < 0.5)
    images[np.arange(len(labels)), 1:5, labels + 1] = 200
    return images.astype(np.uint8)


MakeRaw = Callable[[Arrays], StageRef]


@pytest.fixture
def arrays() -> Arrays:
    """Return 40 training and 30 test images of three classes in turn."""
    labels = (np.arange(70) % 3).astype(np.uint8)
    images = draw_images(labels)
    return Arrays(images[:40], labels[:40], images[40:], labels[40:])


@pytest.fixture
def many(arrays: Arrays) -> Arrays:
    """Return the same with 440 training images, so that one image is a small share."""
    labels = np.resize(arrays.train_labels, 440)
    images = np.concatenate([arrays.train_images, draw_images(labels[40:], seed=1)])
    return arrays.changed(train_images=images, train_labels=labels)


@pytest.fixture
def make_raw() -> MakeRaw:
    """Return a function from arrays to the reference that the fetch stage returns for them."""

    def make(arrays: Arrays) -> StageRef:
        content = hashlib.sha256()
        parts = (
            arrays.train_images,
            arrays.train_labels,
            arrays.test_images,
            arrays.test_labels,
        )
        for part in parts:
            content.update(repr((part.shape, part.dtype)).encode() + part.tobytes())

        def write(folder: Path) -> dict[str, Any]:
            for name, part in zip(FILES, parts, strict=True):
                write_idx(folder / name, part)
            return {
                "sha256": {name: sha256_file(folder / name) for name in FILES},
                "num_bytes": {name: (folder / name).stat().st_size for name in FILES},
            }

        dataset = Dataset(
            name="made-up",
            title="Made up",
            num_classes=3,
            image_shape=None,
            class_names=("0", "1", "2"),
            default_recipe="fast",
            sources=(),
            files={},
            content=content.hexdigest(),
        )
        return build(FETCH, {"dataset": dataset}, write)

    return make


@pytest.fixture
def stages(arrays: Arrays, make_raw: MakeRaw) -> tuple[StageRef, StageRef]:
    """Return the outputs of fetch and validate for `arrays`; the report is left out."""
    raw = make_raw(arrays)

    def write(folder: Path) -> dict[str, Any]:
        for split, (images, labels) in read_splits(raw.path, 3).items():
            pq.write_table(profile(images, labels), folder / f"{split}.profile.parquet")
        return {"num_classes": 3, "image_shape": [6, 5], "rows": {"train": 40, "test": 30}}

    return raw, build(VALIDATE, {"raw": raw, "num_classes": 3}, write)
