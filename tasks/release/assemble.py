"""Building a bundle from the outputs of the stages of one run.

Neither times nor places are written, so that equal lineages give equal bytes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline_config.datasets import Dataset
from pipeline_config.recipe import Recipe
from pipeline_config.settings import CHECKOUT
from tasks.release import bundle
from tasks.release.pages import write_report
from tasks.runtime.devices import Machine, one_thread
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import built_aside, digest_of, locked, sha256_bytes
from tasks.runtime.manifest import MANIFEST, list_files
from tasks.runtime.stages import code_digests
from tasks.runtime.store import Manifest, StageRef, inspect

if TYPE_CHECKING:
    from tasks.dataset.table import PartIndices

logger = logging.getLogger(__name__)

INCLUDED = ("confidence.html", "report.js", "report.css")
TEMPLATES = [f"tasks/release/{name}" for name in (*bundle.TEMPLATES.values(), *INCLUDED)]
LIBRARIES = ("jinja2", "onnx", "onnxruntime")
# Larger probabilities are left out. 10,000 rows of ten classes are 0.4 MB.
MAX_PROBABILITIES_BYTES = 16 * 2**20
# The ONNX model is compared with torch on at most this many images.
NUM_COMPARED = 10_000


@dataclass(frozen=True)
class Lineage:
    """What a model is made from: the choices, the machine, and the outputs of the stages."""

    recipe: Recipe
    dataset: Dataset
    machine: Machine
    raw: StageRef
    checked: StageRef
    table: StageRef
    normalized: StageRef
    trained: StageRef
    evaluated: StageRef
    shards: tuple[StageRef, ...] = ()

    @property
    def refs(self) -> dict[str, StageRef]:
        """The outputs of the stages by their names here, in the order of the pipeline."""
        return {name: ref for name, ref in vars(self).items() if isinstance(ref, StageRef)}

    @property
    def determinants(self) -> bundle.Determinants:
        """What determines the model, read from manifests alone."""
        return bundle.Determinants(
            model=self.trained.manifest.files[bundle.MODEL].sha256,
            metrics=self.evaluated.manifest.files[bundle.METRICS].sha256,
            recipe=bundle.recipe_digest(self.recipe),
            data=self.table.facts["sha256"],
        )

    @property
    def command(self) -> str:
        """The command that makes the model again, typed in the bundle's folder."""
        data, device = self.dataset, self.machine.device
        name = data.name if data.content is None else f"FOLDER --classes {data.num_classes}"
        return f"idxflow run --dataset {name} --recipe {bundle.RECIPE} --device {device}"

    @property
    def recipe_text(self) -> str:
        """The complete recipe as YAML, with the command as a comment."""
        content = self.recipe.model_dump(mode="json", exclude={"expected"})
        style: Any = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True}
        return f"# {self.command}\n{yaml.safe_dump(content, width=90, **style)}"


def ensure_bundle(lineage: Lineage) -> tuple[bundle.BundleManifest, str]:
    """Return a lineage's bundle, and what was done, in words. Raises ReleaseError for damage."""
    dataset, determinants = lineage.dataset.name, lineage.determinants
    version = determinants.version
    with locked(bundle.models_lock(dataset)):
        final = bundle.bundle_folder(dataset, version)
        manifest, damage = bundle.inspect_bundle(final)
        if manifest is not None and not damage:
            return manifest, "found intact"
        done = "built"
        if final.exists():
            done = f"built again: {'; '.join(damage)}"
            logger.warning("%s/%s is damaged and is %s", dataset, version, done)
        with built_aside(final) as aside:
            provenance = provenance_of(lineage)
            copy_outputs(lineage, aside)
            write_model_files(lineage, version, aside)
            write_report(lineage, version, provenance, aside)
            facts = {"dataset": dataset, "recipe": lineage.recipe.name, "provenance": provenance}
            manifest = bundle.BundleManifest.of(determinants, files=list_files(aside), **facts)
            (aside / MANIFEST).write_bytes(manifest.content())
    return manifest, done


def provenance_of(lineage: Lineage) -> dict[str, Any]:
    """Return what made the model: choices, machine, code, libraries, and outputs of the stages."""
    stages = {ref.stage: ref.manifest for ref in lineage.refs.values()}
    code = _components(stages, "code ") | code_digests("tasks.release.publish")
    code |= {name: sha256_bytes((CHECKOUT / name).read_bytes()) for name in TEMPLATES}
    libraries = _components(stages, "library ")
    libraries |= {name: library_version(name) for name in LIBRARIES}
    return {
        "dataset": lineage.dataset.name,
        "recipe": lineage.recipe.name,
        "data": lineage.table.facts["sha256"],
        "shards": {ref.facts["shard"]: ref.key for ref in lineage.shards},
        "seed": lineage.recipe.training.seed,
        **lineage.machine.model_dump(),
        "code": digest_of(code),
        "modules": dict(sorted(code.items())),
        "libraries": dict(sorted(libraries.items())),
        "stages": {name: {"key": made.key, "digest": made.digest} for name, made in stages.items()},
    }


def _components(stages: Mapping[str, Manifest], kind: str) -> dict[str, Any]:
    """Return the components of one kind of all stages' keys, by name."""
    components = (item for made in stages.values() for item in made.components.items())
    return {name.removeprefix(kind): value for name, value in components if name.startswith(kind)}


def copy_outputs(lineage: Lineage, folder: Path) -> None:
    """Copy what the stages wrote into a bundle. Raises ReleaseError for a damaged output."""
    for ref in (lineage.checked, lineage.trained, lineage.evaluated):
        if damage := inspect(ref.path)[1]:
            remedy = "Run the same command again: the damaged stage is run again."
            raise ReleaseError(ref.path, found="; ".join(damage), remedy=remedy)
    files = dict(lineage.evaluated.manifest.files)
    if files[bundle.PROBABILITIES].num_bytes > MAX_PROBABILITIES_BYTES:
        del files[bundle.PROBABILITIES]
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(lineage.evaluated.path / name, folder / name)
    shutil.copyfile(lineage.trained.path / bundle.MODEL, folder / bundle.MODEL)
    (folder / "validation").mkdir()
    for name in ("report.html", "report.json"):
        shutil.copyfile(lineage.checked.path / name, folder / "validation" / name)


def write_model_files(lineage: Lineage, version: str, folder: Path) -> None:
    """Write `recipe.yaml`, the golden pairs, and `model.onnx` if it computes what torch does."""
    from safetensors.numpy import save

    from tasks.dataset.table import read_rows, read_split
    from tasks.model.network import load_network
    from tasks.release.onnx_export import compare_with_torch, onnx_bytes

    (folder / bundle.RECIPE).write_text(lineage.recipe_text, encoding="utf-8")
    facts = lineage.table.facts
    (height, width), num_classes = facts["image_shape"], facts["num_classes"]
    network = load_network(folder / bundle.MODEL, lineage.recipe.model, height * width, num_classes)
    names = {"dataset": lineage.dataset.name, "recipe": lineage.recipe.name, "version": version}
    words = {**names, "class_names": list(lineage.dataset.class_names)}
    model = onnx_bytes(network, (height, width), num_classes, words)
    split = read_split(lineage.normalized)
    rows = split.validation if len(split.validation) else split.train
    golden, compared = rows[bundle.evenly(len(rows), bundle.NUM_GOLDEN)], rows[:NUM_COMPARED]
    images_RD, _ = read_rows(lineage.table, np.concatenate([golden, compared]))
    golden_NHW, compared_NHW = np.split(images_RD.reshape(-1, height, width), [len(golden)])
    compare_with_torch(model, network, compared_NHW)
    (folder / bundle.ONNX).write_bytes(model)
    output_NC = bundle.golden_output(network, golden_NHW)
    pairs = save({"images": golden_NHW, "probabilities": output_NC})
    (folder / bundle.GOLDEN).write_bytes(pairs)
    if len(split.validation) and lineage.recipe.model.hidden:
        write_likeness(lineage.table, split, model, folder / bundle.LIKENESS)


def write_likeness(table: StageRef, split: PartIndices, model: bytes, path: Path) -> None:
    """Write what tells images like the training images from others, fitted with an ONNX model."""
    from safetensors.numpy import save

    from tasks.dataset.table import read_rows
    from tasks.evaluation.likeness import NUM_FITTED, fit_likeness, with_scales
    from tasks.release.onnx_model import OUTPUTS, read_model

    found = read_model(model, bundle.ONNX)

    def seen(rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Any]]:
        images_NP, labels_N = read_rows(table, rows)
        images_NHW = images_NP.reshape(-1, *found.image_shape)
        return images_NP, labels_N, found.outputs(images_NHW, OUTPUTS)

    images_NP, labels_N, (_, _, features_NF) = seen(
        split.train[bundle.evenly(len(split.train), NUM_FITTED)]
    )
    with one_thread():
        fitted = fit_likeness(images_NP, features_NF, labels_N)
        images_NP, _, (_, logits_NC, features_NF) = seen(split.validation)
        arrays = with_scales(fitted, images_NP, features_NF, logits_NC)
    path.write_bytes(save(arrays))
