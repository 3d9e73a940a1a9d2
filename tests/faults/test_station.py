"""Deployments whose server, worker or run is killed, started as docs/operations.md says.

A run is held in the middle, in publish, by the lock that publish takes: it goes on when a test
wants it to, however busy the machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tasks.release.bundle import models_lock
from tasks.runtime.files import locked

pytestmark = [pytest.mark.flow, pytest.mark.exhaustive]

RUN = ("retrain/on-demand", "dataset=digits8x8", "device=cpu")
# A run that holds a deployment's slot renews its lease after so many seconds.
RENEWAL_S = 225
# How long the server gives a run that is cancelled: five minutes, unless told otherwise.
CANCELLING = "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS"


@contextmanager
def held_in_the_middle(station: Any, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a run that waits in publish as long as the block goes on; its id."""
    patch.setenv("IDXFLOW_ROOT", str(station.root))
    with locked(models_lock("digits8x8")):
        run = station.submit(*RUN)
        station.wait_until(lambda: "publish" in station.tasks_going_on(run), 600)
        assert station.state_of(run) == "RUNNING"
        yield run


def test_a_killed_server_costs_no_run(
    station: Any, monkeypatch: pytest.MonkeyPatch, held: Callable[..., None]
) -> None:
    with held_in_the_middle(station, monkeypatch) as run:
        station.kill("server")
        station.start_server()
        until = time.monotonic() + RENEWAL_S + 30
        station.wait_until(
            lambda: time.monotonic() > until or station.state_of(run) != "RUNNING", 600
        )
        assert station.state_of(run) == "RUNNING"
    station.wait_for(run, "COMPLETED")
    station.wait_for(station.submit(*RUN), "COMPLETED")
    held("a server that dies in a deployment's run", "nothing lost", "converges")


def test_a_killed_worker_costs_no_run(
    station: Any, monkeypatch: pytest.MonkeyPatch, held: Callable[..., None]
) -> None:
    """Its run goes on; the next worker knows nothing of it and has a free place for the next."""
    with held_in_the_middle(station, monkeypatch) as run:
        station.kill("worker")
        station.start_worker()
    station.wait_for(run, "COMPLETED")
    station.wait_for(station.submit(*RUN), "COMPLETED")
    held("a worker that dies in a deployment's run", "nothing lost", "converges")


def test_after_a_power_cut_the_next_run_starts_by_itself(
    station: Any, monkeypatch: pytest.MonkeyPatch, held: Callable[..., None]
) -> None:
    with held_in_the_middle(station, monkeypatch) as dead:
        station.kill("worker", "server", runs=True)
    monkeypatch.setitem(station.environment, CANCELLING, "20")
    station.start_server()
    station.start_worker()
    station.wait_for(station.submit(*RUN), "COMPLETED")
    assert station.state_of(dead) == "RUNNING"
    station.prefect("flow-run", "cancel", dead)
    station.wait_for(dead, "CANCELLED")
    held("a power cut in a deployment's run", "nothing lost", "converges")


def test_a_run_that_is_killed_while_it_is_pending_blocks_nothing(
    station: Any, held: Callable[..., None]
) -> None:
    """With its worker: it stays Pending or Submitting until a person cancels it."""
    dead = station.submit(*RUN)
    station.wait_until(lambda: station.state_of(dead) == "PENDING", 600)
    station.kill("worker", runs=True)
    station.start_worker()
    station.wait_for(station.submit(*RUN), "COMPLETED")
    assert station.state_of(dead) == "PENDING"
    station.prefect("flow-run", "cancel", dead)
    station.wait_for(dead, "CANCELLED")
    held("a worker that dies while its run is pending", "nothing lost", "converges")
