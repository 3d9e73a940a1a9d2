"""The log of what was answered: `served/DATASET/` has a Parquet file for each call of `predict`.

A file is complete or absent. Its name is the time of the call and the digest of its content.

Axes: B images of a batch and N distinct images, of H×W pixels; C classes.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.sections import ConfigError
from pipeline_config.settings import settings
from tasks.prediction.pictures import Form
from tasks.release.bundle import is_published
from tasks.runtime.files import replacing, root_lock, sha256_file, storage_errors

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Takes the images (B, H, W) of a batch, and their probabilities (B, C).
Keep = Callable[[NDArray[np.uint8], NDArray[np.float32]], None]


class Served(NamedTuple):
    """Distinct images (N, H, W) that were served, the newest first, with their SHA-256.

    Each has the probabilities (N, C) that it was answered with, by which version, and when (UTC).
    """

    digests: list[bytes]
    images_NHW: NDArray[np.uint8]
    probabilities_NC: NDArray[np.float32]
    versions: list[str]
    times: list[datetime]


def served_files(dataset: str) -> list[Path]:
    """Return the files of a data set's log, the newest first."""
    return sorted((settings().root / "served" / dataset).glob("[!.]*.parquet"), reverse=True)


def _schema(form: Form) -> pa.Schema:
    import pyarrow as pa

    kinds = {"sha256": pa.binary(32), "image": pa.binary(form.height * form.width)}
    kinds |= {"probabilities": pa.list_(pa.float32()), "version": pa.string()}
    return pa.schema({**kinds, "time": pa.timestamp("us", "UTC")})


@contextmanager
def logging_answers(bundle: Path | None, form: Form) -> Iterator[Keep]:
    """Yield what adds a batch to a new file of the log, which is there once the block has ended.

    Memory does not grow with the number of batches. After an error there is no file. Raises
    ConfigError unless `bundle`, the model's, is a published one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if bundle is None or not is_published(bundle):
        found, expected = "a model outside of the published ones", "a published version"
        remedy = "Leave --log out, or name a version: see `idxflow models`."
        raise ConfigError("--log", found=found, expected=expected, remedy=remedy)
    dataset, version = bundle.resolve().parts[-2:]
    since, schema, scratch = datetime.now(UTC), _schema(form), settings().scratch
    with root_lock(), storage_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="served-", dir=scratch) as folder:
            path = Path(folder, "log.parquet")
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:

                def keep(images_BHW: NDArray[np.uint8], probabilities_BC: Any) -> None:
                    images = [image.tobytes() for image in images_BHW]
                    columns = {
                        "sha256": [hashlib.sha256(image).digest() for image in images],
                        "image": images,
                        "probabilities": list(probabilities_BC),
                        "version": [version] * len(images),
                        "time": [datetime.now(UTC)] * len(images),
                    }
                    writer.write_table(pa.table(columns, schema))

                yield keep
            name = f"{since:%Y%m%dT%H%M%S.%fZ}-{sha256_file(path)[:16]}.parquet"
            with replacing(settings().root / "served" / dataset / name) as aside:
                shutil.move(path, aside)


def newest_served(dataset: str, form: Form, num_classes: int, size: int) -> Served | None:
    """Return the newest distinct images of the log, at most `size`; None if there is none.

    A file that is damaged or of another form is left out with a warning.
    """
    rows: dict[bytes, dict[str, Any]] = {}
    for row in _rows_backwards(dataset, form):
        if len(row["probabilities"]) == num_classes:
            rows.setdefault(row["sha256"], row)
        if len(rows) == size:
            break
    if not rows:
        return None
    images = np.frombuffer(b"".join(row["image"] for row in rows.values()), np.uint8)
    answers = np.array([row["probabilities"] for row in rows.values()], np.float32)
    versions, times = ([row[name] for row in rows.values()] for name in ("version", "time"))
    return Served([*rows], images.reshape(-1, form.height, form.width), answers, versions, times)


def _rows_backwards(dataset: str, form: Form) -> Iterator[dict[str, Any]]:
    """Yield the rows of the log, the newest first, from one row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in served_files(dataset):
        try:
            with pq.ParquetFile(path) as file:
                if file.schema_arrow != _schema(form):
                    raise ValueError("images of another form")
                for group in reversed(range(file.num_row_groups)):
                    yield from reversed(file.read_row_group(group).to_pylist())
        except (pa.ArrowException, OSError, ValueError) as error:
            logger.warning("%s is left out: %s", path, error)
