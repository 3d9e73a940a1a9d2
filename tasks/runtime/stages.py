"""What the stages are: the one declaration that keys, explain, the flow and the docs go by.

Pure on purpose: neither Prefect nor torch is imported here, so that asking what would run costs
milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

StageName = Literal["fetch", "validate", "convert", "normalize", "train", "evaluate", "publish"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class Stage:
    """One stage.

    `module` holds its task; its first-party source, transitively, is part of the key.
    `takes` maps each parameter of the task to where its value comes from: the name of an earlier
    stage, or a dotted path into the plan (`dataset`, `recipe`, `machine`).
    `libraries` are those whose version decides the output's bytes.
    `data` are files of the checkout that are read as code is, such as a page's template.
    `ignores` are dotted parameters that are places or words and so stay outside the key.
    """

    name: StageName | Literal["audit"]
    module: str
    takes: dict[str, str]
    libraries: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()


FETCH = Stage(
    "fetch",
    "tasks.raw.fetch",
    takes={"dataset": "dataset"},
    ignores=(
        "dataset.title",
        "dataset.sources",
        "dataset.class_names",
        "dataset.default_recipe",
        "dataset.num_classes",
        "dataset.image_shape",
        "dataset.corrections",
    ),
)
VALIDATE = Stage(
    "validate",
    "tasks.dataset.validate",
    takes={"raw": "fetch", "num_classes": "dataset.num_classes"},
    libraries=("numpy", "pandas", "pyarrow", "great-expectations", "jinja2"),
    data=("tasks/dataset/validation.html",),
)
CONVERT = Stage(
    "convert",
    "tasks.dataset.convert",
    takes={"raw": "fetch", "checked": "validate", "dataset_name": "dataset.name"},
    libraries=("numpy", "pyarrow"),
)
NORMALIZE = Stage(
    "normalize",
    "tasks.dataset.normalize",
    takes={"table": "convert", "split": "recipe.split", "scaling": "recipe.scaling"},
    libraries=("numpy", "pyarrow", "scikit-learn"),
)
TRAIN = Stage(
    "train",
    "tasks.model.train",
    takes={
        "table": "convert",
        "normalized": "normalize",
        "model": "recipe.model",
        "training": "recipe.training",
        "machine": "machine",
    },
    libraries=("numpy", "scipy", "torch", "safetensors"),
)
EVALUATE = Stage(
    "evaluate",
    "tasks.evaluation.evaluate",
    takes={
        "table": "convert",
        "normalized": "normalize",
        "trained": "train",
        "model": "recipe.model",
        "class_names": "dataset.class_names",
        "corrections": "dataset.corrections",
    },
    libraries=("numpy", "torch", "scikit-learn", "matplotlib", "pillow", "pyarrow"),
    ignores=("corrections.source",),
)

# Beside the pipeline: from a normalize and a train stage for each fold.
AUDIT = Stage(
    "audit",
    "tasks.evaluation.label_audit",
    takes={
        "table": "convert",
        "normalized": "normalize",
        "trained": "train",
        "model": "recipe.model",
        "class_names": "dataset.class_names",
    },
    libraries=("numpy", "torch", "matplotlib", "pillow", "pyarrow"),
)

# What a run caches, in the order of the pipeline; publish is never cached and not here.
STAGES = (FETCH, VALIDATE, CONVERT, NORMALIZE, TRAIN, EVALUATE)
PUBLISH: StageName = "publish"
