"""What a bundle is: the version that names it, its manifest, and whether it is whole.

Pure: neither Prefect nor torch, so that "is this published already?" costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_config.recipe import Recipe
from pipeline_config.sections import Record, Section
from pipeline_config.settings import settings
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import canonical_json, digest_of
from tasks.runtime.manifest import MANIFEST, FileEntry, damaged_files, read_regular, read_sealed
from tasks.runtime.store import Facts, Manifest

VERSION_DIGITS = 12
MODEL = "model.safetensors"
METRICS = "metrics.json"
ONNX = "model.onnx"
RECIPE = "recipe.yaml"
REPORT = "report.html"
PROBABILITIES = "probabilities.parquet"
LOOK = "`idxflow verify` says what is damaged; the command that made it mends it."


class Determinants(Section):
    """The digests that determine a model, by file or by content; the version is their digest.

    `recipe` leaves out the recipe's words (description, expected figures) and its floors; `data`
    are the raw files.
    """

    model: str
    metrics: str
    recipe: str
    data: dict[str, str]

    @property
    def version(self) -> str:
        """The version: 12 hex digits."""
        return digest_of(self.model_dump())[:VERSION_DIGITS]


class BundleManifest(Record):
    """The truth about one bundle; `digest` covers the rest. Nothing is of the clock."""

    dataset: str
    version: str
    recipe: str
    determinants: Determinants
    provenance: dict[str, Any]
    files: dict[str, FileEntry]
    digest: str

    @classmethod
    def of(
        cls,
        dataset: str,
        recipe: str,
        determinants: Determinants,
        provenance: dict[str, Any],
        files: dict[str, FileEntry],
    ) -> BundleManifest:
        """The manifest of these parts, with its version and digest filled in."""
        return cls(
            dataset=dataset,
            version=determinants.version,
            recipe=recipe,
            determinants=determinants,
            provenance=provenance,
            files=files,
            digest="",
        ).sealed()

    def sealed(self) -> BundleManifest:
        """The manifest with the digest of all the rest of it."""
        rest = self.model_dump(mode="json", exclude={"digest"})
        return self.model_copy(update={"digest": digest_of(rest)})

    def content(self) -> bytes:
        """The bytes of `manifest.json`."""
        return canonical_json(self.model_dump(mode="json"))


def recipe_digest(recipe: Recipe) -> str:
    """The SHA-256 of what a recipe chooses, less its words and floors."""
    return digest_of(recipe.model_dump(mode="json", exclude={"description", "expected", "floors"}))


def determinants_of(
    recipe: Recipe, table_facts: Facts, trained: Manifest, evaluated: Manifest
) -> Determinants:
    """What determines the model, read from manifests alone."""
    return Determinants(
        model=trained.files[MODEL].sha256,
        metrics=evaluated.files[METRICS].sha256,
        recipe=recipe_digest(recipe),
        data=table_facts["sha256"],
    )


def version_of(recipe: Recipe, table_facts: Facts, trained: Manifest, evaluated: Manifest) -> str:
    """The version that publishing these stage outputs gives, without publishing them."""
    return determinants_of(recipe, table_facts, trained, evaluated).version


def bundle_folder(dataset: str, version: str) -> Path:
    """Where a bundle lies, whether or not it is there."""
    return settings().models / dataset / version


def models_lock(dataset: str) -> str:
    """The name of the lock under which a data set's bundles, journal and pointer are written."""
    return f"models-{dataset}"


def read_bundle(dataset: str, version: str) -> tuple[BundleManifest | None, list[str]]:
    """The manifest of a published bundle and its damage: `inspect_bundle`, and its name holds."""
    manifest, damage = inspect_bundle(bundle_folder(dataset, version))
    if manifest is not None and (manifest.dataset, manifest.version) != (dataset, version):
        other = f"{manifest.dataset}/{manifest.version}"
        damage = [f"{MANIFEST}: of another bundle, {other}", *damage]
    return manifest, damage


def inspect_bundle(folder: Path) -> tuple[BundleManifest | None, list[str]]:
    """The manifest of a bundle, wherever it lies, and its damage, a line a file; all is hashed.

    An intact bundle gives (manifest, []); one that is not there gives (None, ["it is missing"]).
    """
    if not folder.is_dir():
        return None, ["it is missing"]
    try:
        found, is_whole = read_sealed(read_regular(folder / MANIFEST))
        manifest = BundleManifest.model_validate(found)
    except (OSError, ValueError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = [] if is_whole else [f"{MANIFEST}: changed"]
    if manifest.version != manifest.determinants.version or not _holds(manifest):
        damage.append(f"{MANIFEST}: its version is not that of its files")
    return manifest, damage + damaged_files(folder, manifest.files)


def refuse_damaged(folder: Path, *names: str) -> None:
    """Raise ReleaseError for damage in a bundle's manifest and its files `names`; without: all."""
    manifest, damage = inspect_bundle(folder)
    if manifest is not None and names:
        damage = [line for line in damage if line.partition(":")[0] in (MANIFEST, *names)]
    if damage:
        raise ReleaseError(
            str(folder.joinpath(*names[:1])),
            found="; ".join(damage),
            expected="the bundle that its manifest describes",
            remedy=LOOK,
        )


def _holds(manifest: BundleManifest) -> bool:
    """Whether the files that determine the version are the ones that lie in the bundle."""
    files: Mapping[str, FileEntry] = manifest.files
    wanted = {MODEL: manifest.determinants.model, METRICS: manifest.determinants.metrics}
    return all(name in files and files[name].sha256 == sha256 for name, sha256 in wanted.items())
