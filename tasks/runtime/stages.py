"""The declarations of the stages, and the outcome of each one in a run.

Neither Prefect nor torch is imported here, so that `explain` takes milliseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

logger = logging.getLogger(__name__)

StageName = Literal["fetch", "validate", "convert", "normalize", "train", "evaluate", "publish"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
State = Literal["ran", "cached", "hit", "miss", "pending"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    `module` holds its task; the module's first-party source, transitively, is part of the key.
    `libraries` are those whose version decides the output's bytes.
    `data` are files of the checkout that are read like code, such as a page's template.
    `ignores` are dotted inputs that are places or words, and so not part of the key.
    """

    name: StageName | Literal["admit", "audit"]
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
# Once for each shard of new rows, before convert.
ADMIT = Stage(
    "admit",
    "tasks.dataset.admit",
    libraries=("numpy", "pandas", "pyarrow", "jinja2", "pillow"),
    data=("tasks/dataset/admission.html",),
    ignores=("shard.dataset", "shard.released"),
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


@dataclass(frozen=True)
class Change:
    """A component of a stage's key that changed. Digests are shortened to eight digits."""

    component: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.component}: {self.old} → {self.new}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage: in a run `ran` or `cached`, in a look `hit`, `miss` or `pending`.

    A pending stage waits for one that would run, and has no key yet.
    """

    name: str
    state: State
    seconds: float
    key: str | None
    path: str | None
    reason: str
    changes: tuple[Change, ...] = ()


_outcomes: ContextVar[dict[str, Outcome] | None] = ContextVar("outcomes", default=None)


@contextmanager
def recording() -> Iterator[dict[str, Outcome]]:
    """Collect the outcomes of all stages inside, in order; a key keeps its first outcome."""
    outcomes: dict[str, Outcome] = {}
    token = _outcomes.set(outcomes)
    try:
        yield outcomes
    finally:
        _outcomes.reset(token)


def record(each: Outcome) -> None:
    """Log an outcome, and add it to those that are being collected."""
    logger.info("%-9s %-6s %6.1f s  %s", each.name, each.state, each.seconds, each.reason)
    outcomes = _outcomes.get()
    if outcomes is not None:
        outcomes.setdefault(f"{each.name}-{each.key}", each)
