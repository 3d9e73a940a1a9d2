"""`idxflow up`, `down` and `status`: the server, the worker and the pages that run for months."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from flows import console
from flows.cli.run import Json
from pipeline_config.settings import settings
from tasks.release.bundle import published_datasets
from tasks.release.journal import champion_age_days, champion_of, read_journal

if TYPE_CHECKING:
    from flows.station import Station

NUM_RUNS, NUM_VERSIONS = 5, 5
NEXT = ("SCHEDULED", "PENDING", "PAUSED")
LAST = ("RUNNING", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")

app = Typer()


@app.command(epilog="Example: idxflow up --notify slack-webhook/operators")
def up(
    notify: Annotated[
        str | None, Option(metavar="BLOCK", help="Notify through this block of Prefect's.")
    ] = None,
    port: Annotated[
        int | None, Option(min=1, max=65534, help="Of the UI.  [default: the last one, or 4200]")
    ] = None,
) -> None:
    """Start Prefect's server, a worker and the reports.

    They go on after this command; `idxflow down` ends them. What runs already stays as it is.
    """
    from flows import station

    made, started = station.up(port, notify)
    console.say(f"started: {', '.join(started) or 'nothing, all of it runs'}")
    console.facts("ui password reports", {**made.urls, "password": station.station_file("login")})


@app.command(epilog="Example: idxflow down")
def down() -> None:
    """End what `idxflow up` started, and the runs of its worker.

    A training saves a checkpoint first; the same run again goes on from there.
    """
    from flows import station

    console.say(f"ended: {station.down() or 'nothing, none of it runs'}")


@app.command(epilog="Example: idxflow status --json")
def status(as_json: Json = False) -> None:
    """Print what runs, what comes next, champions, and the disk."""
    found = _look()
    if as_json:
        return console.print_json(found)
    console.table("name alive pid", found["processes"])
    for title in ("next", "last"):
        console.line(f"{title} runs" + ("" if found[title] is not None else ": no server answers"))
        console.table("time state deployment run", found[title] or ())
    console.line("data sets")
    console.table("dataset champion accuracy age_days last_accuracy", found["datasets"])
    return console.facts("ui reports num_bytes free_bytes", found)


def _look() -> dict[str, Any]:
    """Return the state of the station, of the data sets and of the disk.

    `next` and `last`, the runs, are None if the server does not answer.
    """
    import httpx

    from flows import station

    root, made = settings().root, station.known_station()
    alive, upcoming, last = station.running(made), None, None
    if "server" in alive:
        with suppress(httpx.HTTPError):
            upcoming = _runs(made, NEXT, "EXPECTED_START_TIME_ASC")
            last = _runs(made, LAST, "EXPECTED_START_TIME_DESC")
    root.mkdir(parents=True, exist_ok=True)
    return {
        **made.urls,
        "processes": [
            {
                "name": name,
                "pid": alive[name].pid if name in alive else None,
                "alive": name in alive,
            }
            for name in made.commands
        ],
        "next": upcoming,
        "last": last,
        "datasets": [_standing(name) for name in published_datasets()],
        "num_bytes": sum(path.lstat().st_size for path in root.rglob("*")),
        "free_bytes": shutil.disk_usage(root).free,
    }


def _runs(made: Station, states: tuple[str, ...], sort: str) -> list[dict[str, Any]]:
    """Return the first runs in these states."""
    from flows import station

    deployments = station.ask(made, "/deployments/filter", {"limit": 200})
    names = {each["id"]: each["name"] for each in deployments}
    asked = {"flow_runs": {"state": {"type": {"any_": states}}}, "sort": sort, "limit": NUM_RUNS}
    return [
        {
            "time": run["start_time"] or run["expected_start_time"],
            "state": run["state_name"],
            "deployment": names.get(run["deployment_id"]),
            "run": run["name"],
        }
        for run in station.ask(made, "/flow_runs/filter", asked)
    ]


def _standing(dataset: str) -> dict[str, Any]:
    """Return a data set's champion, its age, and the accuracy of the last versions."""
    entries = read_journal(dataset)
    champion, accuracies = champion_of(entries), {each.version: each.accuracy for each in entries}
    return {
        "dataset": dataset,
        "champion": champion and champion.version,
        "accuracy": champion and champion.accuracy,
        "age_days": champion_age_days(entries),
        "last_accuracy": tuple(accuracies.values())[-NUM_VERSIONS:],
    }
