"""Faults on real child processes: killed anywhere, two at once, a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL

from flows import launch, server
from flows.server import prefect_server as embedded

pytestmark = pytest.mark.flow

EPOCHS = 10
RUN = [
    *(sys.executable, "-c", "from flows.cli import main; main()", "run", "--json"),
    *("--dataset", "digits8x8", "--set", f"training.epochs={EPOCHS}", "--set", "floors={}"),
]


def start(environment: dict[str, str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload]
        RUN,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(child: subprocess.Popen[str]) -> dict[str, object]:
    out, err = child.communicate(timeout=900)
    assert child.returncode == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def published(root: Path) -> dict[str, bytes]:
    """Every file of every bundle; what lies beside them tells the time."""
    models = root / "models"
    return {
        str(path.relative_to(models)): path.read_bytes()
        for path in models.glob("*/*/**/*")
        if path.is_file()
    }


def hidden(root: Path) -> list[Path]:
    """Half-built folders and temporary files that a run has left."""
    places = [root / "stages", root / "models"]
    return [path for place in places for path in place.rglob(".*") if place.exists()]


@pytest.fixture(scope="module")
def undisturbed(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    url = str(PREFECT_API_URL.value())
    finish(start({**kept, "IDXFLOW_ROOT": str(root), "PREFECT_API_URL": url}))
    return root


def until_gone(processes: list[psutil.Process]) -> Iterator[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=120)
    yield from alive


def test_two_runs_at_once_both_succeed_and_write_nothing_twice(
    environment: dict[str, str], root: Path
) -> None:
    """Each has its own embedded server, so that only our own locks stand between them."""
    children = [start(environment) for _ in range(2)]
    first, second = (finish(child) for child in children)
    assert first["version"] == second["version"]
    ran = [
        row["name"]
        for summary in (first, second)
        for row in summary["stages"]  # type: ignore[attr-defined]
        if row["state"] == "ran" and row["name"] != "publish"
    ]
    assert sorted(ran) == sorted(["fetch", "validate", "convert", "normalize", "train", "evaluate"])
    journal = (root / "models/digits8x8/journal.jsonl").read_text().splitlines()
    assert len(journal) == 1
    assert hidden(root) == []


def test_kill_9_leaves_no_server_and_the_next_run_converges(
    environment: dict[str, str], root: Path, undisturbed: Path
) -> None:
    child = start(environment)
    while not list((root / "stages").glob("convert-*")):
        assert child.poll() is None
        time.sleep(0.05)
    below = psutil.Process(child.pid).children(recursive=True)
    assert below, "an embedded server is a child of the run"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert list(until_gone(below)) == []
    environment["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
    survived = finish(start(environment))
    assert {row["name"]: row["state"] for row in survived["stages"]}["fetch"] == "cached"  # type: ignore[attr-defined]
    assert published(root) == published(undisturbed)
    assert hidden(root) == []


def test_a_full_disk_is_one_clear_error_and_the_next_run_goes_on(
    prefect_server: None, environment: dict[str, str], root: Path
) -> None:
    """No file of this child may grow beyond 300 KB; the weights are larger."""
    environment["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
    wide = [*RUN, "--set", "model.hidden=[2048]", "--set", "training.epochs=1"]
    full = no_file_beyond(300_000)
    done = subprocess.run(
        wide, env=environment, preexec_fn=full, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no room to write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((root / "stages").glob("train-*"))
    assert hidden(root) == []
    again = subprocess.run(wide, env=environment, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    states = {row["name"]: row["state"] for row in json.loads(again.stdout)["stages"]}
    assert (states["normalize"], states["train"]) == ("cached", "ran")


def no_file_beyond(num_bytes: int) -> Callable[[], None]:
    """What makes a disk full for a child: no file of it may grow beyond so many bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of an embedded server's database in this process."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        ((found,),) = connection.execute("SELECT version_num FROM alembic_version")
    return str(found)


# The revision before one that adds a column, and one that this Prefect does not know.
@pytest.mark.parametrize(
    "at", ["3c841a1800a1", pytest.param("0123456789ab", marks=pytest.mark.exhaustive)]
)
def test_a_database_that_prefect_cannot_start_with_is_made_anew(
    prefect_server: None, home: Path, at: str
) -> None:
    """As a migration leaves it that was cut short: a column is there, its revision is not noted."""
    whole = str(PREFECT_API_DATABASE_CONNECTION_URL.value()).removeprefix("sqlite+aiosqlite:///")
    database = home / "embedded-1.db"
    with closing(sqlite3.connect(whole)) as source, closing(sqlite3.connect(database)) as half:
        source.backup(half)
        half.execute("UPDATE alembic_version SET version_num = ?", (at,))
        half.commit()
    with embedded() as wait:
        wait()
    assert revision(database) == revision(Path(whole))


def test_a_disk_that_is_too_full_for_a_database_is_named(
    environment: dict[str, str], root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at once; the history in a database that cannot grow is kept."""
    full = no_file_beyond(1_000_000)
    done = subprocess.run(
        RUN, env=environment, preexec_fn=full, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert f"the disk of {root / 'prefect'} is full" in told
    assert "MB of free disk" in told
    assert "Traceback" not in done.stderr
    before = (root / "prefect" / "embedded-1.db").stat().st_ino
    monkeypatch.setenv("PREFECT_HOME", str(root / "prefect"))
    with embedded() as wait:
        wait()
    assert (root / "prefect" / "embedded-1.db").stat().st_ino == before


def test_a_server_that_fails_in_a_run_is_one_clear_error(
    served: None, idxflow: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when its database cannot grow: status 500 for the state of the flow's run."""

    def fail(*given: object) -> None:
        reply = httpx.Response(500, json={}, request=httpx.Request("POST", "http://server"))
        raise PrefectHTTPStatusError.from_httpx_error(
            httpx.HTTPStatusError("Server error '500'", request=reply.request, response=reply)
        )

    monkeypatch.setattr(launch, "_serve_and_run", fail)
    monkeypatch.setattr(server, "is_full", lambda folder: True)
    code, out, err = idxflow("run", "--dataset", "digits8x8")
    assert (code, out) == (1, "")
    told = " ".join(err.split())
    assert "an error in the middle of the run (Server error '500'), and that" in told
    assert f"the disk of {os.environ['PREFECT_HOME']} is full" in told
    assert "Traceback" not in err


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_stopped_run_saves_its_training_and_says_how_to_go_on(
    environment: dict[str, str], root: Path, number: signal.Signals, code: int
) -> None:
    """With an embedded server, and the signal to the whole group, as a terminal sends Ctrl-C."""
    command = [*RUN[:-1], "training.epochs=10000"]
    child = subprocess.Popen(
        command,
        env={**environment, "IDXFLOW_CHECKPOINT_S": "0.5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 600
    while not any(root.glob("checkpoints/train-*.safetensors")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    since = time.time()
    os.killpg(child.pid, number)
    out, err = child.communicate(timeout=600)
    assert child.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert "the same command resumes from here" in err
    (checkpoint,) = root.glob("checkpoints/train-*.safetensors")
    assert checkpoint.stat().st_mtime > since
    assert hidden(root) == []


@pytest.mark.exhaustive
def test_a_root_that_is_deleted_is_one_clear_error(environment: dict[str, str], root: Path) -> None:
    for stage in ("fetch", "normalize", "train"):
        child = start(environment)
        while not any(root.glob(f"stages/{stage}-*")) and child.poll() is None:
            time.sleep(0.01)
        while root.exists():
            shutil.rmtree(root, ignore_errors=True)
        out, err = child.communicate(timeout=300)
        if child.returncode == 0:
            assert json.loads(out)["version"]
        else:
            assert child.returncode == 1
            assert err.count("error ") == 1, err
            assert "Traceback" not in err
        shutil.rmtree(root, ignore_errors=True)
