"""`idxflow audit-labels` on a real Prefect server: planted errors found, nothing done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.diagram import explain_audit
from flows.plan import Choice, fold_plans, make_plan
from tasks.raw.tables import sklearn_digits

pytestmark = pytest.mark.flow
Shell = Callable[..., tuple[int, str, str]]
FOLDS = 3


@pytest.fixture
def audit_labels(idxflow: Shell) -> Shell:
    """Run the command in this process."""
    return partial(idxflow, "audit-labels")


@pytest.fixture
def wrong() -> set[int]:
    """The rows whose labels `noisy` changes."""
    return set(np.random.default_rng(0).permutation(1437)[:30].tolist())


@pytest.fixture
def noisy(tmp_path: Path, wrong: set[int]) -> Path:
    """The real 8×8 digits, 30 of their 1,437 training labels planted wrong."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    _, (_, labels, _), *_ = sklearn_digits(folder)
    content = np.frombuffer(labels.read_bytes(), np.uint8).copy()
    content[[8 + row for row in wrong]] = (content[[8 + row for row in wrong]] + 5) % 10
    labels.write_bytes(content.tobytes())
    return folder


def states(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["name"], row["state"]) for row in found["stages"]]


def test_planted_errors_are_found_and_no_fold_is_trained_twice(
    audit_labels: Shell, served: None, noisy: Path, wrong: set[int]
) -> None:
    choice = Choice(dataset=str(noisy), recipe="small", overrides=("training.epochs=4",))
    words = (str(noisy), "--recipe", "small", "--set", choice.overrides[0])
    words = (*words, "--folds", str(FOLDS), "--limit", "20")
    code, out, err = audit_labels(*words, "--json")
    assert code == 0
    assert "trains the recipe small 3 times" in err
    first = json.loads(out)
    names = ["fetch", "validate", "convert", *["normalize", "train"] * FOLDS, "audit"]
    assert states(first) == [(name, "ran") for name in names]
    assert (first["num_rows"], first["num_folds"]) == (1437, FOLDS)
    assert first["num_suspects"] == pq.read_metadata(first["suspects"]).num_rows
    rows = [row["row"] for row in first["first"]]
    assert len(rows) == 20
    assert len(wrong & set(rows)) >= 17
    assert Path(first["gallery"]).read_bytes().startswith(b"\x89PNG")

    lost = [row for row in first["stages"] if row["name"] == "train"][1]
    shutil.rmtree(lost["path"])
    verdicts, found = explain_audit(fold_plans(make_plan(choice), FOLDS))
    assert [verdict.state for verdict in verdicts].count("miss") == 1
    assert (verdicts[-1].state, found) == ("pending", None)
    code, out, err = audit_labels(*words, "--json")
    assert code == 0
    assert "trains the recipe small 1 times" in err
    again = json.loads(out)
    assert [row["key"] for row in again["stages"] if row["state"] == "ran"] == [lost["key"]]
    assert again["first"] == first["first"]


@pytest.mark.exhaustive
def test_the_second_time_nothing_is_started(
    audit_labels: Shell, served: None, noisy: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    words = (str(noisy), "--recipe", "small", "--set", "training.epochs=1", "--folds", "2")
    assert audit_labels(*words)[0] == 0
    monkeypatch.setattr("flows.launch.launch", None)
    code, out, err = audit_labels(*words, "--limit", "3")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert " ".join(head.split()) == "row label suggested confidence self confidence"
    assert lines.index("") == 3
    assert "training labels are suspect" in out
    assert str(root / "stages/audit-") in out


def test_a_recipe_without_probabilities_is_refused_before_anything_runs(
    audit_labels: Shell, root: Path
) -> None:
    code, _, err = audit_labels("digits8x8", "--set", "training.loss=mse")
    assert code == 1
    assert "gives no probabilities" in err
    assert not (root / "stages").exists()
