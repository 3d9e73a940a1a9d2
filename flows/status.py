"""What `idxflow status` prints, from the server's API and the journals; without Prefect."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from flows.station import Station, ask, known_station, running
from pipeline_config.settings import settings
from tasks.release.bundle import published_datasets
from tasks.release.journal import champion_of, read_journal

NUM_RUNS, NUM_VERSIONS = 5, 5
NEXT = ("SCHEDULED", "PENDING", "PAUSED")
LAST = ("RUNNING", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def read_status() -> dict[str, Any]:
    """Return the state of the station, of the data sets and of the disk.

    `next` and `last`, the runs, are None if the server does not answer.
    """
    root, station = settings().root, known_station()
    alive, upcoming, last = running(station), None, None
    if "server" in alive:
        with suppress(httpx.HTTPError):
            upcoming = _runs(station, NEXT, "EXPECTED_START_TIME_ASC")
            last = _runs(station, LAST, "EXPECTED_START_TIME_DESC")
    root.mkdir(parents=True, exist_ok=True)
    return {
        **station.urls,
        "processes": [
            {
                "name": name,
                "pid": alive[name].pid if name in alive else None,
                "alive": name in alive,
            }
            for name in station.commands
        ],
        "next": upcoming,
        "last": last,
        "datasets": [_standing(name) for name in published_datasets()],
        "num_bytes": sum(path.lstat().st_size for path in root.rglob("*")),
        "free_bytes": shutil.disk_usage(root).free,
    }


def _runs(station: Station, states: tuple[str, ...], sort: str) -> list[dict[str, Any]]:
    """Return the first runs in these states."""
    deployments = ask(station, "/deployments/filter", limit=200)
    names = {each["id"]: each["name"] for each in deployments}
    kind = {"state": {"type": {"any_": states}}}
    return [
        {
            "time": run["start_time"] or run["expected_start_time"],
            "state": run["state_name"],
            "deployment": names.get(run["deployment_id"]),
            "run": run["name"],
        }
        for run in ask(station, "/flow_runs/filter", flow_runs=kind, sort=sort, limit=NUM_RUNS)
    ]


def _standing(dataset: str) -> dict[str, Any]:
    """Return a data set's champion, its age, and the accuracy of the last versions."""
    entries = read_journal(dataset)
    champion, accuracies = champion_of(entries), {each.version: each.accuracy for each in entries}
    age = None
    for entry in entries:
        if champion is not None and entry.seq == champion.since:
            age = (datetime.now(UTC) - datetime.fromisoformat(entry.time)).total_seconds() / 86400
    return {
        "dataset": dataset,
        "champion": champion and champion.version,
        "accuracy": champion and champion.accuracy,
        "age_days": age,
        "last_accuracy": tuple(accuracies.values())[-NUM_VERSIONS:],
    }
