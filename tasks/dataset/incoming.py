"""What lies in `incoming/DATASET/`: files and folders of new labelled rows, taken in as shards.

A name that starts with a dot or ends in `.part` is not complete yet. What cannot be read goes to
quarantine with the reason.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline_config.datasets import Dataset
from pipeline_config.sections import IdxflowError
from pipeline_config.settings import settings
from tasks.dataset.shards import DIGITS, QUARANTINED, Shard, arrive, decide
from tasks.raw.forms import read_parts
from tasks.raw.parts import with_classes
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import sha256_file


def incoming_folder(dataset: str) -> Path:
    """Return the folder that new files of a data set are put into."""
    return settings().root / "incoming" / dataset


def waiting_files(dataset: str) -> list[Path]:
    """Return the complete files and folders in the data set's incoming folder, by name."""
    paths = sorted(incoming_folder(dataset).glob("[!.]*"))
    return [path for path in paths if path.suffix != ".part"]


def collect_incoming(dataset: Dataset) -> None:
    """Take in what is complete in the incoming folder. The next run judges it."""
    for path in waiting_files(dataset.name):
        try:
            take_in(dataset, path)
        except IdxflowError as error:
            _quarantine(dataset.name, path, str(error))
            continue
        _remove(path)


def take_in(dataset: Dataset, path: Path) -> Shard:
    """Return the shard with the rows of a file or folder of any form, of all its splits together.

    Raises RawDataError and ConfigError for what is no labelled images of the data set's form.
    """
    with TemporaryDirectory(prefix="shard-", dir=_scratch()) as scratch:
        parts = list(read_parts(path, Path(scratch)).values())
        shapes = {part.images_NHW.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise RawDataError(path, found=f"images of {len(shapes)} sizes", expected="one size")
        images_NHW = np.concatenate([part.images_NHW for part in parts])
        labelled = [with_classes(part, dataset.class_names, path) for part in parts]
        return arrive(dataset.name, images_NHW, np.concatenate([p.labels_N for p in labelled]))


def _quarantine(dataset: str, path: Path, reason: str) -> None:
    """Move an unreadable file or folder to quarantine, with the reason in the journal."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    content = "".join(sha256_file(file) for file in files)
    digest = hashlib.sha256(content.encode()).hexdigest()[:DIGITS]
    shard = Shard(dataset=dataset, digest=digest)
    decide(shard, QUARANTINED, " ".join(reason.split()), rows=0)
    shard.quarantine.mkdir(parents=True, exist_ok=True)
    _remove(shard.quarantine / path.name)
    path.rename(shard.quarantine / path.name)


def _remove(path: Path) -> None:
    """Remove a path. It is hidden first, so that no half of it is taken in after a kill."""
    if path.exists():
        hidden = path.rename(path.with_name(f".{path.name}.gone"))
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()


def _scratch() -> Path:
    settings().scratch.mkdir(parents=True, exist_ok=True)
    return settings().scratch
