"""The images worth labelling most, as a folder that is a shard once its labels are filled in.

Axes: R training rows, B images of a batch, M images that were answered, of H×W pixels; C classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline_config.drift import drift_limits
from pipeline_config.sections import ConfigError, given_path
from pipeline_config.settings import settings
from tasks.prediction.drift import Answered, worth_labelling
from tasks.prediction.served import Keep
from tasks.raw.forms import LABELS
from tasks.release.bundle import ONNX, intact_bundle
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import replacing, sha256_bytes
from tasks.runtime.stages import CONVERT
from tasks.runtime.store import inspect


@contextmanager
def choosing_to_label(bundle: Path | None, num_wanted: int, text: str) -> Iterator[Keep]:
    """Yield what takes batches; after the block, the folder `text` has the images worth labelling.

    It has a PNG for each, the best first, and `labels.csv`, whose column `label` is empty. Of more
    distinct images than `max_rows` in `drift.yaml`, those with the least confidence are compared.
    Raises ConfigError for a folder that is not empty, and for a model without a bundle.
    """
    folder = given_path(text)
    if bundle is None:
        raise ConfigError("--to-label", found="an .onnx file alone", expected="a published version")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(text, found="something that is there", expected="a new or empty folder")
    size = drift_limits().max_rows
    training_RHW = training_rows(bundle, size)
    known: dict[str, tuple[float, NDArray[np.uint8], NDArray[np.float32]]] = {}

    def keep(images_BHW: NDArray[np.uint8], probabilities_BC: NDArray[np.float32]) -> None:
        for image, likely in zip(images_BHW, probabilities_BC, strict=True):
            # Copies, since a part of a batch keeps all of it in memory.
            digest = sha256_bytes(image.tobytes())
            known[digest] = (float(likely.max()), image.copy(), likely.copy())
        for digest in sorted(known, key=lambda digest: (known[digest][0], digest))[size:]:
            del known[digest]

    yield keep
    _, images, likely = zip(*known.values(), strict=True)
    new = Answered(np.stack(images), np.stack(likely))
    with replacing(folder) as aside:
        _write(aside, new.images_NHW[worth_labelling(training_RHW, new, num_wanted)])


def _write(folder: Path, images_MHW: NDArray[np.uint8]) -> None:
    from PIL import Image

    folder.mkdir()
    names = [f"{number:04d}.png" for number in range(1, len(images_MHW) + 1)]
    for name, image in zip(names, images_MHW, strict=True):
        Image.fromarray(image).save(folder / name)
    with (folder / LABELS).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((name, "") for name in names)])


def training_rows(bundle: Path, size: int) -> NDArray[np.uint8]:
    """Return at most `size` training images (R, H, W) of the data that a bundle was made from.

    Raises ReleaseError if there are none that are intact.
    """
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
