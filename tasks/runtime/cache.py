"""Prefect's side of the stage cache: a policy whose key is ours and whose hits are verified."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import get_result_store

from tasks.runtime.keys import components_of, key_of
from tasks.runtime.stages import FETCH, Stage
from tasks.runtime.store import Outcome, folder_of, inspect, record

logger = logging.getLogger(__name__)


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
        clock = time.perf_counter()
        key = key_of(components_of(self.stage, inputs))
        folder = folder_of(self.stage.name, key)
        manifest, damage = inspect(folder)
        store = get_result_store()
        if manifest is not None and not damage and not inputs.get("refresh"):
            store.write(obj=manifest.ref, key=folder.name)
            seconds = round(time.perf_counter() - clock, 3)
            record(Outcome(self.stage.name, "cached", seconds, key, str(folder), "found intact"))
        elif store.exists(folder.name):
            store.result_storage.write_path(folder.name, content=b"")
        return folder.name
