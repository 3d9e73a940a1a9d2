"""Run a flow from the command line: server start, imports and run overlap."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from flows.console import say
from flows.plan import Plan, planned
from flows.server import is_full, prefect_server, prepare_environment
from pipeline_config.sections import IdxflowError
from tasks.runtime.errors import ServerError
from tasks.runtime.files import root_lock
from tasks.runtime.stages import Outcome

# The exit code of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130
# What a stage imports only when it runs, and what takes long to import.
HEAVY = {
    "validate": ("tasks.dataset.expectations",),
    "train": ("tasks.model.training",),
    "evaluate": ("tasks.model.network", "tasks.evaluation.confidence_figures", "sklearn.metrics"),
    "audit": ("tasks.model.network", "tasks.evaluation.figures"),
    "publish": ("tasks.release.assemble",),
}


def launch(
    entrypoint: str,
    plan: Plan,
    parameters: dict[str, Any],
    outlook: Sequence[Outcome],
    *,
    verbose: bool,
) -> Any:
    """Run the flow `module:name` on a running or an embedded server; returns what it returns.

    The embedded server takes seconds to start. Prefect and the libraries of the stages that will
    run are imported meanwhile. After Ctrl-C the process exits with INTERRUPTED.
    """
    token = planned.set(plan)
    try:
        # Held until the server has ended, since its database is below the root.
        with root_lock():
            return _serve_and_run(entrypoint, parameters, outlook, verbose)
    except KeyboardInterrupt:
        say("stopped; what is finished is kept, and the same command resumes from there")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        # Prefect wraps some of its client's errors.
        cause = error.__cause__ or error
        if isinstance(error, IdxflowError) or not isinstance(cause, httpx.HTTPError):
            raise
        home = Path(os.environ["PREFECT_HOME"])
        room = f", and the disk of {home} is full" if is_full(home) else ""
        reason = str(error).partition(" - ")[0]  # Prefect adds the body and a link
        raise ServerError(
            "the Prefect server",
            found=f"an error in the middle of the run ({reason}){room}",
            expected="a server that answers as long as the flow runs",
            remedy="Run the same command again: what is finished is kept. Without PREFECT_API_URL "
            "the run starts its own server.",
        ) from error
    finally:
        planned.reset(token)


def _serve_and_run(
    entrypoint: str, parameters: dict[str, Any], outlook: Sequence[Outcome], verbose: bool
) -> Any:
    prepare_environment(verbose=verbose)
    is_embedded = "PREFECT_API_URL" not in os.environ
    module, _, name = entrypoint.partition(":")
    with prefect_server() as wait:
        ahead = [each.name for each in outlook if each.state != "hit"]
        _import_all([module, *(heavy for stage in ahead for heavy in HEAVY.get(stage, ()))])
        wait()
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        flow = getattr(importlib.import_module(module), name)
        # The heartbeat costs a second, and is of no use on an embedded server.
        changed = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if is_embedded else {}
        try:
            with temporary_settings(changed):
                return flow(**parameters)
        finally:
            EventsWorker.drain_all(timeout=10)  # before the server ends


def _import_all(modules: Sequence[str]) -> None:
    """Import without the garbage collector, which would visit half a million new objects (2 s).

    They are then excluded from later collections, also from the one at exit (2 s).
    """
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        gc.enable()
    gc.freeze()
