"""The test rows, and what a network says about them.

Axes: N rows of a split, H×W pixels of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline_config.recipe import Model
from tasks.dataset.splits import read_split
from tasks.dataset.table import read_images
from tasks.model.network import Temperature, load_network, logits_in_batches
from tasks.runtime.devices import prepared, probe
from tasks.runtime.store import StageRef


@dataclass(frozen=True)
class Rows:
    """Rows of one split: their places in the pooled table, their images and their labels."""

    index_N: NDArray[np.int64]
    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What a network says: probabilities, and those before the temperature divided the logits."""

    probabilities_NC: NDArray[np.float32]
    before_NC: NDArray[np.float32]
    temperature: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Score in here: on the CPU, in float32, on one thread, so that sums are made in one order."""
    with prepared(probe("cpu").model_copy(update={"threads": 1})):
        yield


def read_rows(table: StageRef, normalized: StageRef) -> tuple[Rows, Rows]:
    """The training rows, of which only samples are shown, and the test rows."""
    images_MP, labels_M = read_images(table)
    split, shape = read_split(normalized), table.facts["image_shape"]
    train, test = (
        Rows(index_N, images_MP[index_N].reshape(-1, *shape), labels_M[index_N])
        for index_N in (split.train, split.test)
    )
    return train, test


def score(weights: Path, model: Model, test: Rows, num_classes: int) -> Scored:
    """What the network with these weights says about the test rows."""
    images_NP = test.images_NHW.reshape(len(test.images_NHW), -1)
    network = load_network(weights, model, images_NP.shape[1], num_classes)
    logits_NC = torch.cat([*logits_in_batches(network, torch.from_numpy(images_NP))])
    last = network[-1]
    temperature = float(last.temperature) if isinstance(last, Temperature) else 1.0
    return Scored(
        logits_NC.softmax(dim=1).numpy(),
        (logits_NC * temperature).softmax(dim=1).numpy(),
        temperature,
    )


def kept_epochs(trained: StageRef) -> list[tuple[int, Path]]:
    """(epoch, weights after it) of each epoch that the train stage kept; empty if it kept none."""
    files = sorted((trained.path / "epochs").glob("*.safetensors"))
    return [(int(file.stem), file) for file in files]
