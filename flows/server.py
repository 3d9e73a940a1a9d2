"""Prefect's server as a child process that serves one run and ends with it.

Prefect can start such a server itself, but only at the first call, and `kill -9` of the run leaves
it behind. Ours starts while torch is still being imported, and ends at the end of its standard
input: the kernel closes that pipe however the parent ends.
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
from filelock import AcquireReturnProxy, FileLock, Timeout

from pipeline_config.settings import settings
from tasks.runtime.errors import ServerError
from tasks.runtime.files import FULL, storage_errors

# With two writers, SQLite answers "locked" (503), and each stage would wait 2 s to retry.
SINGLE_WRITER = {
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
}


def prepare_environment(*, verbose: bool = False) -> None:
    """Set the environment that Prefect and Great Expectations are imported in, before the import.

    Prefect gets a home below our root and no telemetry. A variable that is set already is kept.
    Only the console's level is set in any case: the command line prints an error itself, once.
    """
    home = settings().root / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
    }
    if "PREFECT_API_URL" not in os.environ:
        # An embedded server has no UI to read the log in, and sending it takes longer than the run.
        defaults["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
    os.environ |= defaults | os.environ
    if not verbose:
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    # Prefect trusts its result records, so no other user may write there.
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """Provide a server for the block: the one that PREFECT_API_URL names, else an embedded one.

    Yields a function that waits until the server answers, and raises ServerError if it does not.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url:
        yield lambda: _wait_for(url)
        return
    with _free_database() as lock:
        own_url, child = _start(Path(lock.lock_file).with_suffix(".db"))
        os.environ["PREFECT_API_URL"] = own_url
        try:
            yield lambda: _wait_for(own_url, child)
        finally:
            del os.environ["PREFECT_API_URL"]
            child.communicate()  # closes its standard input and waits for its end


def _free_database(number: int = 1) -> AcquireReturnProxy[FileLock]:
    """Lock the first database that no other run uses: servers cannot share an SQLite file."""
    lock = FileLock(Path(os.environ["PREFECT_HOME"]) / f"embedded-{number}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        return _free_database(number + 1)


def _start(database: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a server with this database; return the URL of its API, and its process."""
    log = database.with_suffix(".log")
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        number = listener.fileno()
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(number), str(database)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C at a terminal is for the run, not for its server
        )
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api", child


def _wait_for(url: str, child: subprocess.Popen[bytes] | None = None) -> None:
    """Return when the server at `url` is healthy. Raises ServerError if that takes too long."""
    timeout_s = settings().server_start_s if child else 10
    reason, end = "", time.monotonic() + timeout_s
    while time.monotonic() < end and (child is None or child.poll() is None):
        try:
            httpx.get(f"{url}/health", timeout=timeout_s).raise_for_status()
            return
        except httpx.HTTPError as error:
            reason = repr(error)
        time.sleep(0.1)
    if child is not None and child.poll() is not None:
        reason = "its process ended"
    raise server_error(f"no answer of {url} within {timeout_s:g} s ({reason})")


def server_error(found: str) -> ServerError:
    """Return an error about the server. A full disk is named as its cause."""
    home = Path(os.environ["PREFECT_HOME"])
    expected = "a running server where PREFECT_API_URL names one, else time to start one"
    remedy = f"Run the same command again. IDXFLOW_SERVER_START_S gives time; {home} has the log."
    if is_full(home):
        found = f"{found}, and that the disk of {home} is full"
        remedy = "Run the same command again with at least 8 MB of free disk."
    return ServerError("the Prefect server", found=found, expected=expected, remedy=remedy)


def is_full(folder: Path) -> bool:
    """Return whether a new database, of less than 8 MB, does not fit on the disk: write as much."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(8_000_000))
    except OSError as error:
        return error.errno in FULL
    return False


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # a buffered read aborts an interpreter that exits
    os._exit(0)


def _serve(descriptor: str, database: str, *again: str) -> None:
    """Serve on an inherited socket, in the child, until standard input ends.

    If Prefect cannot start with the database, try once more with an empty one: a migration that a
    kill or a full disk cuts short fails at every later start.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= SINGLE_WRITER
    os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
    import uvicorn
    from prefect.server.api.server import create_app

    try:
        app = create_app(ephemeral=True, final=True)
        uvicorn.run(app, fd=int(descriptor), log_level="error")
    except SystemExit:
        place = Path(database)
        if again or is_full(place.parent):
            raise
        for path in place.parent.glob(f"{place.name}*"):
            path.unlink()
        # The same process for the parent, and the same socket.
        os.execv(sys.executable, [*sys.orig_argv, "again"])  # noqa: S606


if __name__ == "__main__":
    _serve(*sys.argv[1:])
