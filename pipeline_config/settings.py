"""Facts of this machine, from the environment (`IDXFLOW_*`): never part of a recipe or a key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pipeline_config.sections import Section, checked, given_path

CHECKOUT = Path(__file__).resolve().parents[1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(Section):
    """Where things go and what of the machine is used.

    `root`: the folder of everything that a run makes, absolute, for children that work elsewhere.
    `threads`: CPU threads of training; it is part of the train stage's key, because sums in another
    order give other bits. `server_start_s`: how long Prefect's embedded server may take to answer.
    `checkpoint_s`: how often a training saves where it stands.
    """

    root: Path = CHECKOUT / "artifacts"
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=_cores)
    server_start_s: Annotated[float, Field(gt=0)] = 180.0
    checkpoint_s: Annotated[float, Field(ge=0)] = 20.0

    @field_validator("root")
    @classmethod
    def _is_absolute(cls, root: Path) -> Path:
        return given_path(root).absolute()

    @property
    def stages(self) -> Path:
        """The folder of the stages' outputs, `<stage>-<key>/` each."""
        return self.root / "stages"

    @property
    def models(self) -> Path:
        """The folder of published bundles, `<dataset>/<version>/` each."""
        return self.root / "models"

    @property
    def checkpoints(self) -> Path:
        """The folder of trainings that are not finished, `train-<key>.safetensors` each."""
        return self.root / "checkpoints"

    @property
    def scratch(self) -> Path:
        """The folder of what a command needs only while it runs."""
        return self.root / "scratch"

    @property
    def locks(self) -> Path:
        """The folder of lock files, empty and harmless."""
        return self.root / "locks"


def settings() -> Settings:
    """The settings of this moment; cheap, so that nobody keeps a stale copy.

    Raises ConfigError for a variable that does not fit.
    """
    variables = {name: f"IDXFLOW_{name.upper()}" for name in Settings.model_fields}
    found = {name: os.environ[key] for name, key in variables.items() if key in os.environ}
    return checked(Settings, found, "the environment's IDXFLOW_* variables")
