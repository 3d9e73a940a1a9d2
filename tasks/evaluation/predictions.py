"""The test rows, and what a network says about them.

Axes: N rows of a split, H×W pixels of an image, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline_config.recipe import Model
from tasks.dataset.table import first_of_each_class, read_labels, read_split
from tasks.dataset.table import read_rows as table_rows
from tasks.model.network import Temperature, load_network, logits_in_batches
from tasks.runtime.store import StageRef

# The images in the figure of samples.
NUM_SAMPLES = 15


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


def read_rows(table: StageRef, normalized: StageRef) -> tuple[Rows, Rows]:
    """Return the first training rows of each class, for the samples' figure, and the test rows."""
    split, shape = read_split(normalized), table.facts["image_shape"]
    shown = split.train[first_of_each_class(read_labels(table)[split.train], NUM_SAMPLES)]
    wanted = np.concatenate([shown, split.test])
    images_RP, labels_R = table_rows(table, wanted)
    train, test = (
        Rows(wanted[part], images_RP[part].reshape(-1, *shape), labels_R[part])
        for part in (slice(len(shown)), slice(len(shown), None))
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
