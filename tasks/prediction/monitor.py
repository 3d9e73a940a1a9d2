"""Comparing images that were served with the training rows of the champion's data set.

Axes: R training rows, M new images of H×W pixels, C classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from pipeline_config.drift import drift_limits
from pipeline_config.sections import Section
from tasks.dataset.shards import read_events, read_shard, training_shards
from tasks.prediction.classifier import Classifier, load_classifier
from tasks.prediction.drift import TOO_FEW, Answered, find_drift, verdict_of
from tasks.prediction.inputs import files_of, image_batches
from tasks.prediction.labelling import training_rows
from tasks.prediction.monitor_page import MonitorLine, write_page
from tasks.prediction.pictures import Form
from tasks.prediction.served import Served, newest_served, served_files
from tasks.release.bundle import METRICS
from tasks.release.registry import CHAMPION, find_bundle
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import read_regular


class LateLabels(Section):
    """The answers whose images got labels later: how many are right, and the estimate for them."""

    num_rows: int
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    estimated_accuracy: float
    words: str


class Monitored(Section):
    """The answer of `monitor`, in `words` and figures. Without images there is no `model`."""

    dataset: str
    model: str | None = None
    verdict: str = TOO_FEW
    num_images: int = 0
    num_training_rows: int = 0
    signals: tuple[dict[str, Any], ...] = ()
    labelled: LateLabels | None = None
    page: str | None = None
    words: str = f"{TOO_FEW}: no images are kept yet; `idxflow predict … --log` keeps them"


def monitor(dataset: str, files: tuple[str, ...] = ()) -> Monitored:
    """Return whether images differ from the training rows of a data set, by its champion's answers.

    The images are those of files, else those that `predict --log` kept. Of more distinct ones than
    `max_rows` in `drift.yaml`, those with the lowest digests are compared, of kept ones the newest.
    A page and a line of the history are written. Raises ReleaseError where there is no champion, or
    no training rows that are intact.
    """
    if not files and not served_files(dataset):
        return Monitored(dataset=dataset)
    folder, size = find_bundle(CHAMPION, dataset), drift_limits().max_rows
    classifier, labelled = load_classifier(str(folder), dataset), None
    if files:
        new = _answered(classifier, _images_of(files, classifier.form, size))
    else:
        served = newest_served(dataset, classifier.form, len(classifier.class_names), size)
        if served is None:
            return Monitored(dataset=dataset)
        new, labelled = _by_champion(classifier, served, folder.name), late_labels(dataset, served)
    reference = _answered(classifier, training_rows(folder, size))
    metrics, names = from_json(read_regular(folder / METRICS)), classifier.class_names
    signals, unlike_N = find_drift(reference, new, metrics, names)
    found: dict[str, Any] = {"dataset": dataset, "model": classifier.title}
    found["verdict"], found["num_images"] = verdict_of(signals), len(new.images_NHW)
    found["num_training_rows"] = len(reference.images_NHW)
    found["signals"] = tuple(signal._asdict() for signal in signals)
    later, time = labelled.words if labelled else "", datetime.now(UTC)
    look = MonitorLine(time=time.isoformat(timespec="seconds"), source=", ".join(files), **found)
    page = write_page(look, later, [reference, new], unlike_N, names)
    words = "{verdict}: {num_images:,} images and {num_training_rows:,} training rows, {model}"
    words = words.format(**found) + (f"; {later}" if later else "")
    return Monitored(**found, labelled=labelled, page=str(page), words=words)


def _images_of(files: tuple[str, ...], form: Form, size: int) -> NDArray[np.uint8]:
    """Return the distinct images (M, H, W) of files, at most `size`."""
    images: dict[str, NDArray[np.uint8]] = {}
    for batch in image_batches(files_of(files), form):
        images |= {sha256_bytes(image.tobytes()): image.copy() for image in batch.images_BHW}
        images = {digest: images[digest] for digest in sorted(images)[:size]}
    return np.stack([*images.values()])


def _by_champion(classifier: Classifier, served: Served, champion: str) -> Answered:
    """Return what was served. What another version than the champion answered is answered anew."""
    likely_MC = served.probabilities_NC.copy()
    others = [place for place, version in enumerate(served.versions) if version != champion]
    if others:
        likely_MC[others] = _answered(classifier, served.images_NHW[others]).probabilities_NC
    return Answered(served.images_NHW, likely_MC)


def late_labels(dataset: str, served: Served) -> LateLabels | None:
    """Return how right the answers were, where an admitted shard brought the image's label later.

    The answers are those that were served, since a model of today may be trained on these labels.
    None without such images.
    """
    from tasks.evaluation.metrics import wilson_interval

    judged = {event.shard: event.time for event in reversed(read_events(dataset))}
    place_of = {digest: place for place, digest in enumerate(served.digests)}
    labels: dict[int, set[int]] = defaultdict(set)
    for shard in training_shards(dataset):
        if shard.digest in judged:
            since = datetime.fromisoformat(judged[shard.digest])
            for image, label in zip(*read_shard(shard), strict=True):
                place = place_of.get(sha256(image.tobytes()).digest())
                if place is not None and served.times[place].replace(microsecond=0) <= since:
                    labels[place].add(int(label))
    known = {place: found.pop() for place, found in labels.items() if len(found) == 1}
    if not known:
        return None
    likely_MC, num_rows = served.probabilities_NC[[*known]], len(known)
    num_right = int((likely_MC.argmax(axis=1) == [*known.values()]).sum())
    low, high = wilson_interval(num_right, num_rows)
    accuracy, estimated = num_right / num_rows, float(likely_MC.max(axis=1).mean())
    return LateLabels(
        num_rows=num_rows,
        accuracy=accuracy,
        accuracy_interval_95=(low, high),
        estimated_accuracy=estimated,
        words=f"{num_rows:,} images were labelled since: {accuracy:.1%} of their answers are right "
        f"({low:.1%} to {high:.1%}), {estimated:.1%} were estimated",
    )


def _answered(classifier: Classifier, images_NHW: NDArray[np.uint8]) -> Answered:
    """Return images with the model's probabilities, computed in pieces."""

    def pieces() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(images_NHW), 1000):
            yield classifier.model.probabilities(images_NHW[start : start + 1000])

    return Answered(images_NHW, np.concatenate([*pieces()]))
