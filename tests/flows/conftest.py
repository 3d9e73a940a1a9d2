"""One Prefect server for all flow tests, and a root and result storage of its own for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flows.server import SINGLE_WRITER, prepare_environment

prepare_environment()
os.environ.update(SINGLE_WRITER)

from prefect.settings import (  # noqa: E402
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from flows import cli  # noqa: E402
from flows.summary import Summary  # noqa: E402

Shell = Callable[..., tuple[int, str, str]]
QUICK = ("training.epochs=1",)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with prefect_test_harness(server_startup_timeout=600), temporary_settings(quiet):
        yield


@pytest.fixture
def run(prefect_server: None, root: Path) -> Iterator[Callable[..., Summary]]:
    """Run the flow on digits8x8, one epoch unless told otherwise; no floor, which that is below."""
    from flows.retrain import retrain

    def call(**choice: object) -> Summary:
        overrides = (*choice.pop("overrides", QUICK), "floors={}")  # type: ignore[misc]
        return retrain(**{"dataset": "digits8x8", **choice, "overrides": overrides})  # type: ignore[return-value]

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: root / "results"}):
        yield call


@pytest.fixture
def idxflow(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["idxflow", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def served(prefect_server: None, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the command line use the server that all flow tests share."""
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setenv("PREFECT_HOME", os.environ["PREFECT_HOME"])
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: root / "results"}):
        yield


@pytest.fixture
def small_rows() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Images (N, 6, 6) that differ all, and labels (N,) of ten classes in turn."""
    generator = np.random.default_rng(0)

    def make(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        images = generator.integers(0, 256, (num_rows, 6, 6), dtype=np.uint8)
        images[:, 0] = 0
        return images, np.arange(num_rows, dtype=np.uint8) % 10

    return make


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    """The environment of a child process that shares nothing with this one."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "IDXFLOW_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
