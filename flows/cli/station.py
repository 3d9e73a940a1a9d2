"""`idxflow up`, `down` and `status`: the server, the worker and the pages that run for months."""

from __future__ import annotations

from typing import Annotated

from typer import Option, Typer

from flows import console, station
from flows.cli.run import Json
from flows.status import read_status

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
    """Start Prefect's server, a worker and the pages of reports, with all that they need.

    They go on after this command; `idxflow down` ends them. What runs already stays as it is.
    """
    made, started = station.up(port, notify)
    console.say(f"started: {', '.join(started) or 'nothing, all of it runs'}")
    console.facts("ui password reports", {**made.urls, "password": station.station_file("login")})


@app.command(epilog="Example: idxflow down")
def down() -> None:
    """End what `idxflow up` started, and the runs of its worker.

    A training saves a checkpoint first; the same run again goes on from there.
    """
    console.say(f"ended: {station.down() or 'nothing, none of it runs'}")


@app.command(epilog="Example: idxflow status --json")
def status(as_json: Json = False) -> None:
    """Print what runs, the next and the last runs, each data set's champion, and the disk."""
    found = read_status()
    if as_json:
        return console.print_json(found)
    console.table("name alive pid", found["processes"])
    for title in ("next", "last"):
        console.line(f"{title} runs" + ("" if found[title] is not None else ": no server answers"))
        console.table("time state deployment run", found[title] or ())
    console.line("data sets")
    console.table("dataset champion accuracy age_days last_accuracy", found["datasets"])
    return console.facts("ui reports num_bytes free_bytes", found)
