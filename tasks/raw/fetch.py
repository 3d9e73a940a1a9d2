"""Stage 1, fetch: the four raw IDX files of a data set, decompressed and known by their digests.

Axes: N images, H rows and W columns of pixels; images are N × H × W, labels N.
"""

from __future__ import annotations

from prefect import task
from prefect.client.schemas.objects import State, TaskRun

from pipeline_config.datasets import Dataset
from tasks.runtime.artifacts import ProgressArtifact, show_table
from tasks.runtime.cache import StagePolicy
from tasks.runtime.manifest import StageRef
from tasks.runtime.stages import FETCH
from tasks.runtime.store import build


def only_transient(task: object, task_run: TaskRun, state: State[StageRef]) -> bool:
    """Whether the network stood in the way: wrong digests alone are not worth another try."""
    return getattr(state.data, "transient", False) is True


@task(
    name="fetch",
    cache_policy=StagePolicy(stage=FETCH),
    result_serializer="json",
    persist_result=True,
    cache_result_in_memory=False,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=only_transient,
    timeout_seconds=1800,
    tags=["fetch"],
)
def fetch(dataset: Dataset, source: str | None = None, refresh: bool = False) -> StageRef:
    """The reference to the four raw files; facts: sha256 and num_bytes, by file.

    Raises FetchError when no source gives them, RawDataError for a folder that cannot be used and
    StorageError where there is no room for them.
    """
    from tasks.raw.obtain import Attempt, obtain

    attempts: list[Attempt] = []
    bar = ProgressArtifact("fetch-progress", f"raw files of {dataset.name}")
    try:
        return build(
            FETCH,
            {"dataset": dataset},
            lambda folder: obtain(dataset, source, folder, attempts.append, bar.show),
            refresh=refresh,
        )
    finally:
        rows = [{"source": attempt.source, "result": attempt.result} for attempt in attempts]
        show_table("fetch-sources", rows, f"Where the raw files of {dataset.name} came from")
