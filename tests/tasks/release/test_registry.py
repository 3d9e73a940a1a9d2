"""The journal decides, the pointer follows: decisions, reruns, torn lines, crashes, two at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline_config.settings import CHECKOUT
from tasks.release import journal, registry
from tasks.release.bundle import bundle_folder
from tasks.release.journal import append_line, champion_of, journal_path, read_journal
from tasks.release.registry import Candidate, is_current, pointer_path, settle
from tasks.runtime.errors import StorageError


def champion() -> str | None:
    """The version that readers of the pointer see."""
    path = pointer_path("mnist")
    return json.loads(path.read_bytes())["version"] if path.exists() else None


def current(candidate: Candidate) -> list[str]:
    return is_current("mnist", candidate.version, candidate.competes)


def events() -> list[tuple[str, str]]:
    return [(entry.event, entry.version) for entry in read_journal("mnist")]


def test_the_first_that_competes_is_champion(make_bundle):
    tutorial, first = make_bundle(0.99, competes=False, recipe="tutorial"), make_bundle(0.9)
    assert settle("mnist", tutorial).reason == "recipe tutorial does not compete"
    assert champion() is None
    assert settle("mnist", first).reason == (
        "accuracy 0.9000 on the test split; there was no champion"
    )
    assert champion() == first.version
    assert json.loads(pointer_path("mnist").read_bytes()) == {
        "version": first.version,
        "recipe": "fast",
        "accuracy": 0.9,
        "since": 2,
    }


@pytest.mark.parametrize(
    ("accuracy", "event", "words"),
    [
        (0.9812, "kept", "accuracy 0.9812 on the test split < 0.9866 of champion"),
        (0.9866, "promoted", "accuracy 0.9866 on the test split = 0.9866 of champion"),
        (0.9900, "promoted", "accuracy 0.9900 on the test split > 0.9866 of champion"),
    ],
)
def test_the_champion_moves_when_the_candidate_is_no_worse(make_bundle, accuracy, event, words):
    first, second = make_bundle(0.9866), make_bundle(accuracy, recipe="other")
    settle("mnist", first)
    decision = settle("mnist", second)
    assert decision.event == event
    assert decision.reason == f"{words} {first.version} (fast)"
    assert champion() == (second if event == "promoted" else first).version
    entries = read_journal("mnist")
    assert [entry.seq for entry in entries] == [1, 2]
    assert entries[1].reason == decision.reason
    assert entries[1].time.endswith("+00:00")
    assert current(second) == []


def test_reruns_add_nothing_and_never_trade_places(make_bundle):
    candidates = [
        make_bundle(0.9),
        make_bundle(0.95, recipe="better"),
        make_bundle(0.95, recipe="equal"),
        make_bundle(0.99, competes=False, recipe="tutorial"),
    ]
    for candidate in candidates:
        settle("mnist", candidate)
    before = (journal_path("mnist").read_bytes(), champion())
    for candidate in [*candidates, *reversed(candidates)]:
        assert current(candidate) == []
        assert not settle("mnist", candidate).is_new
    assert (journal_path("mnist").read_bytes(), champion()) == before
    assert champion() == candidates[2].version
    assert "was preferred before" in settle("mnist", candidates[1]).reason


@pytest.mark.parametrize("damage", ["missing", "garbage", "lagging", "old words"])
def test_the_pointer_is_mended_from_the_journal(make_bundle, damage):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    lagging = pointer_path("mnist").read_bytes()
    settle("mnist", second)
    right = pointer_path("mnist").read_bytes()
    contents = {"garbage": b"{", "lagging": lagging, "old words": b'{"version": "x"}'}
    pointer_path("mnist").unlink()
    if damage in contents:
        pointer_path("mnist").write_bytes(contents[damage])
    assert len(current(first)) == len(current(second)) == 1
    settle("mnist", first)
    assert pointer_path("mnist").read_bytes() == right
    assert len(events()) == 2


def test_a_champion_without_its_bundle_gives_way(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    tutorial = make_bundle(0.5, competes=False, recipe="tutorial")
    settle("mnist", first)
    settle("mnist", second)
    shutil.rmtree(bundle_folder("mnist", first.version))
    decision = settle("mnist", tutorial)
    assert "it is missing" in decision.reason
    assert "publish that version again" in decision.reason
    assert champion() == first.version
    assert "it is missing" in current(second)[0]
    decision = settle("mnist", second)
    assert decision.event == "promoted"
    assert "the bundle of champion" in decision.reason
    assert champion() == second.version
    make_bundle(0.95)
    assert "0.9500 on the test split > 0.9000" in current(first)[0]
    settle("mnist", first)
    assert champion() == first.version


def test_a_champion_that_came_back_stays(make_bundle):
    first = make_bundle(0.95)
    settle("mnist", first)
    shutil.rmtree(bundle_folder("mnist", first.version))
    assert current(first) == [f"bundle {first.version}: it is missing"]
    make_bundle(0.95)
    assert not settle("mnist", first).is_new
    assert current(first) == []


def test_a_lost_journal_begins_with_the_champion(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    journal_path("mnist").unlink()
    settle("mnist", second)
    assert events() == [("adopted", first.version), ("kept", second.version)]
    assert champion() == first.version


def test_a_journal_torn_at_every_byte(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    whole = len(journal_path("mnist").read_bytes())
    settle("mnist", second)
    content, pointer = journal_path("mnist").read_bytes(), pointer_path("mnist").read_bytes()
    for cut in range(whole, len(content)):
        journal_path("mnist").write_bytes(content[:cut])
        entries = read_journal("mnist")
        assert [entry.version for entry in entries] == [first.version]
        assert champion_of(entries).version == first.version
        if cut % 16 == 0 or cut == len(content) - 1:
            settle("mnist", second)
            assert events() == [("promoted", first.version), ("promoted", second.version)]
            assert pointer_path("mnist").read_bytes() == pointer
            assert journal_path("mnist").read_bytes().count(b"\n") == 2


def test_a_damaged_line_does_not_count(make_bundle, caplog):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    settle("mnist", second)
    lines = journal_path("mnist").read_bytes().splitlines(keepends=True)
    journal_path("mnist").write_bytes(
        b"".join([b"\0" * 9 + b"\n", lines[0][:-2] + b"\n", lines[1]])
    )
    assert events() == [("promoted", second.version)]
    assert "line 1 is damaged" in caplog.text
    settle("mnist", make_bundle(0.99))
    assert [entry.seq for entry in read_journal("mnist")] == [2, 3]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("kill", ["append_line", "_repair_pointer", "write_atomically", "fsync"])
def test_a_crash_between_journal_and_pointer_is_made_good(make_bundle, monkeypatch, kill):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(journal.os if kill == "fsync" else registry, kill, killed)
        with pytest.raises(Killed):
            settle("mnist", second)
    assert champion() == first.version
    assert len(current(second)) == 1
    settle("mnist", second)
    assert events() == [("promoted", first.version), ("promoted", second.version)]
    assert champion() == second.version
    assert current(second) == []


def test_a_full_disk_leaves_the_journal_whole(make_bundle, monkeypatch):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    before = journal_path("mnist").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        with pytest.raises(StorageError, match="full"):
            settle("mnist", second)
    assert journal_path("mnist").read_bytes() == before
    append_line(journal_path("mnist"), b"x\n")
    assert journal_path("mnist").read_bytes() == before + b"x\n"


SETTLE = """
import sys
from tasks.release.registry import Candidate, settle
for text in sys.argv[1:]:
    settle("mnist", Candidate.model_validate_json(text))
assert not {"torch", "prefect"} & {*sys.modules}
"""


def test_publishers_at_once_write_one_journal(make_bundle, root):
    candidates = [make_bundle(0.9 + number / 100) for number in range(6)]
    texts = [candidate.model_dump_json() for candidate in candidates]
    orders = [texts, texts[::-1], texts[3:] + texts[:3]]
    command = [sys.executable, "-c", SETTLE]
    environment = {**os.environ, "IDXFLOW_ROOT": str(root), "PYTHONPATH": str(CHECKOUT)}
    runs = [subprocess.Popen([*command, *order], env=environment) for order in orders]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    entries = read_journal("mnist")
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry.version for entry in entries} == {made.version for made in candidates}
    assert champion() == candidates[-1].version
    assert all(current(candidate) == [] for candidate in candidates)
