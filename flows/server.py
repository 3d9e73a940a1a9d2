"""Prefect's server as a child that serves one run and cannot outlive it.

Prefect can start such a server itself, but only when the first call is made, and a `kill -9` of the
run leaves it behind. Ours starts while torch is still being imported, and ends at the end of its
standard input: the kernel closes that pipe however the parent ends.

Run as a module it is that child: `python -m flows.server SOCKET DATABASE` serves on an inherited
socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from pipeline_config.settings import settings
from tasks.runtime.errors import ServerError
from tasks.runtime.files import FULL, storage_errors

# With two writers, SQLite answers "locked" (503), and each stage would wait 2 s to retry.
SINGLE_WRITER = {
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
}
# What Prefect writes until a new database is complete, with room to spare.
NEW_DATABASE_BYTES = 8_000_000


def prepare_environment(*, verbose: bool = False) -> None:
    """Set the environment that Prefect and Great Expectations are imported in, before the import.

    Prefect gets a home under our root, no telemetry, and a console without its own error output. A
    variable that is set already wins, except for the console's level: an error of bad input is
    printed once, by us.
    """
    home = settings().root / "prefect"
    for name, value in {
        "PREFECT_HOME": home,
        "PREFECT_LOCAL_STORAGE_PATH": home / "results",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": int(settings().server_start_s),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }.items():
        os.environ.setdefault(name, str(value))
    if "PREFECT_API_URL" not in os.environ:
        # The log of an embedded server is read by nobody, and sending it takes longer than the run.
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    if not verbose:
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    # Prefect trusts its result records, so no other user may write there.
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """A server for the block: the one that PREFECT_API_URL names, else an embedded one.

    Yields a function that waits until the server answers; imports can go on in the meantime.
    Raises ServerError when it does not answer.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url:
        yield lambda: _wait_for(url, None, timeout_s=10)
        return
    with _free_database() as database, _child(database) as (own_url, child):
        os.environ["PREFECT_API_URL"] = own_url
        try:
            yield lambda: _wait_for(own_url, child, timeout_s=settings().server_start_s)
        finally:
            del os.environ["PREFECT_API_URL"]


@contextmanager
def _free_database() -> Iterator[Path]:
    """The first database that no other run is using: two servers on one SQLite file would clash."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        lock = FileLock(home / f"embedded-{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            number += 1
            continue
        try:
            yield home / f"embedded-{number}.db"
            return
        finally:
            lock.release()


@contextmanager
def _child(database: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The serving child and its API's URL; the child ends with the block or with this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with (database.with_suffix(".log")).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno()), str(database)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal is for the run, not for its server
            env={
                **os.environ,
                **SINGLE_WRITER,
                "PREFECT_UI_ENABLED": "false",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
        )
    listener.close()
    try:
        yield f"http://127.0.0.1:{port}/api", child
    finally:
        if child.stdin is not None:
            child.stdin.close()
        child.wait(timeout=30)


def _wait_for(url: str, child: subprocess.Popen[bytes] | None, timeout_s: float) -> None:
    """Return once the server at `url` says that it is healthy; raises ServerError."""
    end = time.monotonic() + timeout_s
    reason = "no answer"
    while time.monotonic() < end and (child is None or child.poll() is None):
        try:
            reply = httpx.get(f"{url}/health", timeout=max(end - time.monotonic(), 1))
            if reply.status_code == 200:
                return
            reason = f"status {reply.status_code}"
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        time.sleep(0.1)
    expected = f"an answer within {timeout_s:g} s"
    remedy = "Start it, or unset PREFECT_API_URL to use the embedded one."
    if child is not None:
        home = Path(os.environ["PREFECT_HOME"])
        remedy = f"Its log is in {home}; IDXFLOW_SERVER_START_S gives it more time."
        if child.poll() is not None:
            reason = "that it ended at its start"
            if is_full(home):
                reason += f", and that the disk of {home} is full"
                expected = f"{NEW_DATABASE_BYTES // 10**6} MB of free disk"
                remedy = "Free some space and run the same command again."
    raise ServerError(
        f"the Prefect server at {url}", found=reason, expected=expected, remedy=remedy
    )


def is_full(folder: Path) -> bool:
    """Is there too little room for a new database? Tried, since a log needs room, too."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(NEW_DATABASE_BYTES))
    except OSError as error:
        return error.errno in FULL
    return False


def _end_with_parent() -> None:
    """End this process, at once, when standard input ends."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # a buffered read aborts an interpreter that exits
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _serve(descriptor: str, database: str, *again: str) -> None:
    """Serve; where Prefect cannot start with the database, try once more with an empty one.

    A migration that a kill or a full disk cuts short fails at every later start.
    """
    _end_with_parent()
    os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
    import uvicorn

    app = "prefect.server.api.server:create_app"
    try:
        uvicorn.run(app, factory=True, fd=int(descriptor), log_level="error")
    except SystemExit:
        place = Path(database)
        if again or is_full(place.parent):
            raise
        for path in place.parent.glob(f"{place.name}*"):
            path.unlink()
        command = [sys.executable, "-m", "flows.server", descriptor, database, "again"]
        # The same process for the parent, and the same socket.
        os.execv(sys.executable, command)  # noqa: S606


if __name__ == "__main__":
    _serve(*sys.argv[1:])
