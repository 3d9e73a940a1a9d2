"""What every test shares: a root of its own, so that no test sees another's artifacts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline_config.settings import CHECKOUT

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: every child would inherit deafness to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh IDXFLOW_ROOT for each test."""
    folder = tmp_path / "root"
    monkeypatch.setenv("IDXFLOW_ROOT", str(folder))
    return folder


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window, driven by Playwright; tests are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; on Debian, `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox does not work for root in a container, and the pages are ours.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """`open_page(path)` → the page, which in the end has asked for nothing and had no error."""
    context, heard = browser.new_context(reduced_motion="reduce"), list[str]()
    context.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    context.on("weberror", lambda error: heard.append(str(error.error)))
    context.on("request", lambda request: heard.append(request.url))

    def call(path: Path) -> Any:
        page = context.new_page()
        page.goto(path.as_uri())
        assert heard.pop(0) == path.as_uri()
        return page

    yield call
    context.close()
    assert [words for words in heard if not words.startswith("data:image/png;")] == []


@pytest.fixture
def draw() -> Callable[..., str]:
    """`draw(page, strokes)` draws points (x, y), in shares of the pad, and returns the answer."""

    def call(page: Any, strokes: list[list[tuple[float, float]]], clear: bool = True) -> str:
        if clear:
            page.click("#clear")
        page.locator("#pad").scroll_into_view_if_needed()
        box = page.locator("#pad").bounding_box()
        for stroke in strokes:
            places = [
                (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke
            ]
            page.mouse.move(*places[0])
            page.mouse.down()
            for place in places:
                page.mouse.move(*place, steps=4)
            page.mouse.up()
        return str(page.locator("#answer").inner_text())

    return call


PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


class Station:
    """A Prefect server and a worker as docs/operations.md has them, to be killed and started again.

    Nothing waits for a fixed time: a busy machine only makes it slower.
    """

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.home, self.root = home, home / "root"
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: list[str] = []
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "IDXFLOW_ROOT": str(self.root),
            "IDXFLOW_CHECKPOINT_S": "15",
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
            "DO_NOT_TRACK": "1",
        }

    def open(self) -> None:
        """Everything that docs/operations.md says to do once."""
        self.start_server()
        self.prefect("work-pool", "create", "idxflow", "--type", "process")
        self.prefect("deploy", "--all")
        self.start_worker()

    def start_server(self) -> None:
        self._start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.wait_until(lambda: self.ask("/health") is True, 600)

    def start_worker(self) -> None:
        """The worker, in a folder that is not the checkout."""
        self._start("worker", "worker", "start", "--pool", "idxflow", "--limit", "1")

    def _start(self, name: str, *words: str) -> None:
        self.commands.append(" ".join(words))
        with (self.home / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [*PREFECT, *words], env=self.environment, cwd=self.home, stdout=log, stderr=log
            )

    def kill(self, *names: str, runs: bool = False) -> None:
        """SIGKILL for these children at once, and for the runs that they have started."""
        doomed = [psutil.Process(self.children[name].pid) for name in names]
        for process in doomed:
            process.suspend()  # so that it starts nothing more
        if runs:
            doomed += [run for process in doomed for run in process.children(recursive=True)]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for name in names:
            self.children.pop(name).wait()

    def close(self) -> None:
        """End the worker and then the server, as Ctrl-C does."""
        for name in ("worker", "server"):
            if name in self.children:
                self.children[name].terminate()
                self.children[name].wait(timeout=300)

    def prefect(self, *words: str, fails: bool = False) -> str:
        """What `prefect …` prints, run in the checkout; it must succeed, or fail."""
        self.commands.append(" ".join(words))
        done = subprocess.run(
            [*PREFECT, *words],
            env=self.environment,
            cwd=CHECKOUT,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, **filters: Any) -> Any:
        """What the API answers: to a POST with filters, else to a GET."""
        method = "POST" if path.endswith("/filter") else "GET"
        reply = httpx.request(method, self.url + path, json=filters or None, timeout=120)
        return reply.raise_for_status().json()

    def submit(self, deployment: str, *parameters: str) -> str:
        """Start a run of a deployment; its id.

        Not with `--watch`, which can hang although the run completes (PrefectHQ/prefect#17817).
        """
        words = [word for parameter in parameters for word in ("-p", parameter)]
        told = self.prefect("deployment", "run", deployment, *words)
        found = re.search(r"UUID: ([0-9a-f-]{36})", told)
        assert found, told
        return found[1]

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/flow_runs/filter", deployments={"name": {"any_": [deployment]}}
        )
        return found

    def tasks_going_on(self, run: str) -> list[str]:
        """The tasks of a run that have begun and not ended."""
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        going = [task["name"] for task in tasks if task["state_type"] == "RUNNING"]
        return [name.partition("-")[0] for name in going]

    def state_of(self, run: str) -> str:
        return str(self.ask(f"/flow_runs/{run}")["state_type"])

    def wait_for(self, run: str, state: str, timeout_s: float = 600) -> None:
        """Return once a run is in this state.

        One that is to complete must not end otherwise. One that is cancelled is CRASHED for a
        moment, since its process ends first.
        """
        ends = {"FAILED", "CRASHED", "CANCELLED"} if state == "COMPLETED" else set()
        self.wait_until(lambda: self.state_of(run) in ends | {state}, timeout_s)
        found = self.ask(f"/flow_runs/{run}")["state"]
        assert found["type"] == state, f"{found['name']}: {found['message']}"

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Return once it is so; a server that does not answer is asked again."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):
                if is_so():
                    return
            time.sleep(0.3)
        logs = [log.read_text(errors="replace")[-4000:] for log in self.home.glob("*.log")]
        raise AssertionError("\n".join(["it did not come to pass", *logs]))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A server, a pool, the deployments and a worker, shared by the tests of a file."""
    made = Station(tmp_path_factory.mktemp("station"))
    try:
        made.open()
        yield made
    finally:
        made.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often which promise held after which fault, as the tests of faults told it."""
    held: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, told in report.user_properties:
            if name == "held":
                fault, promises = told
                held.setdefault(fault, Counter()).update(promises)
    if not held:
        return
    promises = list(dict.fromkeys(promise for counts in held.values() for promise in counts))
    width = max(map(len, held))
    terminalreporter.section("fault × promise: how often it was tried, and held each time")
    terminalreporter.line(" ".join(["fault".ljust(width), *promises]))
    for fault in sorted(held):
        cells = [str(held[fault][promise] or "–").rjust(len(promise)) for promise in promises]
        terminalreporter.line(" ".join([fault.ljust(width), *cells]))
