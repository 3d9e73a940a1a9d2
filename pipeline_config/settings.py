"""The settings of this machine, from the environment variables `IDXFLOW_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pipeline_config.sections import Section, checked, given_path

CHECKOUT = Path(__file__).resolve().parents[1]


def _cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(Section):
    """The settings of this machine. No recipe has them.

    `root`: the folder of everything that a run makes. It is absolute, since child processes may
    work in other folders. `threads`: CPU threads of training; they are part of the train stage's
    key, since they decide the order of sums. `server_start_s`: how long Prefect's embedded server
    may take to start. `checkpoint_s`: the time between two checkpoints of a training.
    `pages_url`: where `idxflow up` serves the pages below the root, for links to them.
    """

    root: Path = CHECKOUT / "artifacts"
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=_cores)
    server_start_s: Annotated[float, Field(gt=0)] = 180.0
    checkpoint_s: Annotated[float, Field(ge=0)] = 20.0
    pages_url: str | None = None

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
        """The folder of unfinished trainings, `train-<key>.safetensors` each."""
        return self.root / "checkpoints"

    @property
    def scratch(self) -> Path:
        """The folder of files that a command needs only while it runs."""
        return self.root / "scratch"


def settings() -> Settings:
    """Return the settings in the environment now. Raises ConfigError for a value that does not fit.

    Callers do not keep them, since the environment may change.
    """
    known = {f"IDXFLOW_{name.upper()}": name for name in Settings.model_fields}
    found = {known[key]: value for key, value in os.environ.items() if key in known}
    return checked(Settings, found, "the environment's IDXFLOW_* variables")
