"""Real runs on the command line: their Prefect server dies, or they do, at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.flow, pytest.mark.exhaustive]

RUN = ("-c", "from flows.cli import main; main()", "run", "--json", "--dataset", "digits8x8")
QUICK = ("--set", "training.epochs=2", "--set", "floors.digits8x8=0")


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
    command = [sys.executable, "-m", "flows.server", str(listener.fileno())]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(tmp_path / "server.db")],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    port = listener.getsockname()[1]
    listener.close()
    yield process, f"http://127.0.0.1:{port}/api"
    process.kill()
    process.communicate()


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    """A run on the command line."""
    return subprocess.Popen(
        [sys.executable, *RUN, *QUICK],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run that must succeed says."""
    out, err = child.communicate(timeout=900)
    assert child.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def test_that_dies_in_a_run(
    lab: Any, environment: dict[str, str], server: tuple[Any, str], held: Callable[..., None]
) -> None:
    """Report in words; the next run has its own server and goes on from what is finished."""
    shutil.rmtree(lab.root, ignore_errors=True)
    process, address = server
    # How long Prefect waits for a server to come back: by default it asks five times a call.
    hurried = {"PREFECT_API_URL": address, "PREFECT_CLIENT_MAX_RETRIES": "1"}
    child = start(environment | hurried)
    until = time.monotonic() + 600
    while not list(lab.root.glob("stages/convert-*")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    out, err = child.communicate(timeout=600)
    assert child.returncode == 1, err
    assert out == ""
    assert "the Prefect server" in err
    assert "Traceback" not in err
    assert lab.halves() == []
    states = {row["name"]: row["state"] for row in finish(start(environment))["stages"]}
    assert (states["fetch"], states["convert"], states["publish"]) == ("cached", "cached", "ran")
    assert lab.halves() == []
    assert lab.temporaries() == []
    held(
        "a server that dies in a run",
        "intact",
        "nothing lost",
        "converges",
        "once",
        "clean",
        "reported",
    )


def test_kills_at_random_moments(
    lab: Any, environment: dict[str, str], held: Callable[..., None]
) -> None:
    """Real runs with an embedded server, until one comes through."""
    shutil.rmtree(lab.root, ignore_errors=True)
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    number = 6
    for _ in range(number):
        child = start(environment)
        until = time.monotonic() + moments.uniform(2, 20)
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert lab.halves() == [], f"seed {seed}"
    finish(start(environment))
    assert len(lab.decisions()) == 1
    digests = lab.digests()
    shutil.rmtree(lab.root)
    finish(start(environment))
    assert lab.digests() == digests, f"seed {seed}"
    held("kill at random moments of a real run", "intact", "nothing lost", times=number)
    held("kill at random moments of a real run", "converges", "once")
