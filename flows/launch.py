"""Start the flow from the command line: server, imports and run, overlapped."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Sequence

from flows.environment import prepare_environment
from flows.explain import Verdict
from flows.plan import Choice
from flows.server import prefect_server
from flows.summary import Summary

# What each stage imports only when it really runs, and what takes long to import.
HEAVY = {
    "validate": ("tasks.dataset.expectations",),
    "train": ("tasks.model.training",),
    "evaluate": ("tasks.evaluation.metrics", "tasks.evaluation.figures"),
    "publish": ("tasks.release.assemble",),
}


def launch(choice: Choice, verdicts: Sequence[Verdict], *, verbose: bool) -> Summary:
    """Run the flow on a running or an embedded server and return what came of it.

    The embedded server takes seconds to start; Prefect and the libraries of the stages that are
    going to run are imported meanwhile.
    """
    prepare_environment(verbose=verbose)
    embedded = "PREFECT_API_URL" not in os.environ
    with prefect_server() as wait:
        _import_all(["flows.retrain", *_needed(verdicts)])
        wait()
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.retrain import retrain

        try:
            # Nobody watches an embedded server: it is spared the heartbeat, which costs a second.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if embedded else {}):
                summary: Summary = retrain(**choice.model_dump())
                return summary
        finally:
            # What is still on its way to the server must arrive before the server goes.
            EventsWorker.drain_all(timeout=10)


def _needed(verdicts: Sequence[Verdict]) -> list[str]:
    """The heavy modules of the stages that are going to run."""
    return [
        module
        for verdict in verdicts
        if verdict.state != "hit"
        for module in HEAVY.get(verdict.name, ())
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
