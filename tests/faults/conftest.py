"""A laboratory for faults: roots as they were before, children that meet a fault, promises checked.

What every test learns goes into the matrix (fault × promise, with counts) at the end of the run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline_config.datasets import FILES
from tasks.dataset.shards import read_events
from tasks.raw.idx import read_splits, write_idx
from tasks.release.bundle import bundle_folder, inspect_bundle, published_versions
from tasks.release.journal import journal_faults, read_journal, read_pointer
from tasks.release.pages import stale_pages
from tasks.runtime.files import sha256_file
from tasks.runtime.manifest import TORN
from tasks.runtime.stages import STAGES
from tasks.runtime.store import inspect

DATASET = "digits8x8"
SMALL = (
    "training.engine=numpy",
    # The NumPy engine has neither AdamW nor weight decay.
    "training.optimizer.name=adam",
    "training.optimizer.weight_decay=0",
    "training.batch_size=512",
    "model.hidden=[8]",
    f"floors.{DATASET}=0",
)
# Two models, the second so much better that it becomes champion.
FIRST = (*SMALL, "training.epochs=2", "training.ema=0.9")
SECOND = (*SMALL, "training.epochs=40", "training.optimizer.learning_rate=0.03")
# A checkpoint after every batch.
CHECKPOINTS = {"IDXFLOW_CHECKPOINT_S": "0"}

# How a child ends that is killed: by us, or by the kernel for a file that grew beyond its limit.
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
Report = dict[str, Any]


class Scenario(NamedTuple):
    """What is done to which template, what it is to end in, and what is done after the fault."""

    before: str
    job: str
    after: str
    next: str


class Lab:
    """A root to break, templates to lay there, and the driver whose children break it."""

    def __init__(self, driver: subprocess.Popen[str], templates: Path, root: Path) -> None:
        self.driver, self.templates, self.root = driver, templates, root
        self.known: dict[str, dict[str, str]] = {}
        self.num_reported = 0
        self.jobs: dict[str, dict[str, Any]] = {
            "first": {"do": "run", "given": {"overrides": FIRST}, "env": CHECKPOINTS},
            "second": {"do": "run", "given": {"overrides": SECOND}},
            "rollback": {"do": "rollback"},
            "gc": {"do": "gc", "given": {"keep": 0}},
            "sweep": {"do": "gc", "given": {"keep": 9}},
        }

    def at_once(self, *jobs: tuple[str, dict[str, Any]]) -> list[Report]:
        """Run jobs at once, each in a child of its own, and return what they report."""
        assert self.driver.stdin and self.driver.stdout
        full = [{**self.jobs[name], "root": str(self.root), **more} for name, more in jobs]
        print(json.dumps(full), file=self.driver.stdin, flush=True)
        said: list[Report] = json.loads(self.driver.stdout.readline())
        return said

    def do(self, job: str, **more: Any) -> Report:
        """Run one job (with `fault` and `at` where it is to meet one)."""
        return self.at_once((job, more))[0]

    def ok(self, job: str, **more: Any) -> Report:
        """Run one job, which must succeed."""
        said = self.do(job, **more)
        assert (said["code"], said["error"]) == (0, None), said
        return said

    def lay(self, template: str) -> None:
        """Make the root what a template is."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.templates / template, self.root)

    def keep(self, template: str) -> None:
        """Make a template of the root."""
        shutil.copytree(self.root, self.templates / template)
        self.known[template] = self.digests()

    def keep_old(self) -> None:
        """Two more templates: a root with things that nobody needs, and what gc makes of it."""
        for folder in visible(self.root / "stages"):
            os.utime(folder, (0, 0))
        (self.root / "stages" / ".train-0123456789abcdef.leftover").mkdir()
        self.keep("old")
        self.ok("gc")
        self.keep("cleared")

    def halves(self) -> list[str]:
        """What a reader would see that is not whole; [] as it should be."""
        found = [
            f"{folder.name}: {manifest and damage}"
            for folder in visible(self.root / "stages")
            for manifest, damage in [inspect(folder)]
            if manifest is None or damage
        ]
        for folder in bundles(self.root):
            _, damage = inspect_bundle(folder)
            found += [f"{folder.name}: {line}" for line in damage]
        for folder in visible(self.root / "models"):
            pointer = read_pointer(folder.name)
            if (folder / "champion.json").exists() and (
                pointer is None
                or inspect_bundle(bundle_folder(folder.name, pointer.champion.version))[1]
            ):
                found.append(f"the pointer names {pointer}")
        return found

    def temporaries(self) -> list[str]:
        """What was built aside and is still there."""
        return [
            str(path.relative_to(self.root))
            for path in self.root.rglob(".*")
            if not path.is_relative_to(self.root / "prefect")
        ]

    def ends(self, template: str) -> dict[str, str]:
        """The digests of a template."""
        return self.known[template]

    def digests(self) -> dict[str, str]:
        """What has to be the same after any fault: outputs, bundles, champion and decisions."""
        found = {}
        for folder in visible(self.root / "stages"):
            manifest, _ = inspect(folder)
            found[folder.name] = manifest.digest if manifest else "damaged"
        for folder in bundles(self.root):
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    found[str(path.relative_to(self.root))] = sha256_file(path)
        pointer = read_pointer(DATASET)
        found["champion"] = pointer.champion.model_dump_json() if pointer else "none"
        found["decisions"] = str(self.decisions())
        found["shards"] = str([(event.event, event.shard) for event in read_events(DATASET)])
        for name in ("shards", "quarantine", "incoming"):
            files = [path for path in (self.root / name / DATASET).rglob("*") if path.is_file()]
            found |= {
                f"{name}/{path.relative_to(self.root)}": sha256_file(path)
                for path in files
                if path.name != "journal.jsonl"
            }
        for folder in (self.root / "checkpoints", self.root / "models" / DATASET):
            found[folder.name] = str([path.name for path in visible(folder)])
        return found

    def meet(self, scenario: Scenario, fault: str, at: int | str) -> list[str]:
        """Let a scenario meet a fault, then do what comes next; the promises that were broken."""
        self.lay(scenario.before)
        return self.befall(scenario, fault, at) + self.converge(scenario)

    def befall(self, scenario: Scenario, fault: str, at: int | str) -> list[str]:
        """Let a scenario meet a fault in the root as it is; the promises that were broken."""
        before, after = self.ends(scenario.before), self.ends(scenario.after)
        there = self.temporaries()
        said = self.do(scenario.job, fault=fault, at=at)
        broken = [f"half: {half}" for half in self.halves()]
        broken += [f"half: {line}" for line in journal_faults(DATASET) if line != TORN]
        if fault.startswith("full"):
            # What is done then may not need any room.
            if said["error"] and "no room to write" not in said["words"].partition("Traceback")[0]:
                broken.append(f"not reported: {said['error']} {said['words']}")
            self.num_reported += said["error"] == "StorageError"
            broken += [f"half-written: {path}" for path in self.temporaries() if path not in there]
        elif said["code"] not in KILLED:
            broken.append(f"not killed: {said}")
        found = self.digests()
        broken += [f"lost: {name}" for name in lost(before, after, found)]
        if found["champion"] not in (before["champion"], after["champion"]):
            broken.append(f"neither the old champion nor the new: {found['champion']}")
        return broken

    def converge(self, scenario: Scenario) -> list[str]:
        """Do what comes next; what differs from a root that nothing happened to.

        A temporary file that the next run does not come across is left to gc.
        """
        before, after = self.ends(scenario.before), self.ends(scenario.after)
        said = self.do(scenario.next)
        if scenario.next != scenario.job and self.digests() == before:
            said = self.do(scenario.job)
        broken = [f"the next run failed: {said['words']}"] if said["code"] or said["error"] else []
        if self.temporaries():
            self.ok("sweep")
        found = self.digests()
        broken += [
            f"another {name}: {found.get(name)} instead of {after.get(name)}"
            for name in sorted(found.keys() | after.keys())
            if found.get(name) != after.get(name)
        ]
        broken += journal_faults(DATASET)
        entries, versions = read_journal(DATASET), published_versions(DATASET)
        broken += [f"stale: {path.name}" for path, *_ in stale_pages(DATASET, entries, versions)]
        return broken + [f"left: {path}" for path in self.temporaries()]

    def decisions(self) -> list[tuple[int, str, str]]:
        """What the journal holds, without the time."""
        return [(entry.seq, entry.event, entry.version) for entry in read_journal(DATASET)]


def lost(before: dict[str, str], after: dict[str, str], found: dict[str, str]) -> list[str]:
    """What was published before, belongs there in the end too, and is gone."""
    return [
        name
        for name, digest in before.items()
        if name.startswith("models/") and after.get(name) == digest != found.get(name)
    ]


def visible(folder: Path) -> list[Path]:
    """What lies in a folder and is not being built."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if not path.name.startswith("."))


def bundles(root: Path) -> list[Path]:
    """The folders of the published bundles."""
    return [
        folder
        for dataset in visible(root / "models")
        for folder in visible(dataset)
        if folder.is_dir()
    ]


def drop_shards(root: Path) -> None:
    """Put two shards and a file of nonsense into `incoming`: one of the shards is admitted."""
    images, labels = read_splits(next(root.glob("stages/fetch-*")), 10)["train"]
    chance, folder = np.random.default_rng(0), root / "incoming" / DATASET
    for name, start in (("monday", 0), ("tuesday", 300)):
        rows = slice(start, start + 300)
        (folder / name).mkdir(parents=True)
        noise = chance.integers(0, 2, (300, 8, 8), dtype=np.uint8)
        write_idx(folder / name / FILES[0], images[rows] + noise)
        is_shuffled = name == "tuesday"
        given = chance.permutation(labels[rows]) if is_shuffled else labels[rows]
        write_idx(folder / name / FILES[1], given)
    (folder / "wednesday.zip").write_bytes(b"no zip")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process that has everything imported; its log lies in its folder."""
    folder = tmp_path_factory.mktemp("driver")
    variables = {"IDXFLOW_ROOT": str(folder), "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="session")
def lab(driver: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The laboratory. Its templates are roots that nothing happened to, and holes in one of them.

    In `first` one model is published, in `second` a better one too, which is champion until it is
    `rolled-back` or the first is `promoted`. `no-train` is `first` without the output of train, and
    so on; `no-publish` is without bundle, journal and pointer. In `unpublished` the second model is
    trained, but nobody knows of it yet. In `arrived` new rows wait, in `sharded` they were judged,
    and in `retracted` the admitted ones trained for the last time.
    """
    folder = tmp_path_factory.mktemp("laboratory")
    made = Lab(driver, folder, folder / "root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDXFLOW_ROOT", str(made.root))
        made.root.mkdir()
        made.keep("empty")
        version = made.ok("first")["result"]["version"]
        made.jobs["promote"] = {"do": "promote", "given": {"version": version}}
        made.keep("first")
        holes = {stage.name: f"stages/{stage.name}-*" for stage in STAGES} | {"publish": "models"}
        for name, pattern in holes.items():
            for path in made.root.glob(pattern):
                shutil.rmtree(path)
            made.keep(f"no-{name}")
            made.lay("first")
        better = made.ok("second")["result"]["version"]
        made.jobs["rollback"]["given"] = {"version": better}
        assert [event for _, event, _ in made.decisions()] == ["promoted", "promoted"]
        made.keep("second")
        for job, template in (("promote", "promoted"), ("rollback", "rolled-back")):
            made.lay("second")
            made.ok(job)
            made.keep(template)
        made.lay("second")
        shutil.rmtree(made.root / "models")
        shutil.copytree(folder / "first" / "models", made.root / "models")
        made.keep("unpublished")
        made.lay("first")
        drop_shards(made.root)
        made.keep("arrived")
        made.ok("second")
        events = {event.event: event.shard for event in read_events(DATASET)}
        assert sorted(events) == ["admitted", "quarantined"]
        made.keep("sharded")
        made.jobs["retract"] = {"do": "retract", "given": {"digest": events["admitted"]}}
        made.ok("retract")
        made.keep("retracted")
        made.lay("rolled-back")
        made.keep_old()
    return made


@pytest.fixture(autouse=True)
def root(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The laboratory's root, which each test lays anew."""
    monkeypatch.setenv("IDXFLOW_ROOT", str(lab.root))
    return lab.root


@pytest.fixture
def scenario_of() -> type[Scenario]:
    """What makes a scenario."""
    return Scenario


@pytest.fixture
def held(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tell the matrix that after `fault` each of the promises held, `times` times."""

    def tell(fault: str, *promises: str, times: int = 1) -> None:
        record_property("held", [fault, dict.fromkeys(promises, times)])

    return tell
