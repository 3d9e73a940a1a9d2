"""Prefect's side of the stage cache: a policy whose key is ours and whose hits are verified."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import get_result_store

from tasks.runtime.outcomes import record
from tasks.runtime.stages import FETCH, Stage
from tasks.runtime.store import look


@dataclass
class StagePolicy(CachePolicy):
    """Compute the stage's key; where its output is intact, point Prefect's record at it.

    Where the output is missing, damaged or to be refreshed, the record is emptied, which Prefect
    takes for a miss, so the task runs and `build` replaces the output. The record is thus always a
    function of what lies in the store, and losing it loses nothing.
    """

    stage: Stage = field(default=FETCH)

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """The key `<stage>-<digits>` under which Prefect keeps the reference."""
        since = time.perf_counter()
        found = look(self.stage, inputs, refresh=bool(inputs.get("refresh")))
        name = found.folder.name
        store = get_result_store()
        if found.ref is not None:
            store.write(obj=found.ref, key=name)
            record(found.outcome("cached", since))
        elif store.result_storage is not None and store.exists(name):
            store.result_storage.write_path(  # type: ignore[unused-coroutine]
                name, content=b""
            )
        return name
