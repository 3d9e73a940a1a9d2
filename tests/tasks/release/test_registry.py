"""The journal decides, the pointer follows: decisions, reruns, torn lines, crashes, two at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.plan import Choice
from pipeline_config.settings import CHECKOUT
from tasks.dataset.shards import RETRACTED, Shard, decide
from tasks.release import bundle, journal
from tasks.release.bundle import PROBABILITIES, bundle_folder
from tasks.release.gate import Criterion, Judgement
from tasks.release.journal import (
    Candidate,
    champion_of,
    journal_faults,
    journal_path,
    pointer_path,
    read_journal,
)
from tasks.release.registry import Decision, candidate_of, is_current, promote, rollback
from tasks.release.registry import settle as settle_with
from tasks.release.rivals import rivals_of
from tasks.release.verify import scrub
from tasks.runtime import files
from tasks.runtime.errors import ReleaseError, StorageError
from tasks.runtime.files import digest_of
from tasks.runtime.manifest import NO_LINE


def champion() -> str | None:
    """The version that readers of the pointer see."""
    path = pointer_path("mnist")
    return json.loads(path.read_bytes())["champion"]["version"] if path.exists() else None


def settle(
    dataset: str, candidate: Candidate, why: str | None = None, *, by_hand: bool = False
) -> Decision:
    """Settle with a gate that lets pass whatever is at most 0.01 less accurate than the reference.

    What is at least 0.01 more accurate is better beyond doubt.
    """

    def judge(reference: str | None, champion: str | None) -> Judgement:
        known = {entry.version: entry.accuracy for entry in read_journal(dataset)}
        other = known[reference] - 0.01 if reference else 0.0
        check = Criterion(
            name="accuracy",
            passed=candidate.accuracy >= other,
            value=candidate.accuracy,
            limit=other,
            words=f"accuracy {candidate.accuracy:.4f} against {other:.4f}",
        )
        compared = {"champion": champion, "reference": reference}
        is_better = reference is None or candidate.accuracy >= known[reference] + 0.01
        facts = {"test_rows": NO_LINE, "num_rows": 9, "looks": 1, "checks": (check,)}
        return Judgement(is_better=is_better, **compared, **facts)

    return settle_with(dataset, candidate.model_copy(update={"by_hand": by_hand}), judge, why)


def current(candidate: Candidate) -> list[str]:
    return is_current("mnist", candidate.version)


def events() -> list[tuple[str, str]]:
    return [(entry.event, entry.version) for entry in read_journal("mnist")]


def test_the_first_competing_version_becomes_champion(make_bundle):
    tutorial, first = make_bundle(0.99, competes=False, recipe="tutorial"), make_bundle(0.9)
    assert settle("mnist", tutorial).reason == "recipe tutorial does not compete"
    assert champion() is None
    assert settle("mnist", first).reason == "accuracy 0.9000 against 0.0000; there was no champion"
    assert champion() == first.version
    pointer = json.loads(pointer_path("mnist").read_bytes())
    assert pointer["champion"] == {
        "version": first.version,
        "recipe": "fast",
        "accuracy": 0.9,
        "since": 2,
    }
    assert (pointer["seq"], pointer["journal"]) == (2, read_journal("mnist")[-1].digest)


@pytest.mark.parametrize(
    ("accuracy", "event"), [(0.9712, "refused"), (0.9766, "promoted"), (0.9900, "promoted")]
)
def test_a_version_that_passes_the_gate_becomes_champion(make_bundle, accuracy, event):
    first, second = make_bundle(0.9866), make_bundle(accuracy, recipe="other")
    settle("mnist", first)
    decision = settle("mnist", second)
    assert decision.event == event
    assert decision.reason == f"accuracy {accuracy:.4f} against 0.9766"
    assert champion() == (second if event == "promoted" else first).version
    entries = read_journal("mnist")
    assert [entry.seq for entry in entries] == [1, 2]
    assert entries[1].reason == decision.reason
    assert entries[1].gate.reference == entries[1].gate.champion == first.version
    assert entries[1].gate.checks[0].limit == 0.9766
    assert entries[1].time.endswith("+00:00")
    assert current(second) == []


def test_reruns_add_nothing_and_keep_the_champion(make_bundle):
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
    assert "line 2 of the journal: promoted" in settle("mnist", candidates[1]).reason


def test_a_refusal_can_be_overruled_with_a_reason(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    assert settle("mnist", second).event == "refused"
    assert is_current("mnist", second.version, "a demonstration") != []
    decision = settle("mnist", second, why="a demonstration")
    assert (decision.event, champion()) == ("forced", second.version)
    entry = read_journal("mnist")[-1]
    assert entry.why == "a demonstration"
    assert not entry.gate.passed
    assert entry.reason.startswith("by force: a demonstration; it did not pass the gate: accuracy")
    assert not settle("mnist", second, why="a demonstration").is_new
    tutorial = make_bundle(0.5, competes=False, recipe="tutorial")
    assert settle("mnist", tutorial, why="for class").event == "forced"
    assert champion() == tutorial.version


def test_rollback_goes_back_one_champion_at_a_time(make_bundle):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.92, 0.94)]
    for candidate in made:
        settle("mnist", candidate)
    settle("mnist", make_bundle(0.5))
    entry = rollback("mnist", "sevens")
    assert entry.reason == f"from {made[2].version} back to {made[1].version}: sevens"
    assert champion() == made[1].version
    assert not settle("mnist", made[2]).is_new, "what was rolled back does not return by itself"
    assert champion() == made[1].version
    rollback("mnist")
    assert champion() == made[0].version
    before = journal_path("mnist").read_bytes()
    with pytest.raises(ReleaseError, match=f"none before {made[0].version}"):
        rollback("mnist")
    assert journal_path("mnist").read_bytes() == before
    promote("mnist", made[2], "they were right after all")
    rollback("mnist")
    assert champion() == made[0].version
    assert journal_faults("mnist") == []


def test_rollback_refuses_a_damaged_bundle(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    settle("mnist", second)
    (bundle_folder("mnist", first.version) / "metrics.json").write_bytes(b"{}")
    with pytest.raises(ReleaseError, match="metrics"):
        rollback("mnist")
    with pytest.raises(ReleaseError, match="intact"):
        candidate_of("mnist", first.version, competes=True)
    assert champion() == second.version


def test_promoting_twice_adds_one_entry(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    settle("mnist", second)
    assert promote("mnist", second, "why not").reason == "by hand: why not"
    assert promote("mnist", second, "why not") is None
    assert champion() == second.version
    assert [event for event, _ in events()] == ["promoted", "refused", "forced"]


@pytest.mark.parametrize("damage", ["missing", "garbage", "lagging", "old words"])
def test_the_pointer_is_repaired_from_the_journal(make_bundle, damage):
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


@pytest.mark.parametrize("name", [None, "manifest.json", "model.onnx", "recipe.yaml"])
def test_a_damaged_champion_stops_the_judgement(make_bundle, name):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    folder = bundle_folder("mnist", first.version)
    shutil.rmtree(folder) if name is None else (folder / name).write_bytes(b"damaged")
    before = journal_path("mnist").read_bytes()
    with pytest.raises(ReleaseError, match=first.version):
        settle("mnist", second)
    assert journal_path("mnist").read_bytes() == before, "it can be judged when that is mended"
    decision = settle("mnist", second, why="the old one is lost")
    assert (decision.event, champion()) == ("forced", second.version)
    assert read_journal("mnist")[-1].gate.reference is None


def test_a_damaged_figure_of_the_champion_does_not_open_the_gate(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    (bundle_folder("mnist", first.version) / "figure.png").write_bytes(b"not in the manifest")
    assert settle("mnist", second).event == "refused"


def test_an_empty_reason_is_refused(make_bundle):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    with pytest.raises(ReleaseError, match="an empty reason"):
        promote("mnist", second, " ")
    with pytest.raises(ValueError, match="at least 1 character"):
        Choice(force_promote=" ")


def test_a_restored_champion_is_kept(make_bundle):
    first = make_bundle(0.95)
    settle("mnist", first)
    shutil.rmtree(bundle_folder("mnist", first.version))
    assert current(first) == [f"bundle {first.version}: it is missing"]
    make_bundle(0.95)
    assert not settle("mnist", first).is_new
    assert current(first) == []


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_journal_without_its_end_keeps_the_champion(make_bundle, left):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.92, 0.94)]
    for candidate in made:
        settle("mnist", candidate)
    lines = journal_path("mnist").read_bytes().splitlines(keepends=True)
    journal_path("mnist").write_bytes(b"".join(lines[:left]))
    newest = make_bundle(0.5)
    settle("mnist", newest)
    assert events()[left:] == [("adopted", made[2].version), ("refused", newest.version)]
    assert f"lines {left + 1} to 3 of the journal were lost" in read_journal("mnist")[left].reason
    assert [entry.seq for entry in read_journal("mnist")][left:] == [4, 5]
    assert champion() == made[2].version


def test_a_journal_torn_at_every_byte(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    whole = len(journal_path("mnist").read_bytes())
    lagging = pointer_path("mnist").read_bytes()
    settle("mnist", second)
    content, moved = journal_path("mnist").read_bytes(), pointer_path("mnist").read_bytes()
    for cut in range(whole, len(content)):
        journal_path("mnist").write_bytes(content[:cut])
        entries = read_journal("mnist")
        assert [entry.version for entry in entries] == [first.version]
        assert champion_of(entries).version == first.version
        if cut % 64 == 0 or cut == len(content) - 1:
            pointer_path("mnist").write_bytes(lagging)
            settle("mnist", second)
            assert events() == [("promoted", first.version), ("promoted", second.version)]
            assert json.loads(pointer_path("mnist").read_bytes()).keys() == json.loads(moved).keys()
            assert champion() == second.version
            assert journal_faults("mnist") == []
            assert journal_path("mnist").read_bytes().count(b"\n") == 2


def test_a_damaged_line_is_skipped(make_bundle, caplog):
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
    assert journal_faults("mnist") == ["line 1 is damaged", "line 2 is damaged"]


@pytest.mark.parametrize("changed", ["a word", "a line taken out", "two lines swapped"])
def test_a_changed_journal_is_detected(make_bundle, changed):
    for accuracy in (0.9, 0.92, 0.94):
        settle("mnist", make_bundle(accuracy))
    assert journal_faults("mnist") == []
    lines = journal_path("mnist").read_bytes().splitlines(keepends=True)
    other = {
        "a word": [lines[0], lines[1].replace(b"0.92", b"0.93"), lines[2]],
        "a line taken out": [lines[0], lines[2]],
        "two lines swapped": [lines[1], lines[0], lines[2]],
    }[changed]
    journal_path("mnist").write_bytes(b"".join(other))
    told = "line 2 is damaged" if changed == "a word" else "does not follow"
    assert any(told in fault for fault in journal_faults("mnist"))


def test_a_flipped_bit_in_the_last_line_is_detected(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    settle("mnist", second)
    content = journal_path("mnist").read_bytes()
    start = content.index(b"\n") + 1
    for place in range(start, len(content) - 1, 7):
        flipped = bytearray(content)
        flipped[place] ^= 1
        journal_path("mnist").write_bytes(flipped)
        assert journal_faults("mnist") != []
    settle("mnist", first)
    assert champion() == second.version
    assert [event for event, _ in events()] == ["promoted", "adopted"]


def test_a_flipped_bit_in_the_pointer_is_repaired(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    settle("mnist", second)
    content, before = pointer_path("mnist").read_bytes(), journal_path("mnist").read_bytes()
    for place in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[place] ^= 1
        pointer_path("mnist").write_bytes(flipped)
        settle("mnist", second)
        assert pointer_path("mnist").read_bytes() == content
    assert journal_path("mnist").read_bytes() == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("kill", ["append_line", "write_pointer", "write_atomically", "fsync"])
def test_a_crash_between_journal_and_pointer_is_completed(make_bundle, monkeypatch, kill):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files.os if kill == "fsync" else journal, kill, killed)
        with pytest.raises(Killed):
            settle("mnist", second)
    assert champion() == first.version
    assert len(current(second)) == 1
    settle("mnist", second)
    assert events() == [("promoted", first.version), ("promoted", second.version)]
    assert champion() == second.version
    assert current(second) == []


def test_a_full_disk_leaves_the_journal_intact(make_bundle, monkeypatch):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    before = journal_path("mnist").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(StorageError, match="full"):
            settle("mnist", second)
    assert journal_path("mnist").read_bytes() == before
    settle("mnist", second)
    assert journal_path("mnist").read_bytes().startswith(before)
    assert journal_faults("mnist") == []


SETTLE = """
import sys
from tasks.release.gate import Criterion, Judgement
from tasks.release.journal import Candidate
from tasks.release.registry import settle

def judge(candidate, reference, champion):
    passed = candidate.accuracy >= best.get(champion, 0.0)
    check = Criterion(name="accuracy", passed=passed, value=0.0, limit=0.0, words="compared")
    return Judgement(test_rows="", num_rows=9, looks=1, champion=None, checks=(check,))

candidates = [Candidate.model_validate_json(text) for text in sys.argv[1:]]
best = {candidate.version: candidate.accuracy for candidate in candidates}
for candidate in candidates:
    settle("mnist", candidate, lambda *names: judge(candidate, *names))
assert not {"torch", "prefect"} & {*sys.modules}
"""


def test_concurrent_publishers_write_one_journal(make_bundle, root):
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


def references() -> list[str | None]:
    """The reference after each line of the journal."""
    return [entry.reference for entry in read_journal("mnist")]


def test_small_losses_do_not_add_up(make_bundle):
    """Each candidate is allowed a hundredth less than the reference, whoever is champion."""
    made = [make_bundle(accuracy, recipe=f"{accuracy}") for accuracy in (0.9, 0.895, 0.892, 0.885)]
    settled = [settle("mnist", candidate).event for candidate in made]
    assert settled == ["promoted", "promoted", "promoted", "refused"]
    assert references() == [made[0].version] * 4
    assert read_journal("mnist")[-1].gate.champion == made[2].version


def test_the_reference_moves_only_to_what_is_better_beyond_doubt(make_bundle):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.905, 0.92, 0.915)]
    for candidate in made:
        settle("mnist", candidate)
    first, better = made[0].version, made[2].version
    assert references() == [first, first, better, better]
    assert json.loads(pointer_path("mnist").read_bytes())["reference"] == better


def test_rollback_restores_the_reference_of_its_champion(make_bundle):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.95)]
    for candidate in made:
        settle("mnist", candidate)
    assert references() == [each.version for each in made]
    assert rollback("mnist").reference == made[0].version


def test_a_journal_without_references_goes_on_with_its_champion(make_bundle):
    first = make_bundle(0.9)
    settle("mnist", first)
    entry = json.loads(journal_path("mnist").read_bytes())
    del entry["reference"], entry["digest"]
    entry["digest"] = digest_of(entry)
    line = json.dumps(entry, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    journal_path("mnist").write_bytes(line)
    pointer_path("mnist").unlink()
    assert settle("mnist", make_bundle(0.895)).event == "promoted"
    assert references() == [None, first.version]


def test_a_candidate_that_passes_waits_where_a_person_promotes(make_bundle):
    first, second, worse = make_bundle(0.9), make_bundle(0.95), make_bundle(0.8)
    settle("mnist", first)
    assert settle("mnist", second, by_hand=True).event == "waiting"
    assert champion() == first.version
    assert references()[-1] == first.version
    assert not settle("mnist", second, by_hand=True).is_new
    assert settle("mnist", worse, by_hand=True).event == "refused"
    assert promote("mnist", second, "seen by two people").event == "approved"
    assert champion() == second.version
    assert promote("mnist", worse, "a demonstration").event == "forced"
    assert rollback("mnist").version == second.version
    assert current(second) == []


def test_promotion_by_hand_moves_the_reference_only_beyond_doubt(make_bundle):
    """By the rows that the bundles' own answers get right: of 2,000, some more or many more."""
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.901, 0.95)]
    for candidate in made:
        rows = np.arange(2000)
        wrong = rows < round(2000 * (1 - candidate.accuracy))
        columns = {"index": rows, "label": rows % 10, "prediction": (rows + wrong) % 10}
        pq.write_table(pa.table(columns), bundle_folder("mnist", candidate.version) / PROBABILITIES)
    settle("mnist", made[0])
    for candidate in made[1:]:
        promote("mnist", candidate, "a demonstration")
    first, _, best = (each.version for each in made)
    assert references() == [first, first, best]


def test_what_saw_a_retracted_shard_is_no_rival(make_bundle, monkeypatch):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.95, 0.93)]
    first, second, third = (candidate.version for candidate in made)
    seen = {second: {"5" * 16}}
    monkeypatch.setattr(bundle, "shards_of", lambda dataset, version: seen.get(version, set()))
    for candidate in made[:2]:
        settle("mnist", candidate)
    assert rivals_of("mnist", read_journal("mnist")) == (second, second)
    assert not settle("mnist", made[0]).is_new
    decide(Shard(dataset="mnist", digest="5" * 16), RETRACTED, "labelled by mistake", 9)
    assert rivals_of("mnist", read_journal("mnist")) == (first, first)
    assert settle("mnist", made[2]).event == "promoted", "0.95 is no bar any longer"
    assert read_journal("mnist")[-1].gate.reference == first
    assert (champion(), references()[-1]) == (third, third)


def test_an_earlier_version_is_judged_anew_after_a_retraction(make_bundle, monkeypatch):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.95)]
    seen = {made[1].version: {"5" * 16}}
    monkeypatch.setattr(bundle, "shards_of", lambda dataset, version: seen.get(version, set()))
    for candidate in made:
        settle("mnist", candidate)
    decide(Shard(dataset="mnist", digest="5" * 16), RETRACTED, "labelled by mistake", 9)
    assert current(made[0]) != []
    assert settle("mnist", made[0]).is_new
    assert champion() == made[0].version
    assert current(made[0]) == []
    assert not settle("mnist", made[0]).is_new


def test_the_pointer_names_the_version_for_other_programs(make_bundle):
    made = make_bundle(0.9)
    settle("mnist", made)
    pointer = json.loads(pointer_path("mnist").read_bytes())
    assert pointer["version"] == pointer["champion"]["version"] == made.version


def test_lines_of_another_version_of_the_project_are_valid(make_bundle):
    """With a field that is not known here, and without one that has a default."""
    settle("mnist", make_bundle(0.9))
    entry = json.loads(journal_path("mnist").read_bytes())
    entry |= {"reference": None, "champion": {**entry["champion"], "shards": 3}}
    del entry["why"], entry["digest"]
    entry["digest"] = digest_of(entry)
    line = json.dumps(entry, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    journal_path("mnist").write_bytes(line)
    assert read_journal("mnist")[0].version == entry["version"]
    settle("mnist", make_bundle(0.95))
    assert journal_faults("mnist") == []
    assert journal_path("mnist").read_bytes().startswith(line)
    journal_path("mnist").write_bytes(line.replace(b'"shards": 3', b'"shards": 4'))
    assert journal_faults("mnist") == ["line 1 is damaged"]


@pytest.mark.parametrize("kill", ["append_line", "write_atomically", "write_pointer"])
@pytest.mark.parametrize("version", [False, True])
def test_a_rollback_that_was_killed_goes_back_once(make_bundle, monkeypatch, kill, version):
    made = [make_bundle(accuracy) for accuracy in (0.9, 0.92, 0.94)]
    for candidate in made:
        settle("mnist", candidate)
    named = made[2].version if version else None

    def killed(*_):
        raise Killed

    monkeypatch.setattr(journal, "stale_pages", lambda *_: iter([(Path("page"), b"", True)]))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(journal, kill, killed)
        rollback("mnist", "sevens", named)
    monkeypatch.setattr(journal, "stale_pages", lambda *_: iter([]))
    rollback("mnist", "sevens", named)
    assert champion() == made[1].version
    assert [event for event, _ in events()][3:] == ["rolled back"]


def test_a_rollback_from_a_version_can_be_repeated(make_bundle):
    first, second = make_bundle(0.9), make_bundle(0.95)
    settle("mnist", first)
    settle("mnist", second)
    assert rollback("mnist", "sevens", second.version).version == first.version
    before = journal_path("mnist").read_bytes()
    assert rollback("mnist", "sevens", second.version) is None
    assert journal_path("mnist").read_bytes() == before
    assert champion() == first.version


@pytest.mark.parametrize("finish", ["scrub", "settle"])
def test_the_next_command_completes_a_killed_promotion(make_bundle, monkeypatch, finish):
    first, second = make_bundle(0.95), make_bundle(0.9)
    settle("mnist", first)
    settle("mnist", second)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(journal, "write_pointer", killed)
        promote("mnist", second, "why not")
    assert champion() == first.version
    if finish == "scrub":
        told = [check for check in scrub().damage if check.what == "champion"]
        assert told == []
    else:
        settle("mnist", first)
    assert champion() == second.version
