"""The registry from the command line: two real models, compared, promoted and rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.summary import Summary

pytestmark = pytest.mark.flow
Shell = Callable[..., tuple[int, str, str]]


def test_two_models_are_listed_compared_promoted_and_rolled_back(
    run: Callable[..., Summary], idxflow: Shell, root: Path
) -> None:
    first = run(overrides=("training.epochs=2",))
    rate = "training.optimizer.learning_rate"
    second = run(overrides=("training.epochs=2", f"{rate}=0.002"), force_promote="a second one")
    data = ("--dataset", "digits8x8")

    listed = json.loads(idxflow("models", "--json")[1])
    assert {made["version"]: made["champion"] for made in listed} == {
        first.version: False,
        second.version: True,
    }
    assert "champion" in idxflow("models", *data)[1]
    assert idxflow("models", "--dataset", "mnist")[0] == 0

    shown = json.loads(idxflow("models", "show", "champion", *data, "--json")[1])
    assert shown["version"] == second.version
    assert [entry["event"] for entry in shown["history"]] == ["forced"]
    assert Path(shown["report"]).is_file()
    assert first.version in idxflow("models", "show", first.version[:6])[1]

    words = (first.version, second.version)
    diff = json.loads(idxflow("models", "diff", *words, "--json")[1])
    assert diff["recipe"] == {rate: ["0.003", "0.002"]}
    assert diff["code"] == []
    text = idxflow("models", "diff", *words, "--markdown")[1]
    assert f"| {rate} | 0.003 | 0.002 |" in text
    assert f"{len(diff['gained'])} became right and {len(diff['lost'])} wrong" in text
    page = Path(idxflow("report", *data)[1].strip())
    assert second.version in page.read_text()
    wrong = [made.metrics["num_wrong"] for made in (first, second)]
    assert len(diff["gained"]) - len(diff["lost"]) == wrong[0] - wrong[1]
    assert all(0 <= row < 360 for row in (*diff["gained"], *diff["lost"]))
    assert rate in idxflow("models", "diff", *words)[1]

    assert idxflow("models", "rollback", *data, "--why", "a trial")[0] == 0
    assert json.loads(idxflow("models", "show", "champion", *data, "--json")[1])["champion"]
    assert idxflow("models", "promote", f"digits8x8/{second.version}", "--why", "back")[0] == 0
    code, out, err = idxflow("models", "history", *data)
    assert code == 0
    assert out.count("rolled back") == 1
    assert "by hand: back" in out
    assert "Looks at the test rows: 4; versions: 2; recipes: 1" in err

    assert idxflow("scrub")[0] == 0
    code, out, _ = idxflow("gc", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("show", "abc"), "no published version"),
        (("show", "champion"), "no published champion"),
        (("rollback",), "found     none"),
        (("promote", "abc", "--why", "x"), "no published version"),
    ],
)
def test_a_missing_version_is_one_clear_error(
    idxflow: Shell, root: Path, words: tuple[str, ...], expected: str
) -> None:
    code, _, err = idxflow("models", *words)
    assert code == 1
    assert expected in err


def test_promoting_without_a_reason_is_wrong_usage(idxflow: Shell) -> None:
    assert idxflow("models", "promote", "abc")[0] == 2


@pytest.mark.parametrize("words", [("models",), ("models", "history"), ("models", "rollback")])
@pytest.mark.parametrize("name", ["nope", "a/b"])
def test_an_unknown_data_set_is_refused(
    idxflow: Shell, root: Path, words: tuple[str, ...], name: str
) -> None:
    code, out, err = idxflow(*words, "--dataset", name)
    assert (code, out) == (1, "")
    assert f"--dataset {name}" in err
    assert "digits8x8" in err
    assert not root.exists() or not list(root.rglob("*.lock"))
