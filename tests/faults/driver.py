"""A process that imports everything once and forks a child for each job, with a fault in it.

Each line on standard input is a list of jobs, which run at once; each line on standard output is
the list of what became of them. A job is what to do (`do`, one of ACTIONS, with the arguments
`given`), below which `root`, and which `fault` it meets `at` which of its steps. Steps are the
operations that change files below the root, reported by Python's audit hook, and `os.fsync`,
which has no audit event. So every boundary is met without a line in the code that is tested.

Nothing is computed before a fork, so that no child inherits a thread that is not there.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import resource
import signal
import sys
import traceback
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from flows.server import prepare_environment
from pipeline_config.sections import IdxflowError

prepare_environment()

import flows.retrain as pipeline  # noqa: E402
import tasks.dataset.validate  # noqa: E402
import tasks.model.training  # noqa: E402
import tasks.raw.sources  # noqa: E402
from flows.plan import Choice, make_plan, take_in_waiting  # noqa: E402
from flows.summary import Summary  # noqa: E402
from tasks.dataset import shards  # noqa: E402
from tasks.evaluation import confidence_figures, figures  # noqa: E402
from tasks.release import garbage, registry  # noqa: E402
from tasks.release.registry import candidate_of  # noqa: E402
from tasks.runtime import stages  # noqa: E402

DATASET = "digits8x8"

# Which arguments of an audit event are paths, each with the folder that it is relative to.
PATHS = {
    "open": ((0, None),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "shutil.rmtree": ((0, 1),),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What a full disk refuses; taking away always works.
GROWING = ("open", "os.mkdir", "fsync")
# The letters that make a temporary name one of its own.
RANDOM = re.compile(r"(?<=\.|-)[a-z0-9_]{8}(?=/|$)|(?<=/)tmp[a-z0-9_]{8}")


class Watch:
    """Tell the steps below a root; at one (by its number, or the first like this), the fault."""

    def __init__(self, root: str, fault: str | None, at: int | str) -> None:
        self.root, self.fault, self.at = Path(root), fault, at
        self.steps: list[str] = []
        self.is_armed, self.is_full = True, False
        files = [path.stat() for path in self.root.rglob("*") if path.is_file()]
        self.synced = {status.st_ino: status.st_size for status in files}
        os.fsync = self.fsync_reported
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """The audit hook: called before the operation, which an exception prevents."""
        if event not in PATHS or not self.is_armed:
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        paths = [_absolute(args, *place) for place in PATHS[event]]
        if not any(path and path.is_relative_to(self.root) for path in paths):
            return
        if event == "os.mkdir" and paths[0] and paths[0].exists():
            return
        self.meet(event, [str(path.relative_to(self.root)) for path in paths if path])
        if event in ("os.remove", "os.rename") and paths[-1] and paths[-1].is_file():
            # Its number may be given to the next new file.
            self.synced.pop(paths[-1].stat().st_ino, None)

    def fsync_reported(self, descriptor: int) -> None:
        """`os.fsync` as a step, and no more: nobody pulls the plug, and disks take their time."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self.root):
            self.meet("fsync", [str(path.relative_to(self.root))])
        if path.is_file():
            self.synced[path.stat().st_ino] = path.stat().st_size

    def meet(self, event: str, paths: list[str]) -> None:
        """One step; the fault, where it is the step for it."""
        words = " → ".join(RANDOM.sub("*", path) for path in paths)
        step, number = f"{event.removeprefix('os.')} {words}", len(self.steps)
        self.steps.append(step)
        is_here = re.search(self.at, step) if isinstance(self.at, str) else number == self.at
        if is_here and self.fault == "full":
            self.is_full = True
        if self.is_full and (event in GROWING or (is_here and event == "os.rename")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[-1])
        if is_here and self.fault == "power cut":
            self.lose_what_is_not_synced()
        if is_here and self.fault in ("kill", "power cut"):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_here and self.fault in ("SIGINT", "SIGTERM"):
            os.kill(os.getpid(), signal.Signals[self.fault])
            self.fault = None

    def lose_what_is_not_synced(self) -> None:
        """Cut every file to what was brought to disk of it."""
        self.is_armed = False
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_relative_to(self.root / "locks"):
                status = path.stat()
                os.truncate(path, min(status.st_size, self.synced.get(status.st_ino, 0)))


def _absolute(args: tuple[Any, ...], place: int, folder: int | None) -> Path | None:
    path = args[place]
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    base = args[folder] if folder is not None and len(args) > folder else None
    above = Path(f"/proc/self/fd/{base}").readlink() if isinstance(base, int) and base >= 0 else ""
    return Path(above, os.fsdecode(path)).absolute()


def limit_files(at: int, *, dies: bool) -> None:
    """No file may grow beyond `at` bytes: the write that would fails, or is the last thing done."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if dies else signal.SIG_IGN)


def set_clock_back() -> None:
    """A year, for every module that tells the time."""

    class Past(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) - timedelta(days=365)

    for name, module in list(sys.modules.items()):
        if name.startswith("tasks.") and getattr(module, "datetime", None) is datetime:
            module.datetime = Past  # type: ignore[attr-defined]


def run(web: str | None = None, **choice: Any) -> dict[str, Any]:
    """The pipeline, its tasks as plain functions; `web` is where the raw files come from."""
    take_in_waiting(Choice(dataset=DATASET))
    plan = make_plan(Choice(**{"dataset": DATASET, **choice}))
    if web is not None:
        dataset = plan.dataset.model_copy(update={"sources": (web,)})
        plan = plan.model_copy(update={"dataset": dataset})
    pipeline.make_plan = lambda _: plan
    summary = pipeline.retrain.fn()
    if not isinstance(summary, Summary):
        if summary.is_failed():
            raise summary.data
        summary = summary.data
    ran = [stage["name"] for stage in summary.stages if stage["state"] == "ran"]
    return {"version": summary.version, "ran": ran}


def promote(version: str) -> None:
    """Make a version champion by hand."""
    registry.promote(DATASET, candidate_of(DATASET, version, competes=True), "because")


def rollback(version: str | None = None) -> None:
    """Go back to the champion before, if this version is the champion."""
    registry.rollback(DATASET, "because", version)


def clear(keep: int) -> None:
    """Clear away what nobody needs."""
    garbage.collect(keep)


def retract(digest: str) -> None:
    """Train without a shard from the next run on."""
    shards.decide(shards.find_shard(DATASET, digest), shards.RETRACTED, "because")


ACTIONS = {"retract": retract, "run": run, "promote": promote, "rollback": rollback, "gc": clear}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """In the child: do it, and tell what came of it."""
    root, fault, at = job["root"], job.get("fault"), job.get("at", -1)
    os.environ |= {"IDXFLOW_ROOT": root, "IDXFLOW_THREADS": "1", **job.get("env", {})}
    if fault in ("full at byte", "killed at byte"):
        limit_files(at, dies=fault == "killed at byte")
    elif fault == "clock":
        set_clock_back()
    watch = Watch(root, fault, at)
    report: dict[str, Any] = {"result": None, "error": None, "words": "", "steps": watch.steps}
    try:
        report["result"] = ACTIONS[job["do"]](**job.get("given", {}))
    except IdxflowError as error:
        report |= {"error": type(error).__name__, "words": str(error)}
    except BaseException as error:
        report |= {"error": type(error).__name__, "words": traceback.format_exc()}
    return report


def start(job: dict[str, Any]) -> tuple[int, int]:
    """Fork a child for the job: its number and where it tells."""
    reading, writing = os.pipe()
    number = os.fork()
    if number:
        os.close(writing)
        return number, reading
    try:
        os.close(reading)
        os.dup2(2, 1)
        report = json.dumps(work(job)).encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(report)
    except BaseException:
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def finish(number: int, reading: int) -> dict[str, Any]:
    """What a child reported, and its exit code as in `subprocess`; `result` is None if killed."""
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    report = json.loads(content) if content else {"result": None, "error": None, "words": ""}
    return {**report, "code": os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])}


def draw_nothing(path: Path, *_: object, **__: object) -> None:
    """What a figure is as a file: matplotlib would take most of the time."""
    path.write_bytes(b"a figure")


def hurry() -> None:
    """Leave out what takes long and has nothing to do with files: judging, drawing."""
    tasks.dataset.validate.check_expectations = lambda *_: []
    for module in (confidence_figures, figures):
        for name in vars(module).copy():
            if name.startswith("draw_"):
                setattr(module, name, draw_nothing)
    stages.version = cache(stages.version)
    for stage in stages.STAGES:
        stages.code_digests(stage.module)


def main() -> None:
    """Fork for every line until there are no more; then end, without tidying up for seconds."""
    pipeline.TASKS = {name: task.fn for name, task in pipeline.TASKS.items()}
    hurry()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        started = [start(job) for job in json.loads(line)]
        print(json.dumps([finish(*child) for child in started]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
