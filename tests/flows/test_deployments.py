"""The deployments of `prefect.yaml` on a real server, pool and worker: docs/operations.md."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from pipeline_config.settings import CHECKOUT

pytestmark = pytest.mark.flow
Prefect = Callable[..., subprocess.CompletedProcess[str]]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server, a pool, a worker and the deployments; yields the environment of a person."""
    home = tmp_path_factory.mktemp("station")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "IDXFLOW_ROOT": str(home / "root"),
        "IDXFLOW_CHECKOUT": str(CHECKOUT),
        "IDXFLOW_CHECKPOINT_S": "15",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "DO_NOT_TRACK": "1",
    }
    server = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with ExitStack() as stack:
        stack.enter_context(running(server, environment, home / "server.log"))
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200, 120, home / "server.log")
        for words in (["work-pool", "create", "idxflow", "--type", "process"], ["deploy", "--all"]):
            done = prefect(environment, *words)
            assert done.returncode == 0, done.stdout + done.stderr
        worker = [*PREFECT, "worker", "start", "--pool", "idxflow"]
        stack.enter_context(running(worker, environment, home / "worker.log"))
        yield environment


class running:
    """A process that ends with the block; its output goes to a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                command, env=environment, cwd=CHECKOUT, stdout=output, stderr=output
            )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.child.terminate()
        self.child.wait(timeout=60)


def wait_until(is_so: Callable[[], bool], timeout_s: float, log: Path | None = None) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if is_so():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(log.read_text() if log else "it did not come to pass")


def prefect(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PREFECT, *words],
        env=environment,
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def runs_of(environment: dict[str, str], deployment: str) -> list[dict[str, object]]:
    reply = httpx.post(
        f"{environment['PREFECT_API_URL']}/flow_runs/filter",
        json={"deployments": {"name": {"any_": [deployment]}}},
    )
    return reply.raise_for_status().json()  # type: ignore[no-any-return]


def test_a_deployment_runs_on_demand_and_publishes(station: dict[str, str]) -> None:
    words = ("deployment", "run", "retrain/on-demand", "-p", "dataset=digits8x8", "--watch")
    done = prefect(station, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    pointer = Path(station["IDXFLOW_ROOT"]) / "models/digits8x8/champion.json"
    version = json.loads(pointer.read_text())["champion"]["version"]
    assert (pointer.parent / version / "report.html").is_file()
    (run,) = runs_of(station, "on-demand")
    assert run["name"] == "digits8x8 · small · cpu"
    kinds = artifacts_of(station)
    assert {"table", "markdown", "image", "progress"} <= set(kinds)


@pytest.mark.exhaustive
def test_a_batch_of_files_is_answered_by_the_champion(station: dict[str, str]) -> None:
    """After the test above, which made one."""
    root = Path(station["IDXFLOW_ROOT"])
    (images,) = root.glob("stages/fetch-*/t10k-images-idx3-ubyte")
    out = root / "answers.json"
    words = ["-p", "dataset=digits8x8", "-p", f'files=["{images}"]', "-p", f"out={out}"]
    done = prefect(station, "deployment", "run", "predict/batch", *words, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(out.read_text())) == 360


def artifacts_of(environment: dict[str, str]) -> list[str]:
    reply = httpx.post(f"{environment['PREFECT_API_URL']}/artifacts/filter", json={})
    return [artifact["type"] for artifact in reply.raise_for_status().json()]


def test_a_cancelled_run_saves_its_training_first(station: dict[str, str]) -> None:
    long = 'overrides=["training.epochs=10000"]'
    words = ("deployment", "run", "retrain/on-demand", "-p", "dataset=digits8x8", "-p", long)
    done = prefect(station, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(station["IDXFLOW_ROOT"]) / "checkpoints"
    wait_until(lambda: any(folder.glob("train-*.safetensors")), 120)
    (run,) = [run for run in runs_of(station, "on-demand") if run["state_type"] == "RUNNING"]
    since = time.time()
    assert prefect(station, "flow-run", "cancel", str(run["id"])).returncode == 0
    wait_until(lambda: state_of(station, run["id"]) == "CANCELLED", 120)
    (checkpoint,) = folder.glob("train-*.safetensors")
    # The next one by the clock would have come 15 s after the first.
    assert checkpoint.stat().st_mtime > since


def state_of(environment: dict[str, str], run: object) -> str:
    reply = httpx.get(f"{environment['PREFECT_API_URL']}/flow_runs/{run}")
    return str(reply.raise_for_status().json()["state_type"])


@pytest.mark.parametrize(
    "parameter", ["dataset=nope", "recipe=nope", "device=tpu", "refresh_from=bake", "bogus=1"]
)
def test_nonsense_is_refused_at_submission(station: dict[str, str], parameter: str) -> None:
    before = len(runs_of(station, "on-demand"))
    done = prefect(station, "deployment", "run", "retrain/on-demand", "-p", parameter)
    assert done.returncode != 0
    assert len(runs_of(station, "on-demand")) == before


def test_the_form_offers_the_names_that_exist(station: dict[str, str]) -> None:
    url = f"{station['PREFECT_API_URL']}/deployments/name/retrain/on-demand"
    deployment = httpx.get(url).raise_for_status().json()
    form = deployment["parameter_openapi_schema"]["properties"]
    assert "digits8x8" in form["dataset"]["enum"]
    assert "fast" in form["recipe"]["enum"]
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert deployment["global_concurrency_limit"]["limit"] == 1


def test_a_cron_schedule_creates_its_runs(station: dict[str, str]) -> None:
    """With sqlalchemy 2.1 it never does, and only the server's log says so."""
    wait_until(lambda: len(runs_of(station, "nightly")) > 0, 60)
    assert {run["state_type"] for run in runs_of(station, "nightly")} == {"SCHEDULED"}
