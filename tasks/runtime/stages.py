"""The declaration of the stages, for keys, explain, the flows and the docs.

Neither Prefect nor torch is imported here, so that `explain` answers in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

StageName = Literal["fetch", "validate", "convert", "normalize", "train", "evaluate", "publish"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class Stage:
    """One stage.

    `module` holds its task; the module's first-party source, transitively, is part of the key.
    `libraries` are those whose version decides the output's bytes.
    `data` are files of the checkout that are read like code, such as a page's template.
    `ignores` are dotted inputs that are places or words, and so not part of the key.
    """

    name: StageName | Literal["audit"]
    module: str
    libraries: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()


FETCH = Stage(
    "fetch",
    "tasks.raw.fetch",
    ignores=(
        "source",
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
    libraries=("numpy", "pandas", "pyarrow", "great-expectations", "jinja2", "pillow"),
    data=("tasks/dataset/expectations.yaml", "tasks/dataset/validation.html"),
    ignores=("title",),
)
CONVERT = Stage("convert", "tasks.dataset.convert", libraries=("numpy", "pyarrow"))
NORMALIZE = Stage(
    "normalize", "tasks.dataset.normalize", libraries=("numpy", "pyarrow", "scikit-learn")
)
TRAIN = Stage("train", "tasks.model.train", libraries=("numpy", "scipy", "torch", "safetensors"))
EVALUATE = Stage(
    "evaluate",
    "tasks.evaluation.evaluate",
    libraries=("numpy", "torch", "scikit-learn", "matplotlib", "pillow", "pyarrow"),
    ignores=("corrections.source",),
)
PUBLISH = Stage("publish", "tasks.release.publish")
# Beside the pipeline: made from a normalize and a train stage for each fold.
AUDIT = Stage(
    "audit",
    "tasks.evaluation.label_audit",
    libraries=("numpy", "torch", "matplotlib", "pillow", "pyarrow"),
)

# The stages of a run that are cached, in order. Publish is never cached.
STAGES = (FETCH, VALIDATE, CONVERT, NORMALIZE, TRAIN, EVALUATE)
