"""Faults on real child processes: killed anywhere, two at once, a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL

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
    out, err = child.communicate(timeout=300)
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
    _, alive = psutil.wait_procs(processes, timeout=15)
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

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(
        wide, env=environment, preexec_fn=limit, check=False, capture_output=True, text=True
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
    until = time.monotonic() + 180
    while not any(root.glob("checkpoints/train-*.safetensors")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    since = time.time()
    os.killpg(child.pid, number)
    out, err = child.communicate(timeout=180)
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
