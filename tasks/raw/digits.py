"""The digits inside scikit-learn as a source: 1,797 of 8 × 8 pixels, and no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline_config.datasets import FILES
from tasks.raw.idx import write_idx
from tasks.raw.local import local_folder
from tasks.raw.receive import Opener

NUM_TEST = 360
SEED = 0
MAX_GREY = 16


@contextmanager
def sklearn_digits(scratch: Path) -> Iterator[Opener]:
    """The opener of the four files: 1,437 and 360 rows, stratified, grey 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / MAX_GREY)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=NUM_TEST, stratify=labels, random_state=SEED
    )
    arrays = (train_images, train_labels, test_images, test_labels)
    for name, array in zip(FILES, arrays, strict=True):
        write_idx(scratch / name, array)
    with local_folder(scratch, scratch) as opener:
        yield opener
