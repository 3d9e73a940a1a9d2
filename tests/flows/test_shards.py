"""New rows from their arrival to the champion, and back again after a retraction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flows.summary import Summary
from tasks.dataset.shards import IMAGES, LABELS
from tasks.raw.idx import read_splits, write_idx
from tasks.release.bundle import shards_of
from tasks.release.journal import read_journal

Run = Callable[..., Summary]
Shell = Callable[..., tuple[int, str, str]]
NAME = "digits8x8"


@pytest.fixture
def drop(root: Path, run: Run) -> Callable[..., None]:
    """Put a shard of brighter digits into `incoming/`; the rows depend on `seed`."""
    run()

    def write(name: str, seed: int, *, shuffled: bool = False) -> None:
        images, labels = read_splits(next(root.glob("stages/fetch-*")), 10)["train"]
        chance = np.random.default_rng(seed)
        rows = chance.permutation(len(labels))[:300]
        folder = root / "incoming" / NAME / f"{name}.part"
        folder.mkdir(parents=True)
        noise = chance.integers(0, 2, (300, 8, 8), dtype=np.uint8)
        write_idx(folder / IMAGES, images[rows] + noise)
        write_idx(folder / LABELS, chance.permutation(labels[rows]) if shuffled else labels[rows])
        folder.rename(folder.with_name(name))

    return write


def states(summary: Summary) -> list[tuple[str, str]]:
    return [(stage["name"], stage["state"]) for stage in summary.stages]


def test_new_rows_train_and_the_gate_asks_the_recent_ones(
    run: Run, drop: Callable[..., None], idxflow: Shell, root: Path
) -> None:
    first = run(overrides=())
    drop("monday", 1)
    drop("shuffled", 2, shuffled=True)
    second = run(overrides=())
    assert second.version != first.version
    assert states(second)[:5] == [
        ("fetch", "cached"),
        ("validate", "cached"),
        ("admit", "ran"),
        ("admit", "ran"),
        ("convert", "ran"),
    ]
    (shard,) = shards_of(NAME, second.version)
    gate = read_journal(NAME)[-1].gate
    assert gate is not None
    (recent,) = [check for check in gate.checks if check.name == "recent rows"]
    assert "recent rows: accuracy" in recent.words
    _, out, _ = idxflow("data", "history", NAME, "--json")
    events = json.loads(out)
    assert sorted(event["event"] for event in events) == ["admitted", "quarantined"]
    assert [event["versions"] for event in events if event["shard"] == shard] == [second.version]

    drop("monday again", 1)
    again = run(overrides=())
    assert {state for _, state in states(again)[:-1]} == {"cached"}
    assert again.version == second.version

    code, _, err = idxflow("data", "retract", NAME, shard[:6], "--why", "labelled by mistake")
    assert (code, shard in err) == (0, True)
    third = run(overrides=())
    assert third.version == first.version, "the training set is the created one again"
    entries = read_journal(NAME)
    assert entries[-1].version == first.version
    assert entries[-1].gate is not None
    assert entries[-1].gate.champion in (None, first.version)
    assert (root / "quarantine" / NAME).is_dir()


def test_commands_on_shards_say_what_is_wrong(
    drop: Callable[..., None], idxflow: Shell, tmp_path: Path
) -> None:
    for words in (("retract", NAME, "00", "--why", "x"), ("history", "nowhere")):
        code, _, err = idxflow("data", *words)
        assert code == 1
        assert "Traceback" not in err
    (tmp_path / "text.csv").write_text("no,digits\n")
    code, _, err = idxflow("data", "add", NAME, str(tmp_path))
    assert code == 1
    assert "no rows" in err
