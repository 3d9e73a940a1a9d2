"""Run a flow from the command line: server start, imports and run overlap."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import httpx

from flows.console import say
from flows.plan import Plan, planned
from flows.server import prefect_server, prepare_environment, server_error
from pipeline_config.sections import IdxflowError
from tasks.runtime.files import root_lock
from tasks.runtime.show import Outcome

# What a stage imports only when it runs, and what takes long to import.
HEAVY = {
    "validate": ("tasks.dataset.expectations",),
    "train": ("tasks.model.training",),
    "evaluate": ("tasks.model.network", "tasks.evaluation.confidence_figures", "sklearn.metrics"),
    "audit": ("tasks.model.network", "tasks.evaluation.figures"),
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

    After Ctrl-C the process exits with 130, which is 128 + SIGINT.
    """
    token = planned.set(plan)
    try:
        # Held until the server has ended, since its database is below the root.
        with root_lock():
            return _serve_and_run(entrypoint, parameters, outlook, verbose)
    except KeyboardInterrupt:
        say("stopped; what is finished is kept, and the same command resumes from there")
        raise SystemExit(130) from None
    except Exception as error:
        # Prefect wraps some of its client's errors.
        is_of_client = any(isinstance(e, httpx.HTTPError) for e in (error, error.__cause__))
        if isinstance(error, IdxflowError) or not is_of_client:
            raise
        reason = str(error).partition(" - ")[0]  # Prefect adds the body and a link
        raise server_error(f"an error in the middle of the run ({reason})") from error
    finally:
        planned.reset(token)


def _serve_and_run(
    entrypoint: str, parameters: dict[str, Any], outlook: Sequence[Outcome], verbose: bool
) -> Any:
    """Import what is needed while an embedded server takes seconds to start; then run the flow."""
    prepare_environment(verbose=verbose)
    is_embedded = "PREFECT_API_URL" not in os.environ
    module, _, name = entrypoint.partition(":")
    ahead = [heavy for each in outlook if each.state != "hit" for heavy in HEAVY.get(each.name, ())]
    with prefect_server() as wait:
        # Collections would visit half a million new objects, now (2 s) and at exit (2 s).
        gc.disable()
        for needed in (module, *ahead):
            import_module(needed)
        gc.enable()
        gc.freeze()
        wait()
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        # The heartbeat costs a second, and is of no use on an embedded server.
        changed = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if is_embedded else {}
        try:
            with temporary_settings(changed):
                return getattr(import_module(module), name)(**parameters)
        finally:
            EventsWorker.drain_all(timeout=10)  # before the server ends
