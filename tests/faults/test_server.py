"""A Prefect server that dies in the middle of a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RUN = ("-c", "from flows.cli import main; main()", "run", "--json", "--dataset", "digits8x8")


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a child that shares nothing with this process."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    places = {"IDXFLOW_ROOT": str(root), "PREFECT_HOME": str(tmp_path / "prefect")}
    return {**kept, **places, "IDXFLOW_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A Prefect server of its own and its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    database = f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno())],
            env={**environment, "PREFECT_API_DATABASE_CONNECTION_URL": database},
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    listener.close()
    yield process, f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    process.kill()
    process.communicate()
