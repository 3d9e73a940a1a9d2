"""Comparing images that were served with the training rows of the champion's data set.

Axes: R training rows, images of H×W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from pipeline_config.drift import drift_limits
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.prediction.answers import Classifier, load_classifier
from tasks.prediction.drift import Answered, find_drift, verdict_of
from tasks.prediction.inputs import files_of, image_batches
from tasks.release.bundle import METRICS, ONNX, intact_bundle
from tasks.release.registry import CHAMPION, find_bundle
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import read_regular
from tasks.runtime.stages import CONVERT
from tasks.runtime.store import inspect


class Monitored(Section):
    """The answer of `monitor`: the verdict over `num_images` images, and the three signals."""

    dataset: str
    model: str
    verdict: str
    num_images: int
    num_training_rows: int
    signals: tuple[dict[str, Any], ...]


def monitor(dataset: str, files: tuple[str, ...]) -> Monitored:
    """Return whether images differ from the training rows of a data set, by its champion's answers.

    Of more images than `max_rows` in `drift.yaml`, those with the lowest digests are compared.
    Raises ReleaseError where there is no champion, or no training rows that are intact.
    """
    folder, size = find_bundle(CHAMPION, dataset), drift_limits().max_rows
    classifier = load_classifier(str(folder), dataset)
    images: dict[str, NDArray[np.uint8]] = {}
    for batch in image_batches(files_of(files, set()), classifier.form):
        images |= {sha256_bytes(image.tobytes()): image.copy() for image in batch.images_BHW}
        images = {digest: images[digest] for digest in sorted(images)[:size]}
    served_NHW = np.stack([*images.values()])
    training_RHW = training_rows(folder, size)
    reference, new = (_answered(classifier, each) for each in (training_RHW, served_NHW))
    metrics = from_json(read_regular(folder / METRICS))
    signals, _ = find_drift(reference, new, metrics, classifier.class_names)
    return Monitored(
        dataset=dataset,
        model=classifier.title,
        verdict=verdict_of(signals),
        num_images=len(served_NHW),
        num_training_rows=len(training_RHW),
        signals=tuple(signal._asdict() for signal in signals),
    )


def training_rows(bundle: Path, size: int) -> NDArray[np.uint8]:
    """Return at most `size` training images (R, H, W) of the data that a bundle was made from."""
    from tasks.dataset.table import read_rows

    made = intact_bundle(bundle, ONNX)
    for path in sorted(settings().stages.glob(f"{CONVERT.name}-*")):
        table, damage = inspect(path)
        if table and not damage and table.facts["sha256"] == made.determinants.data:
            num_rows, generator = table.facts["rows"]["train"], np.random.default_rng(0)
            rows_R = np.sort(generator.choice(num_rows, min(size, num_rows), replace=False))
            return read_rows(table.ref, rows_R)[0].reshape(-1, *table.facts["image_shape"])
    what, expected = f"the training rows of {made.dataset}/{made.version}", "those of the stages"
    remedy = f"Make them again: `idxflow run --dataset {made.dataset}`."
    raise ReleaseError(what, found="none that are intact", expected=expected, remedy=remedy)


def _answered(classifier: Classifier, images_NHW: NDArray[np.uint8]) -> Answered:
    """Return images with the model's probabilities, computed in pieces."""

    def pieces() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(images_NHW), 1000):
            yield classifier.model.probabilities(images_NHW[start : start + 1000])

    return Answered(images_NHW, np.concatenate([*pieces()]))
