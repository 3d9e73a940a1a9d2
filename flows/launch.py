"""Start the flow from the command line: server, imports and run, overlapped."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Sequence
from typing import Any

import httpx

from flows.console import say
from flows.environment import prepare_environment
from flows.explain import StageStatus
from flows.folds import LabelAudit
from flows.plan import Choice
from flows.server import prefect_server
from flows.summary import Summary
from tasks.runtime.errors import IdxflowError, ServerError
from tasks.runtime.files import root_lock

# The exit code of a program that Ctrl-C ended, as shells have it: 128 + SIGINT.
INTERRUPTED = 130
# What each stage imports only when it really runs, and what takes long to import.
HEAVY = {
    "validate": ("tasks.dataset.expectations",),
    "train": ("tasks.model.training",),
    "evaluate": ("tasks.evaluation.predictions", "tasks.evaluation.drawing"),
    "audit": ("tasks.model.network", "tasks.evaluation.image_figures"),
    "publish": ("tasks.release.assemble",),
}


def launch(choice: Choice, statuses: Sequence[StageStatus], *, verbose: bool) -> Summary:
    """Run the pipeline and return what came of it."""
    summary: Summary = _launch("flows.retrain:retrain", choice.model_dump(), statuses, verbose)
    return summary


def launch_audit(
    choice: Choice, num_folds: int, statuses: Sequence[StageStatus], *, verbose: bool
) -> LabelAudit:
    """Run the label audit and return what came of it."""
    parameters = {
        **choice.model_dump(exclude={"refresh_from", "force_promote"}),
        "folds": num_folds,
    }
    found: LabelAudit = _launch("flows.audit:audit_labels", parameters, statuses, verbose)
    return found


def _launch(
    entrypoint: str, parameters: dict[str, Any], statuses: Sequence[StageStatus], verbose: bool
) -> Any:
    """Run the flow `module:name` on a running or an embedded server; returns what it returns.

    The embedded server takes seconds to start; Prefect and the libraries of the stages that are
    going to run are imported meanwhile. After Ctrl-C it says how to go on and exits.
    """
    try:
        # From before the server starts until after it has ended: its database is in use, too.
        with root_lock():
            return _served(entrypoint, parameters, statuses, verbose)
    except KeyboardInterrupt:
        say("stopped; what is finished is kept, and the same command goes on from there")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        # Some of what Prefect's client raises comes wrapped.
        said = error.__cause__ or error
        if isinstance(error, IdxflowError) or not isinstance(said, httpx.HTTPError):
            raise
        raise ServerError(
            "the Prefect server",
            found=f"that it stopped answering in the middle of the run ({error})",
            expected="one that lives as long as the run",
            remedy="Run the same command again: what is finished is kept. Without PREFECT_API_URL "
            "the run brings its own server.",
        ) from error


def _served(
    entrypoint: str, parameters: dict[str, Any], statuses: Sequence[StageStatus], verbose: bool
) -> Any:
    """Start the server, import meanwhile, run the flow."""
    prepare_environment(verbose=verbose)
    embedded = "PREFECT_API_URL" not in os.environ
    module, _, name = entrypoint.partition(":")
    with prefect_server() as wait:
        _import_all([module, *_needed(statuses)])
        wait()
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        flow = getattr(importlib.import_module(module), name)
        try:
            # Nobody watches an embedded server: it is spared the heartbeat, which costs a second.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if embedded else {}):
                return flow(**parameters)
        finally:
            # What is still on its way to the server must arrive before the server goes.
            EventsWorker.drain_all(timeout=10)


def _needed(statuses: Sequence[StageStatus]) -> list[str]:
    """The heavy modules of the stages that are going to run."""
    return [
        module
        for status in statuses
        if status.state != "hit"
        for module in HEAVY.get(status.name, ())
    ]


def _import_all(modules: Sequence[str]) -> None:
    """Import without the collector, which would walk half a million new objects many times (2 s).

    What is there afterwards stays to the end, so later walks, and the exit (2 s), skip it.
    """
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        gc.enable()
    gc.freeze()
