"""One bit flipped in every kind of file below the root, and a journal torn at every byte."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.release.journal import (
    journal_faults,
    journal_path,
    pointer_fault,
    pointer_path,
    read_journal,
)

DATASET = "digits8x8"
Held = Callable[..., None]


def flip(path: Path, place: int, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def flip_somewhere(path: Path) -> None:
    """Flip a bit that is a function of the file's name alone."""
    chance = random.Random(path.name)
    if path.stat().st_size:
        flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))


def files_of(root: Path) -> list[Path]:
    """Every file that a run makes and that is not empty, but journal, pointer and ledger."""
    places = [*root.glob("stages/*/**/*"), *root.glob("models/*/**/*")]
    return sorted(
        path
        for path in places
        if path.is_file() and path.stat().st_size and path.suffix != ".jsonl"
        if path.name != "champion.json"
    )


def test_in_every_file_at_once(lab: Any, held: Held) -> None:
    """A reader notices each of them, and the runs that made them mend them all."""
    wanted = lab.ends("second")
    lab.lay("second")
    files = files_of(lab.root)
    for path in files:
        flip_somewhere(path)
    outputs = [path for path in files if path.parent.name != DATASET]
    noticed = "\n".join(lab.halves())
    assert all(output_of(path, lab.root).name in noticed for path in outputs)
    for job in ("first", "second"):
        lab.ok(job)
    assert lab.halves() == []
    assert lab.digests() == wanted
    held("a bit of every file at once", "detected", "converges", "once", times=len(files))


def output_of(path: Path, root: Path) -> Path:
    """The folder of the stage output or bundle that a file belongs to."""
    depth = 2 if path.is_relative_to(root / "stages") else 3
    return root.joinpath(*path.relative_to(root).parts[:depth])


@pytest.mark.exhaustive
def test_in_one_file_after_the_other(lab: Any, held: Held) -> None:
    lab.lay("first")
    names = [path.relative_to(lab.root) for path in files_of(lab.root)]
    broken = {}
    for name in names:
        lab.lay("first")
        flip_somewhere(lab.root / name)
        noticed = lab.halves() != [] or name.suffix == ".html"
        report = lab.do("first")
        if not noticed or report["error"] or lab.digests() != lab.ends("first"):
            broken[str(name)] = (noticed, report)
    assert not broken
    held("a bit of one file", "detected", "converges", "once", times=len(names))


@pytest.mark.parametrize(
    ("stride", "runs"), [(12, 97), pytest.param(1, 4, marks=pytest.mark.exhaustive)]
)
def test_in_the_pointer(lab: Any, held: Held, stride: int, runs: int) -> None:
    """Noticed in every byte; mended by the next run."""
    lab.lay("second")
    path, entries = pointer_path(DATASET), read_journal(DATASET)
    content = path.read_bytes()
    places = range(0, len(content), stride)
    for place in places:
        flip(path, place, place % 8)
        assert pointer_fault(DATASET, entries), place
        path.write_bytes(content)
    held("a bit of the pointer", "detected", times=len(places))
    places = range(0, len(content), runs)
    for place in places:
        flip(path, place, place % 8)
        lab.ok("second")
        assert path.read_bytes() == content, place
        assert lab.digests() == lab.ends("second"), place
    held("a bit of the pointer", "converges", "once", times=len(places))


def test_in_the_pointers_number(lab: Any, held: Held) -> None:
    """A pointer that is ahead of the journal by a flipped bit does not make lines be missed."""
    lab.lay("second")
    path = pointer_path(DATASET)
    flip(path, path.read_bytes().index(b'"seq": ') + len(b'"seq": '), 0)
    lab.ok("second")
    assert lab.digests() == lab.ends("second")
    held("a bit of the pointer", "converges", "once")


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_in_the_journal(lab: Any, held: Held, stride: int) -> None:
    """Noticed in every byte, as a damaged line, a broken chain or another last line."""
    lab.lay("second")
    path = journal_path(DATASET)
    content = path.read_bytes()
    places = range(0, len(content), stride)
    for place in places:
        flip(path, place, place % 8)
        entries = read_journal(DATASET)
        assert journal_faults(DATASET) or pointer_fault(DATASET, entries), place
        path.write_bytes(content)
    held("a bit of the journal", "detected", times=len(places))


@pytest.mark.parametrize("part", [b"{", b'"seq": ', b'"words": "', b'"version": "'])
@pytest.mark.parametrize("line", [0, 1])
def test_a_damaged_line_costs_no_champion(lab: Any, held: Held, line: int, part: bytes) -> None:
    """What it said is lost and stays so; who is champion is not."""
    champion = lab.ends("second")["champion"]
    lab.lay("second")
    path = journal_path(DATASET)
    lines = path.read_bytes().splitlines(keepends=True)
    flip(path, sum(map(len, lines[:line])) + lines[line].index(part) + len(part), 0)
    for _ in range(2):
        lab.ok("second")
        assert lab.halves() == []
        assert lab.digests()["champion"] == champion
        assert journal_faults(DATASET)
    held(f"a bit of the journal's {('first', 'last')[line]} line", "reported", "nothing lost")


def torn(content: bytes) -> range:
    """Every length at which the last line is torn."""
    return range(content[:-1].rfind(b"\n") + 1, len(content))


@pytest.mark.parametrize(
    ("stride", "runs"), [(10, 1000), pytest.param(1, 50, marks=pytest.mark.exhaustive)]
)
def test_a_journal_torn_at_every_byte(lab: Any, held: Held, stride: int, runs: int) -> None:
    """A crash before the pointer moved: the line was never said, and the next run says it again."""
    lab.lay("first")
    old = pointer_path(DATASET).read_bytes()
    lab.lay("second")
    path, wanted = journal_path(DATASET), lab.ends("second")
    content = path.read_bytes()
    lengths = torn(content)[::stride]
    for length in lengths:
        path.write_bytes(content[:length])
        assert [entry.seq for entry in read_journal(DATASET)] == [1]
    held("a torn journal line", "intact", "nothing lost", times=len(lengths))
    lengths = torn(content)[::runs]
    for length in lengths:
        lab.lay("second")
        path.write_bytes(content[:length])
        pointer_path(DATASET).write_bytes(old)
        lab.ok("second")
        assert lab.digests() == wanted, length
        assert journal_faults(DATASET) == []
    held("a torn journal line", "converges", "once", times=len(lengths))


def test_in_a_checkpoint(lab: Any, held: Held) -> None:
    """A damaged checkpoint is not believed: the training begins anew and ends in the same bits."""
    scenario = ("no-train", "first")
    lab.lay(scenario[0])
    steps = lab.ok("first")["steps"]
    saves = [place for place, step in enumerate(steps) if step.startswith("rename checkpoints")]
    lab.lay(scenario[0])
    lab.do("first", fault="kill", at=saves[-1])
    (checkpoint,) = lab.root.glob("checkpoints/train-*.safetensors")
    content = checkpoint.read_bytes()
    number = 4
    for part in range(number):
        lab.lay(scenario[0])
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_bytes(content)
        flip(checkpoint, part * len(content) // number, part)
        lab.ok("first")
        assert lab.digests() == lab.ends("first")
    held("a bit of a checkpoint", "detected", "converges", "once", times=number)
