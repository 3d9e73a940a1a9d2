"""Where a model comes from, and how to make it once more.

Nothing here is of the clock and nothing is a place, so that equal lineages give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as library_version
from typing import Any

import yaml

from pipeline_config.datasets import Dataset
from pipeline_config.recipe import Recipe
from pipeline_config.settings import CHECKOUT
from tasks.runtime.devices import Machine
from tasks.runtime.files import digest_of, sha256_bytes
from tasks.runtime.keys import code_digests
from tasks.runtime.store import Manifest, StageRef

TEMPLATES = ("tasks/bundle/report.html", "tasks/bundle/model_card.md")
LIBRARIES = ("jinja2", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from: the choices, the machine and the outputs of the stages before."""

    recipe: Recipe
    dataset: Dataset
    machine: Machine
    raw: StageRef
    checked: StageRef
    table: StageRef
    normalized: StageRef
    trained: StageRef
    evaluated: StageRef

    @property
    def stages(self) -> dict[str, Manifest]:
        """The manifest of each stage by the stage's name, in the order of the pipeline."""
        refs = (self.raw, self.checked, self.table, self.normalized, self.trained, self.evaluated)
        return {ref.stage: ref.manifest for ref in refs}


def provenance_of(lineage: Lineage) -> dict[str, Any]:
    """What made the model: nothing of the clock, no place, so equal lineages give equal bytes."""
    stages = lineage.stages
    components = {
        name: value for made in stages.values() for name, value in made.components.items()
    }
    code = {
        name.removeprefix("code "): value
        for name, value in components.items()
        if name.startswith("code ")
    }
    code |= code_digests("tasks.release.publish")
    code |= {name: sha256_bytes((CHECKOUT / name).read_bytes()) for name in TEMPLATES}
    libraries = {
        name.removeprefix("library "): value
        for name, value in components.items()
        if name.startswith("library ")
    }
    libraries |= {name: library_version(name) for name in LIBRARIES}
    return {
        "dataset": lineage.dataset.name,
        "recipe": lineage.recipe.name,
        "data": lineage.table.facts["sha256"],
        "seed": lineage.recipe.training.seed,
        **lineage.machine.model_dump(),
        "code": digest_of(code),
        "modules": dict(sorted(code.items())),
        "libraries": dict(sorted(libraries.items())),
        "stages": {name: {"key": made.key, "digest": made.digest} for name, made in stages.items()},
    }


def recipe_text(lineage: Lineage) -> str:
    """The resolved recipe as YAML, to be run again with `--recipe recipe.yaml`."""
    content = lineage.recipe.model_dump(mode="json", exclude={"expected"})
    text = yaml.safe_dump(
        content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=90
    )
    return f"# {again(lineage)}\n{text}"


def again(lineage: Lineage) -> str:
    """The command that, said in the bundle's folder, makes this model once more."""
    is_folder = lineage.dataset.content is not None
    dataset = (
        f"FOLDER --classes {lineage.dataset.num_classes}" if is_folder else lineage.dataset.name
    )
    return f"idxflow run --dataset {dataset} --recipe recipe.yaml --device {lineage.machine.device}"
