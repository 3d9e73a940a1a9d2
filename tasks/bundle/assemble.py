"""Put a bundle together: everything about one model in one folder that needs nothing else.

Axes: N images, D = H·W pixels.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from tasks.bundle.contents import (
    METRICS,
    MODEL,
    ONNX,
    PROBABILITIES,
    RECIPE,
    REPORT,
    BundleManifest,
    bundle_folder,
    determinants_of,
    models_lock,
    read_bundle,
)
from tasks.bundle.lineage import Lineage, provenance_of, recipe_text
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import built_aside, locked
from tasks.runtime.manifest import MANIFEST, FileEntry, list_files

logger = logging.getLogger(__name__)

# A bundle is something to hand round; 10,000 rows of ten classes are 0.4 MB.
MAX_PROBABILITIES_BYTES = 16 * 2**20
# The ONNX model is held against torch on at most so many images.
NUM_CHECKED = 10_000


def ensure_bundle(lineage: Lineage) -> tuple[BundleManifest, str]:
    """The bundle of a lineage and what was done for it, in words; an intact one is left as it is.

    Raises ReleaseError when the stages are not of one run, when an output is not what its manifest
    says, or when the ONNX model does not do what the network does.
    """
    refuse_mixed(lineage)
    determinants = determinants_of(
        lineage.recipe, lineage.table.facts, lineage.trained.manifest, lineage.evaluated.manifest
    )
    dataset, version = lineage.dataset.name, determinants.version
    with locked(models_lock(dataset)):
        manifest, damage = read_bundle(dataset, version)
        if manifest is not None and not damage:
            return manifest, "found intact"
        final = bundle_folder(dataset, version)
        was_there = final.exists()
        if was_there:
            logger.warning("%s/%s: damaged, building again: %s", dataset, version, damage)
        with built_aside(final) as aside:
            provenance = provenance_of(lineage)
            copied = copy_outputs(lineage, aside)
            write_model_files(lineage, version, aside)
            write_pages(lineage, version, provenance, aside)
            files = list_files(aside)
            refuse_changed(copied, files)
            manifest = BundleManifest.of(
                dataset, lineage.recipe.name, determinants, provenance, files
            )
            (aside / MANIFEST).write_bytes(manifest.content())
    return manifest, f"built again: {'; '.join(damage)}" if was_there else "built"


def copy_outputs(lineage: Lineage, folder: Path) -> dict[str, FileEntry]:
    """Copy what the stages made; returns each copied file with what its stage's manifest says."""
    evaluated = lineage.evaluated.manifest.files
    wanted = [(lineage.trained, MODEL, MODEL), (lineage.evaluated, METRICS, METRICS)]
    wanted += [
        (lineage.checked, f"report.{kind}", f"validation/report.{kind}")
        for kind in ("html", "json")
    ]
    wanted += [(lineage.evaluated, name, name) for name in evaluated if name.startswith("figures/")]
    if evaluated[PROBABILITIES].num_bytes <= MAX_PROBABILITIES_BYTES:
        wanted.append((lineage.evaluated, PROBABILITIES, PROBABILITIES))
    copied = {}
    for ref, name, target in wanted:
        (folder / target).parent.mkdir(exist_ok=True)
        shutil.copyfile(ref.path / name, folder / target)
        copied[target] = ref.manifest.files[name]
    return copied


def refuse_mixed(lineage: Lineage) -> None:
    """Raise ReleaseError if a stage was not made from the outputs that are published with it."""
    stages = lineage.stages
    for name, made in stages.items():
        for earlier, other in stages.items():
            digest = made.components.get(f"input {earlier}", other.digest)
            if digest != other.digest:
                raise ReleaseError(
                    f"publishing the output of {name}",
                    found=f"that it was made from another output of {earlier}, {digest}",
                    expected=f"all stages of one run, and so {other.digest}",
                    remedy="Publish the outputs of one run together, as `idxflow run` does.",
                )


def refuse_changed(copied: dict[str, FileEntry], files: dict[str, FileEntry]) -> None:
    """Raise ReleaseError if a copied file is not the one that its stage wrote."""
    for name, entry in copied.items():
        if files[name] != entry:
            raise ReleaseError(
                name,
                found="other bytes than the stage that made it wrote down",
                expected=f"SHA-256 {entry.sha256}",
                remedy="Run the same command again: the damaged stage runs again by itself.",
            )


def write_model_files(lineage: Lineage, version: str, folder: Path) -> None:
    """Write `recipe.yaml`, `model.onnx`, held against torch, and the golden pairs."""
    import numpy as np

    from tasks.bundle.golden import GOLDEN, golden_bytes, golden_rows
    from tasks.bundle.onnx_export import check_against_torch, onnx_bytes
    from tasks.dataset.table import read_rows, read_split
    from tasks.model.network import load_network

    (folder / RECIPE).write_text(recipe_text(lineage), encoding="utf-8")
    facts = lineage.table.facts
    height, width = facts["image_shape"]
    network = load_network(
        folder / MODEL, lineage.recipe.model, height * width, facts["num_classes"]
    )
    words = {
        "class_names": list(lineage.dataset.class_names),
        "dataset": lineage.dataset.name,
        "recipe": lineage.recipe.name,
        "version": version,
    }
    model = onnx_bytes(network, (height, width), facts["num_classes"], words)
    split = read_split(lineage.normalized)
    rows = split.validation if len(split.validation) else split.train
    checked = rows[:NUM_CHECKED]
    images, _ = read_rows(lineage.table, np.concatenate([checked, golden_rows(rows)]))
    path = folder / ONNX
    check_against_torch(model, network, images[: len(checked)], (height, width), path)
    path.write_bytes(model)
    golden = images[len(checked) :].reshape(-1, height, width)
    (folder / GOLDEN).write_bytes(golden_bytes(network, golden))


def write_pages(lineage: Lineage, version: str, provenance: dict[str, Any], folder: Path) -> None:
    """Write `report.html` and `model_card.md` from what lies in the bundle and in the manifests."""
    from tasks.bundle.report import render_card, render_report, view_of

    view = view_of(lineage, version, provenance, folder)
    (folder / REPORT).write_text(render_report(view), encoding="utf-8")
    (folder / "model_card.md").write_text(render_card(view), encoding="utf-8")
