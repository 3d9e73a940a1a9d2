"""A published champion for each test, and bundles that are changed with digests that are right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import (
    METRICS,
    MODEL,
    PROBABILITIES,
    BundleManifest,
    Determinants,
    is_published,
)
from tasks.release.registry import candidate_of, promote
from tasks.runtime.manifest import MANIFEST, list_files

Change = Callable[[dict[str, Any]], object]
Reseal = Callable[..., Path]


def resealed(folder: Path, change: Change = lambda content: None) -> Path:
    """Write the manifest that a bundle's files would have, after a change; return its folder.

    A published bundle is moved to the place of its new version.
    """
    content = json.loads((folder / MANIFEST).read_bytes())
    content["files"] = {name: entry.model_dump() for name, entry in list_files(folder).items()}
    for what, name in (("model", MODEL), ("metrics", METRICS)):
        content["determinants"][what] = content["files"][name]["sha256"]
    change(content)
    determinants = Determinants.model_validate(content.pop("determinants"))
    rest = {name: content[name] for name in ("dataset", "recipe", "provenance", "files")}
    manifest = BundleManifest.of(determinants, **rest)
    (folder / MANIFEST).write_bytes(manifest.content())
    return folder.rename(folder.parent / manifest.version) if is_published(folder) else folder


@pytest.fixture
def reseal() -> Reseal:
    """`reseal(folder, change)`: see `resealed`."""
    return resealed


def probabilities_of(folder: Path, num_rows: int, kind: pa.DataType | None = None) -> None:
    rows = pa.array(np.arange(num_rows) % 10).cast(kind or pa.int64())
    names = ("index", "label", "prediction")
    pq.write_table(pa.table(dict.fromkeys(names, rows)), folder / PROBABILITIES)


@pytest.fixture
def write_probabilities() -> Callable[..., None]:
    """`write_probabilities(folder, num_rows, kind)` writes rows that can be read."""
    return probabilities_of


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test keeps the published champion for those after it."""
    return tmp_path_factory.mktemp("pristine") / "models"


@pytest.fixture
def bundle(make_lineage: Callable[..., Lineage], pristine: Path, root: Path) -> Path:
    """The folder of a published champion, with probabilities that can be read."""
    if pristine.exists():
        shutil.copytree(pristine, root / "models")
    else:
        manifest, _ = ensure_bundle(make_lineage())
        folder = root / "models" / "mnist" / manifest.version
        probabilities_of(folder, 20)
        resealed(folder)
        promote("mnist", candidate_of("mnist", manifest.version, competes=True), "a test")
        shutil.copytree(root / "models", pristine)
    return next(root.glob("models/mnist/*/manifest.json")).parent
