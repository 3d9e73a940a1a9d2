"""What runs for months, on loopback: Prefect's server, a worker, and a server for the reports.

Database, logs and login are in `artifacts/station`. The processes, and the runs that the worker
starts, carry MARK in their environment: so they are found without a list of ids, which may be
wrong after a kill and name other processes after a restart.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import httpx
import psutil
from pydantic import Field

from flows.declared import POOL, declare
from flows.server import prepare_environment
from pipeline_config.sections import ConfigError, Section
from pipeline_config.settings import CHECKOUT, settings
from tasks.release.journal import EVENTS, Entry
from tasks.runtime.errors import ServerError
from tasks.runtime.files import canonical_json, locked, storage_errors, write_atomically

logger = logging.getLogger(__name__)

MARK = "IDXFLOW_STATION"
# How long a process may take to end before it is killed: a training saves a checkpoint first.
END_S = 300


class Station(Section):
    """What the last `up` was given. The reports have the port after the UI's."""

    port: Annotated[int, Field(ge=1, le=65534)] = 4200
    notify: str | None = None

    @property
    def urls(self) -> dict[str, str]:
        """The addresses of the UI and of the reports."""
        ports = {"ui": self.port, "reports": self.port + 1}
        return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}

    @property
    def commands(self) -> dict[str, str]:
        """The command of each process, without the interpreter."""
        return {
            "server": f"-m prefect server start --host 127.0.0.1 --port {self.port}",
            "reports": f"-m flows.reports {self.port + 1}",
            "worker": f"-m prefect worker start --pool {POOL} --name {POOL} --limit 1",
        }


def station_file(name: str) -> Path:
    """Return the path of a file of the station. `login` holds NAME:PASSWORD."""
    return settings().root / "station" / name


def known_station() -> Station:
    """Return what the last `up` was given, else the defaults."""
    with suppress(OSError, ValueError):
        return Station.model_validate_json(station_file("station.json").read_bytes())
    return Station()


def marked() -> list[psutil.Process]:
    """Return the processes of this station, and the runs that its worker started."""
    found = []
    for process in psutil.process_iter():
        # Another user's, or just ended.
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(station_file("")):
                found.append(process)
    return found


def running(station: Station) -> dict[str, psutil.Process]:
    """Return the servers and the worker that live, by name."""
    names, found = {words: name for name, words in station.commands.items()}, {}
    for process in marked():
        with suppress(psutil.Error, KeyError):
            found[names[" ".join(process.cmdline()[1:])]] = process
    return found


def up(port: int | None = None, notify: str | None = None) -> tuple[Station, list[str]]:
    """Start what does not run, and bring everything to the declared state.

    Returns the station and the names of what was started. Raises ServerError if something does not
    start, and ConfigError for an unknown block, and for another port than the running one.
    """
    with locked("station"):
        known = known_station()
        alive, station = running(known), known.model_copy(update={"port": port or known.port})
        if alive and station != known:
            found, remedy = f"port {known.port} in use by this station", "Run `idxflow down` first."
            raise ConfigError(f"--port {port}", found=found, remedy=remedy)
        _prepare(station)
        started = [name for name in station.commands if name not in alive]
        for name in ("server", "reports"):
            if name in started:
                _start_and_wait(station, name, lambda: _answers(station))
        station = station.model_copy(update={"notify": notify or known.notify})
        try:
            declare(station.notify)
        except httpx.HTTPError as error:
            found = str(error).partition(" - ")[0]  # without the body and a link
            raise ServerError(station.urls["ui"], found=found) from error
        write_atomically(station_file("station.json"), canonical_json(station.model_dump()))
        if "worker" in started:
            since = datetime.now(UTC)
            _start_and_wait(station, "worker", lambda: _has_polled(station, since))
    return station, started


def down() -> int:
    """End the station and the runs of its worker, and wait; return how many processes it had.

    Runs end first and the server last, so that each end is reported.
    """
    with locked("station"):
        own, num_ended = running(known_station()), 0
        while everything := marked():
            runs = [each for each in everything if each not in own.values()]
            clients = [each for each in everything if each != own.get("server")]
            num_ended += _end(runs or clients or everything)
    return num_ended


def _end(processes: list[psutil.Process]) -> int:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=END_S)[1]:
        process.kill()
        process.wait()
    return len(processes)


def _prepare(station: Station) -> None:
    """Make folder and login, and set the environment in which Prefect is imported."""
    folder, login = station_file(""), station_file("login")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not login.exists():
            write_atomically(login, f"admin:{secrets.token_urlsafe(24)}".encode())
        login.chmod(0o600)
    os.environ |= {
        "IDXFLOW_PAGES_URL": station.urls["reports"],
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"{station.urls['ui']}/api",
        "PREFECT_API_AUTH_STRING": login.read_text(),
        "PREFECT_SERVER_API_AUTH_STRING": login.read_text(),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": station.urls["ui"],
        # Runs that ended 90 days ago are removed, with their logs and artifacts.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    }
    prepare_environment(verbose=True)


def _start_and_wait(station: Station, name: str, is_ready: Callable[[], bool]) -> None:
    """Start a process in a session of its own; return when it is ready.

    A busy machine makes it slow, so it may take its time. Raises ServerError if it ends before.
    """
    path = station_file(f"{name}.log")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a script. A worker that inherits this never ends.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, *station.commands[name].split()],
            env={**os.environ, MARK: str(station_file(""))},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the end of the terminal is not its end
        )
    while child.poll() is None:
        if is_ready():
            return
        time.sleep(0.2)
    words = " ".join(path.read_text(errors="replace").split())[-200:]
    found = f"that it ended with {child.returncode}: … {words}"
    remedy = f"See {path}. `idxflow up --port N` takes the ports N and N + 1."
    raise ServerError(f"the {name} of `idxflow up`", found=found, remedy=remedy)


def tell_decision(dataset: str, entry: Entry) -> None:
    """Emit the event of a decision that a person made, if the server of `idxflow up` runs."""
    station = known_station()
    if "server" not in running(station):
        return
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENTS[entry.event],
        "resource": {"prefect.resource.id": f"idxflow.model.{dataset}.{entry.version}"},
        "payload": entry.model_dump(mode="json"),
    }
    try:
        ask(station, "/events", [event])
    except httpx.HTTPError as error:
        logger.warning("the server was not told of it: %s", error)


def ask(station: Station, path: str, content: object = None, *, timeout_s: float = 60) -> Any:
    """Return what the server's API answers: to a POST with content, else to a GET."""
    login = httpx.BasicAuth(*station_file("login").read_text().split(":", 1))
    base = f"{station.urls['ui']}/api"
    with httpx.Client(base_url=base, auth=login, timeout=timeout_s, trust_env=False) as client:
        if content is None:
            return client.get(path).raise_for_status().json()
        reply = client.get("/csrf-token", params={"client": POOL}).raise_for_status()
        token = {"Prefect-Csrf-Client": POOL, "Prefect-Csrf-Token": reply.json()["token"]}
        answer = client.post(path, json=content, headers=token).raise_for_status()
        return answer.json() if answer.content else None


def _answers(station: Station) -> bool:
    with suppress(httpx.HTTPError):
        # Asked again as long as the process lives. Another program may never answer.
        return bool(ask(station, "/admin/version", timeout_s=5))
    return False


def _has_polled(station: Station, since: datetime) -> bool:
    """Return whether a worker has asked for work since then."""
    workers = ask(station, f"/work_pools/{POOL}/workers/filter", {"limit": 9})
    return any(datetime.fromisoformat(each["last_heartbeat_time"]) > since for each in workers)
