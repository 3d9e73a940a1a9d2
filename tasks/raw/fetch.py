"""The fetch stage: the four raw IDX files of a data set, unpacked, with their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_config.datasets import Dataset
from tasks.runtime.stages import FETCH
from tasks.runtime.store import Facts
from tasks.runtime.task import stage_task


def only_transient(task: object, task_run: object, state: Any) -> bool:
    """Return whether a failed fetch is tried again: after a network error, not a wrong digest."""
    return getattr(state.data, "transient", False) is True


@stage_task(
    FETCH,
    timeout_s=1800,
    show=lambda ref: None,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=only_transient,
)
def fetch(folder: Path, dataset: Dataset, source: str | None = None) -> Facts:
    """Fetch the four raw files, as `obtain` does; facts: sha256 and num_bytes, by file."""
    from tasks.raw.sources import obtain

    return obtain(dataset, source, folder)
