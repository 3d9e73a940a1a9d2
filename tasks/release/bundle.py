"""What a bundle is, a folder with everything about one model: its version, manifest and damage.

Neither Prefect nor torch is imported, so that looking at a bundle takes milliseconds.

Axes: N golden images, H × W pixels, C classes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import Recipe
from pipeline_config.sections import ConfigError, Record, Section, read_yaml
from pipeline_config.settings import settings
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import canonical_json, digest_of
from tasks.runtime.manifest import MANIFEST, FileEntry, damaged_files, read_regular, read_sealed
from tasks.runtime.manifest import sealed as with_seal

if TYPE_CHECKING:
    from torch import nn

MODEL, METRICS, PROBABILITIES = "model.safetensors", "metrics.json", "probabilities.parquet"
ONNX, RECIPE, GOLDEN = "model.onnx", "recipe.yaml", "golden.safetensors"
LIKENESS = "likeness.safetensors"  # of bundles with a hidden layer and validation rows
REPORT, CARD, MLMODEL = "report.html", "README.md", "MLmodel"
# Their templates in this folder.
TEMPLATES = {REPORT: "report.html", CARD: "model_card.md", MLMODEL: "mlmodel.yaml"}
NUM_GOLDEN = 32


class Determinants(Section):
    """The digests of files (`data`: the raw ones) and of the recipe that determine a model."""

    model: str
    metrics: str
    recipe: str
    data: dict[str, str]

    @property
    def version(self) -> str:
        """The version: the first 12 digits of the digest of these."""
        return digest_of(self.model_dump())[:12]


class BundleManifest(Record):
    """What is in a bundle and what it was made from, without times. `digest` covers the rest."""

    dataset: str
    version: str
    recipe: str
    determinants: Determinants
    provenance: dict[str, Any]
    files: dict[str, FileEntry]
    digest: str = ""

    @classmethod
    def of(cls, determinants: Determinants, **rest: Any) -> BundleManifest:
        """Return the manifest of these parts, with its version and its digest."""
        made = cls(determinants=determinants, version=determinants.version, **rest)
        return cls.model_validate(with_seal(made.model_dump(mode="json")))

    def content(self) -> bytes:
        """Return the bytes of `manifest.json`."""
        return canonical_json(self.model_dump(mode="json"))


def recipe_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe without its description, expected figures and floors."""
    return digest_of(recipe.model_dump(mode="json", exclude={"description", "expected", "floors"}))


def bundle_folder(dataset: str, version: str) -> Path:
    """Return the folder of a published version, which need not exist."""
    return settings().models / dataset / version


def published_datasets() -> list[str]:
    """Return the data sets that have a journal or a bundle, by name."""
    return sorted(path.name for path in settings().models.glob("*") if path.is_dir())


def published_bundles(dataset: str | None = None) -> list[Path]:
    """Return the folders of all bundles, intact or not, or of one data set's, by name."""
    paths = sorted(path for path in settings().models.glob("*/[!.]*") if path.is_dir())
    return [path for path in paths if dataset in (None, path.parent.name)]


def published_versions(dataset: str) -> list[str]:
    """Return the versions that have a bundle, intact or not, by name."""
    return [path.name for path in published_bundles(dataset)]


def models_lock(dataset: str) -> str:
    """Return the name of the lock under which a data set's bundles and records are written."""
    return f"models-{dataset}"


def is_published(folder: Path) -> bool:
    """Return whether a bundle's folder is one below the root, DATASET/VERSION."""
    return folder.resolve().parent.parent == settings().models.resolve()


def inspect_bundle(folder: Path) -> tuple[BundleManifest | None, list[str]]:
    """Return a bundle's manifest, and its damage, one line for each file. Every file is hashed."""
    if not folder.is_dir():
        return None, ["it is missing"]
    try:
        content, is_intact = read_sealed(read_regular(folder / MANIFEST))
        manifest = BundleManifest.model_validate(content)
    except (OSError, ValueError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = [] if is_intact else [f"{MANIFEST}: changed"]
    files, wanted, place = manifest.files, manifest.determinants, folder.resolve()
    if is_published(folder) and (manifest.dataset, manifest.version) != place.parts[-2:]:
        damage.append(f"{MANIFEST}: of another bundle, {manifest.dataset}/{manifest.version}")
    found = {name: files[name].sha256 for name in (MODEL, METRICS) if name in files}
    is_right = found == {MODEL: wanted.model, METRICS: wanted.metrics}
    if manifest.version != wanted.version or not is_right:
        damage.append(f"{MANIFEST}: its version is not that of its files")
    return manifest, damage + damaged_files(folder, files)


def intact_bundle(folder: Path, *names: str) -> BundleManifest:
    """Return a bundle's manifest. Raises ReleaseError if it, or one of `names`, is damaged."""
    manifest, damage = inspect_bundle(folder)
    if manifest is not None and names:
        damage = [line for line in damage if line.partition(":")[0] in (MANIFEST, *names)]
    if manifest is None or damage:
        what, found, expected = folder.joinpath(*names[:1]), "; ".join(damage), "an intact bundle"
        remedy = "Run its recipe again, which builds it again, or choose another version."
        raise ReleaseError(what, found=found, expected=expected, remedy=remedy)
    return manifest


def shards_of(dataset: str, version: str) -> set[str]:
    """Return the digests of the shards that a version was trained on; none without a manifest."""
    with suppress(OSError, ValueError, AttributeError):
        path = bundle_folder(dataset, version) / MANIFEST
        manifest = BundleManifest.model_validate_json(read_regular(path))
        return {*manifest.provenance.get("shards", {})}
    return set()


def is_pooled(folder: Path) -> bool:
    """Return whether a bundle's model was trained on rows of the data set's own test split.

    A bundle without a readable recipe is not taken for one.
    """
    with suppress(ConfigError):
        return bool(read_yaml(folder / RECIPE)["split"]["test"]["kind"] == "pooled")
    return False


def correct_rows(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the test rows as PROBABILITIES counts them, and whether each is predicted correctly.

    Raises ReleaseError for a bundle without readable probabilities.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, names = folder / PROBABILITIES, ["index", "label", "prediction"]
    try:
        with pq.ParquetFile(path) as file:
            kinds = [file.schema_arrow.field(name).type for name in names]
            # A real row takes more than a byte, however it is packed.
            is_possible = 0 < file.metadata.num_rows < path.stat().st_size
            if not is_possible or not all(map(pa.types.is_integer, kinds)):
                raise ValueError(f"{file.metadata.num_rows:,} rows of {kinds}")
            columns = file.read(columns=names)
    except (OSError, KeyError, ValueError) as error:
        found = "no readable probabilities; bundles of very large test splits have none"
        raise ReleaseError(path, found=found) from error
    index, labels, predictions = (columns[name].to_numpy() for name in names)
    # Earlier versions of this project counted test rows from the first training row.
    first = 0 if is_pooled(folder) else index.min()
    return index - first, labels == predictions


def evenly(num_rows: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the places of rows, evenly spaced, with the first and the last."""
    return np.linspace(0, num_rows - 1, min(most, num_rows)).round().astype(np.int64)


def golden_output(network: nn.Sequential, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the network's probabilities (N, C), computed on one CPU thread: always the same."""
    from tasks.model.network import probabilities
    from tasks.runtime.devices import one_thread

    with one_thread():
        return probabilities(network, images_NHW.reshape(len(images_NHW), -1))


def read_golden(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the golden images (N, H, W), and their probabilities (N, C). Raises ReleaseError."""
    from safetensors.numpy import load

    arrays = load(path.read_bytes())
    images, output = arrays["images"], arrays["probabilities"]
    is_right = images.dtype == np.uint8 and (images.ndim, output.ndim) == (3, 2)
    if not is_right or not 0 < len(images) == len(output) <= NUM_GOLDEN:
        raise ReleaseError(path.name, found=f"{images.dtype} {images.shape}, {output.shape}")
    return images, output
