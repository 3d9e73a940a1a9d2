"""The decorator that makes a stage's function a Prefect task with a verified cache."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from prefect import Task, task
from prefect.results import get_result_store

from tasks.runtime.show import record
from tasks.runtime.stages import Stage
from tasks.runtime.store import Facts, StageRef, build, look

P = ParamSpec("P")


def _cache_key(stage: Stage, context: object, inputs: dict[str, Any]) -> str:
    """Return `<stage>-<key>`, the name of Prefect's record of the output.

    The record is written from what the store holds: anew for an intact output, and empty for one
    that is missing, damaged or to be refreshed, so that Prefect runs the task.
    """
    since = time.perf_counter()
    given = {name: value for name, value in inputs.items() if name != "refresh"}
    found = look(stage, given, refresh=bool(inputs.get("refresh")))
    name = found.folder.name
    store = get_result_store()
    if found.ref is not None:
        store.write(obj=found.ref, key=name)
        record(found.outcome("cached", since))
    elif store.result_storage is not None and store.exists(name):
        store.result_storage.write_path(name, content=b"")  # type: ignore[unused-coroutine]
    return name


def stage_task(
    stage: Stage, *, timeout_s: int, show: Callable[[StageRef], None], **options: Any
) -> Callable[[Callable[Concatenate[Path, P], Facts]], Task[..., StageRef]]:
    """Return the decorator that makes `write(folder, **inputs) -> facts` the task of `stage`.

    The task takes the same inputs, and `refresh`, with which a cached output is not reused. It
    returns a reference to the output. `show` adds artifacts to a task run that was not skipped.
    `options` go to Prefect's `task`.
    """

    def decorate(write: Callable[Concatenate[Path, P], Facts]) -> Task[..., StageRef]:
        _, *inputs = inspect.signature(write).parameters.values()
        refresh = inspect.Parameter("refresh", inspect.Parameter.KEYWORD_ONLY, default=False)
        signature = inspect.Signature([*inputs, refresh], return_annotation=StageRef)

        @functools.wraps(write)
        def run(*args: P.args, **kwargs: P.kwargs) -> StageRef:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            is_forced = bound.arguments.pop("refresh")
            given = bound.arguments
            ref = build(stage, given, functools.partial(write, **given), refresh=is_forced)
            show(ref)
            return ref

        run.__signature__ = signature  # type: ignore[attr-defined]
        return task(
            name=stage.name,
            cache_key_fn=functools.partial(_cache_key, stage),
            result_serializer="json",
            persist_result=True,
            cache_result_in_memory=False,
            timeout_seconds=timeout_s,
            tags=[stage.name],
            **options,
        )(run)

    return decorate
