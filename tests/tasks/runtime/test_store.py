"""The store: outputs are complete and verified or absent; every fault is found and named."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_config.datasets import named_dataset
from tasks.runtime.errors import StorageError
from tasks.runtime.manifest import MANIFEST, damaged_files, list_files
from tasks.runtime.show import Outcome, recording
from tasks.runtime.stages import FETCH, NORMALIZE, VALIDATE
from tasks.runtime.store import Facts, StageRef, build, inspect, look

STAGE = replace(NORMALIZE, libraries=())
INPUTS = {"name": "a"}


def link(path: Path) -> None:
    """Replace a path by a link to the same content elsewhere."""
    path.rename(path.parent.parent / f"elsewhere-{path.name}")
    path.symlink_to(path.parent.parent / f"elsewhere-{path.name}")


def pipe(path: Path) -> None:
    """Replace a path by a named pipe without a writer."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def write(folder: Path) -> Facts:
    (folder / "deep").mkdir()
    (folder / "deep/rows.bin").write_bytes(bytes(range(256)))
    (folder / "words.txt").write_text("hello")
    return {"rows": 256}


def test_a_name_outside_the_folder_is_missing(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("hello")
    inside = tmp_path / "output"
    write_in = {name: inside / name for name in ("words.txt", "deep/rows.bin")}
    for path in write_in.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hello")
    entry = list_files(inside)["words.txt"]
    names = ("../secret.txt", str(tmp_path / "secret.txt"), "deep/../words.txt", "", ".", "x" * 300)
    damage = damaged_files(inside, dict.fromkeys((*write_in, *names), entry))
    assert damage == [f"{name}: missing" for name in names]


def outcome_of(make: Callable[[], StageRef]) -> tuple[StageRef, Outcome]:
    with recording() as outcomes:
        ref = make()
    (outcome,) = outcomes.values()
    return ref, outcome


def test_an_output_is_built_once_and_then_found() -> None:
    first, ran = outcome_of(lambda: build(STAGE, INPUTS, write))
    second, cached = outcome_of(lambda: build(STAGE, INPUTS, write))
    assert (ran.state, cached.state) == ("ran", "cached")
    assert first == second
    assert first.facts == {"rows": 256}
    assert first.path.joinpath("deep/rows.bin").read_bytes() == bytes(range(256))


def test_times_are_not_in_the_digest() -> None:
    first = build(STAGE, INPUTS, write)
    again = build(STAGE, INPUTS, write, refresh=True)
    assert first.digest == again.digest


@pytest.mark.parametrize("name", ["deep/rows.bin", "words.txt", MANIFEST])
def test_every_flipped_bit_is_found_and_the_stage_runs_again(name: str) -> None:
    ref = build(STAGE, INPUTS, write)
    path = ref.path / name
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 60)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        assert inspect(ref.path)[1], f"bit {position % 8} of byte {position} of {name}"
    again, outcome = outcome_of(lambda: build(STAGE, INPUTS, write))
    assert outcome.state == "ran"
    assert name in outcome.reason
    assert again == ref
    assert inspect(ref.path)[1] == []


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda folder: (folder / "words.txt").unlink(), "words.txt: missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "missing or unreadable"),
        (lambda folder: (folder / MANIFEST).write_text(""), "missing or unreadable"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt: not in the manifest"),
        (lambda folder: (folder / "words.txt").write_text("hell"), "4 bytes instead of 5"),
        (lambda folder: link(folder / "words.txt"), "words.txt: a link, a pipe or a device"),
        (lambda folder: link(folder / "deep"), "deep/rows.bin: missing; deep: not in the manifest"),
        (lambda folder: link(folder / MANIFEST), "missing or unreadable"),
        (lambda folder: pipe(folder / "words.txt"), "words.txt: a link, a pipe or a device"),
        (lambda folder: pipe(folder / "more"), "more: not in the manifest"),
        (lambda folder: pipe(folder / MANIFEST), "missing or unreadable"),
        (lambda folder: os.truncate(folder / MANIFEST, 1 << 40), "missing or unreadable"),
    ],
)
def test_damage_is_named(harm: Callable[[Path], object], fault: str) -> None:
    ref = build(STAGE, INPUTS, write)
    harm(ref.path)
    assert fault in "; ".join(inspect(ref.path)[1])
    again, outcome = outcome_of(lambda: build(STAGE, INPUTS, write))
    assert again.digest == ref.digest
    assert fault in outcome.reason


def test_a_folder_renamed_to_another_key_is_damaged() -> None:
    ref = build(STAGE, INPUTS, write)
    other = look(STAGE, {"name": "b"}).folder
    ref.path.rename(other)
    assert "of another key" in look(STAGE, {"name": "b"}).reason


def test_the_reason_for_a_miss_is_the_change() -> None:
    build(STAGE, INPUTS, write)
    found = look(STAGE, {"name": "b"})
    assert found.ref is None
    assert found.reason == "name: a → b"


def test_the_reason_for_a_first_run_is_the_first_run() -> None:
    assert look(STAGE, INPUTS).reason == "first run of this data set"


def test_a_miss_is_compared_with_outputs_of_the_same_data_set() -> None:
    digits, mnist = named_dataset("digits8x8"), named_dataset("mnist")
    raw = build(FETCH, {"dataset": digits}, lambda folder: {})
    assert look(FETCH, {"dataset": mnist}).reason == "first run of this data set"
    other = build(FETCH, {"dataset": mnist}, lambda folder: {"other": True})
    build(VALIDATE, {"raw": raw, "num_classes": 10}, lambda folder: {})
    assert look(VALIDATE, {"raw": other, "num_classes": 9}).changes == ()
    reason = look(VALIDATE, {"raw": raw, "num_classes": 9}).reason
    assert reason == "num_classes: 10 → 9"
    changed = digits.model_copy(update={"name": "digits8x8", "content": "0" * 64})
    assert look(FETCH, {"dataset": changed}).reason == f"dataset.content: None → {'0' * 8}"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(error: BaseException, root: Path) -> None:
    def fail(folder: Path) -> Facts:
        (folder / "half.txt").write_text("half")
        raise error

    with pytest.raises(type(error)):
        build(STAGE, INPUTS, fail)
    assert list((root / "stages").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (errno.ENOSPC, "no room to write"),
        (errno.EROFS, r"no permission to write \(Read-only file system\)"),
    ],
)
def test_a_refused_write_is_one_clear_error(code: int, found: str, root: Path) -> None:
    def fail(folder: Path) -> Facts:
        raise OSError(code, os.strerror(code), str(folder / "rows.bin"))

    with pytest.raises(StorageError, match=found):
        build(STAGE, INPUTS, fail)
    assert list((root / "stages").iterdir()) == []


CHILD = """
import os, signal, sys, time
from dataclasses import replace
from tasks.runtime.stages import NORMALIZE
from tasks.runtime.store import build

def write(folder):
    print("writing")
    (folder / "words.txt").write_text("hello")
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return {}

build(replace(NORMALIZE, libraries=()), {"name": "a"}, write)
"""


def child(*words: str) -> subprocess.Popen[str]:
    """Start a process that builds the output."""
    command = [sys.executable, "-c", CHILD, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_9_leaves_neither_a_lock_nor_a_partial_output(root: Path) -> None:
    dying = child("die")
    dying.communicate()
    assert dying.returncode == -signal.SIGKILL
    assert len(list((root / "stages").iterdir())) == 1
    assert look(STAGE, INPUTS).ref is None
    build(STAGE, INPUTS, write)
    assert [path.name for path in (root / "stages").iterdir()] == [look(STAGE, INPUTS).folder.name]


def test_writers_of_one_key_write_once() -> None:
    children = [child() for _ in range(4)]
    printed = [process.communicate()[0] for process in children]
    assert [process.returncode for process in children] == [0] * 4
    assert sorted(printed) == ["", "", "", "writing\n"]
