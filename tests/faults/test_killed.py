"""SIGKILL, a power cut and a full disk at the steps of everything that writes below the root.

In the core a run is met again and again in one root, each time at the next of some places, and what
is done by hand at every sixth step. `make test-all` takes every step of each stage, of a release
and of what is done by hand, each from the root as it was before.
"""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.stages import STAGE_NAMES

Held = Callable[..., None]

PROMISES = ("intact", "nothing lost", "converges", "once", "clean")
# Template before, job, template after, what is done next.
RUNS = {
    "a first run": ("empty", "first", "first", "first"),
    "a new champion": ("first", "second", "second", "second"),
}
PARTS = {
    **{f"stage {name}": (f"no-{name}", "first", "first", "first") for name in STAGE_NAMES},
    "a new champion": ("unpublished", "second", "second", "second"),
}
BY_HAND = {
    "promote": ("second", "promote", "promoted", "promote"),
    "rollback": ("second", "rollback", "rolled-back", "rollback"),
    "gc": ("old", "gc", "cleared", "gc"),
    "retract": ("sharded", "retract", "retracted", "retract"),
}
SHARDS = ("arrived", "second", "sharded", "second")
# The steps at which a fault makes a difference: without room one can still take away, and what is
# lost without power changes with what is brought to disk.
MATTERS = {"kill": ".", "power cut": "^(fsync|rename)", "full": "^(open|mkdir|fsync|rename)"}
# The places of a run, in its order: the step that is prevented is the first like this.
DATA = (
    r"open stages/\.fetch.*/received$",
    r"rename stages/\.fetch.* → stages/fetch",
    r"open stages/\.validate.*/report.html",
    r"fsync stages/\.convert.*/train.parquet",
    r"open stages/\.normalize.*/test.npy",
    r"open checkpoints/\.train",
    r"rename checkpoints/\.train",
)
MODEL = (
    r"open stages/\.train.*/manifest.json",
    r"rename stages/\.train",
    r"fsync stages/\.evaluate.*/probabilities.parquet",
    r"open models/\w+/\..*/model.onnx",
    r"rename models/\S+ → models/\w+/[0-9a-f]{12}$",
    r"fsync models/\w+$",
    r"open models/\w+/\.journal.jsonl",
    r"fsync models/\w+/\.journal.jsonl",
    r"rename .* → models/\w+/[0-9a-f]{12}.html",
    r"open models/\w+/\.champion.json",
    r"rename .* → models/\w+/champion.json",
)
PLACES = {"a first run": DATA + MODEL, "a new champion": MODEL}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a first run", "kill"),
        ("a new champion", "kill"),
        ("a new champion", "full"),
        pytest.param("a first run", "full", marks=pytest.mark.exhaustive),
        pytest.param("a first run", "power cut", marks=pytest.mark.exhaustive),
        pytest.param("a new champion", "power cut", marks=pytest.mark.exhaustive),
    ],
)
def test_again_and_again(lab: Any, scenario_of: Any, held: Held, name: str, fault: str) -> None:
    """One root, met at one place after the other; then the run that nothing disturbs."""
    scenario, places = scenario_of(*RUNS[name]), PLACES[name][:: 2 if fault == "full" else 1]
    lab.lay(scenario.before)
    lab.num_reported = 0
    met = {place: lab.befall(scenario, fault, place) for place in places}
    met["the end"] = lab.converge(scenario)
    assert not {place: broken for place, broken in met.items() if broken}
    held(f"{fault}, {name}", "intact", "nothing lost", times=len(places))
    held(f"{fault}, {name}", "converges", "once", "clean")
    held(f"{fault}, {name}", "reported", times=lab.num_reported)


def at_steps(lab: Any, held: Held, name: str, scenario: Any, fault: str, stride: int) -> None:
    """The root as it was before, met at one step; then what comes next; then at another step."""
    lab.lay(scenario.before)
    steps = lab.ok(scenario.job)["steps"]
    places = [at for at, step in enumerate(steps) if re.search(MATTERS[fault], step)][::stride]
    lab.num_reported = 0
    met = {f"{at}: {steps[at]}": lab.meet(scenario, fault, at) for at in places}
    assert not {step: broken for step, broken in met.items() if broken}
    held(f"{fault}, {name}", *PROMISES, times=len(places))
    held(f"{fault}, {name}", "reported", times=lab.num_reported)


@pytest.mark.parametrize(
    ("fault", "stride"),
    [("kill", 6), *(pytest.param(fault, 1, marks=pytest.mark.exhaustive) for fault in MATTERS)],
)
@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(
    lab: Any, scenario_of: Any, held: Held, name: str, fault: str, stride: int
) -> None:
    at_steps(lab, held, name, scenario_of(*BY_HAND[name]), fault, stride)


@pytest.mark.parametrize(
    ("fault", "stride"),
    [("kill", 16), *(pytest.param(fault, 1, marks=pytest.mark.exhaustive) for fault in MATTERS)],
)
def test_new_rows(lab: Any, scenario_of: Any, held: Held, fault: str, stride: int) -> None:
    """A shard that is admitted, one that is quarantined, and a file that cannot be read."""
    at_steps(lab, held, "new rows", scenario_of(*SHARDS), fault, stride)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", MATTERS)
@pytest.mark.parametrize("name", PARTS)
def test_at_every_step_of_a_run(
    lab: Any, scenario_of: Any, held: Held, name: str, fault: str
) -> None:
    at_steps(lab, held, name, scenario_of(*PARTS[name]), fault, 1)


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_training_that_is_stopped_saves_first(
    lab: Any, scenario_of: Any, held: Held, signal: str
) -> None:
    scenario = scenario_of("no-train", "first", "first", "first")
    lab.lay(scenario.before)
    report = lab.do(scenario.job, fault=signal, at="rename checkpoints/")
    assert report["code"] != 0 or report["error"] == "KeyboardInterrupt"
    assert list(lab.root.glob("checkpoints/train-*.safetensors"))
    assert lab.converge(scenario) == []
    held(f"{signal} in a training", "intact", "converges", "once", "clean")


@contextmanager
def web(folder: Path, num_bytes: int | None) -> Iterator[str]:
    """A server of the raw files in a folder; it hangs up after `num_bytes` of a file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2].removesuffix(".gz")
            content = gzip.compress((folder / name).read_bytes(), mtime=0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:num_bytes])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("num_bytes", [0, 5_000, None])
def test_in_the_middle_of_a_download(
    lab: Any, scenario_of: Any, held: Held, num_bytes: int | None
) -> None:
    """The server hangs up half-way; or, for None, the process dies when half a file is there."""
    raw = next((lab.templates / "first" / "stages").glob("fetch-*"))
    scenario = scenario_of("no-fetch", "first", "first", "first")
    lab.lay(scenario.before)
    with web(raw, num_bytes) as address:
        given = {**lab.jobs["first"]["given"], "web": address}
        if num_bytes is None:
            report = lab.do("first", given=given, fault="killed at byte", at=40_000)
            assert report["result"] is None
        else:
            report = lab.do("first", given=given)
            assert report["error"] == "FetchError"
            assert lab.temporaries() == []
            held("a download that breaks off", "reported")
    assert lab.halves() == []
    assert lab.converge(scenario) == []
    fault = "killed in a download" if num_bytes is None else "a download that breaks off"
    held(fault, *PROMISES)
