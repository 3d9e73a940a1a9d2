"""A root that commit 44da531 wrote on 2026-11-25 stays readable, verifiable and reversible.

`digits8x8` has two promotions, a refusal and a rollback; `letters-6d17933f` was a local folder and
has one version. The figures alone are not real: each file holds the words "a figure".
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.release.journal import journal_path, read_journal
from tasks.release.looks import read_looks

Shell = Callable[..., tuple[int, str, str]]

FIXTURE = Path(__file__).parents[1] / "fixtures" / "root-2026-11-25.tar.xz"
DATA = ("--dataset", "digits8x8")
FIRST, SECOND, REFUSED = "e09a6bb2bfec", "430b8f95363a", "278026212a88"
LETTERS = "letters-6d17933f/885e572835fd"


@pytest.fixture
def old(root: Path) -> Path:
    """The unpacked root."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(root.parent, filter="data")
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def events(dataset: str = "digits8x8") -> list[tuple[str, str, str | None]]:
    return [
        (entry.event, entry.version, entry.champion and entry.champion.version)
        for entry in read_journal(dataset)
    ]


def test_it_is_read_and_nothing_of_it_is_changed(old: Path, idxflow: Shell) -> None:
    before = contents(old)
    listed = json.loads(idxflow("models", "--json")[1])
    assert {made["version"]: made["champion"] for made in listed} == {
        **{FIRST: True, SECOND: False, REFUSED: False},
        LETTERS.partition("/")[2]: True,
    }
    assert events() == [
        ("promoted", FIRST, FIRST),
        ("promoted", SECOND, SECOND),
        ("refused", REFUSED, SECOND),
        ("rolled back", FIRST, FIRST),
    ]
    assert len(read_looks("digits8x8")) == 6
    shown = json.loads(idxflow("models", "show", REFUSED, "--json")[1])
    assert [entry["event"] for entry in shown["history"]] == ["refused"]
    assert not shown["history"][0]["gate"]["checks"][0]["passed"]
    diff = json.loads(idxflow("models", "diff", FIRST, SECOND, "--json")[1])
    assert len(diff["gained"]) - len(diff["lost"]) == round((0.908333 - 0.833333) * 360)
    assert idxflow("models", "history", *DATA)[0] == 0
    (images,) = old.glob("stages/fetch-dd89*/t10k-images-idx3-ubyte")
    for model in (SECOND, LETTERS):
        code, out, _ = idxflow("predict", str(images), "--model", model, "--json")
        assert (code, json.loads(out)["num_images"]) == (0, 360)
    assert contents(old) == before


def test_it_is_verified_and_scrubbed_without_damage(old: Path, idxflow: Shell) -> None:
    code, out, _ = idxflow("verify", "--json")
    checks = json.loads(out)["checks"]
    assert code == 0, out
    assert {check["verdict"] for check in checks} == {"ok"}
    assert {check["what"] for check in checks} >= {"manifest", "weights", "ONNX model", "journal"}
    code, out, _ = idxflow("scrub", "--json")
    assert (code, json.loads(out)["damage"]) == (0, [])


@pytest.mark.parametrize("name", ["digits8x8", "letters-6d17933f"])
def test_a_changed_line_is_still_noticed(old: Path, idxflow: Shell, name: str) -> None:
    path = journal_path(name)
    path.write_bytes(path.read_bytes().replace(b'"accuracy": 0.', b'"accuracy": 1.', 1))
    assert idxflow("verify")[0] == 1


def test_its_champions_are_changed_and_taken_back(old: Path, idxflow: Shell) -> None:
    lines = journal_path("digits8x8").read_bytes()
    assert idxflow("models", "promote", REFUSED, "--why", "a trial")[0] == 0
    assert idxflow("models", "rollback", *DATA)[0] == 0
    assert events()[4:] == [("forced", REFUSED, REFUSED), ("rolled back", FIRST, FIRST)]
    assert idxflow("models", "promote", f"digits8x8/{SECOND}", "--why", "why not")[0] == 0
    assert journal_path("digits8x8").read_bytes().startswith(lines), "old lines stay as they are"
    assert idxflow("verify")[0] == 0
    assert idxflow("scrub")[0] == 0
    assert idxflow("gc", "--dry-run")[0] == 0


@pytest.mark.exhaustive
@pytest.mark.flow
def test_its_champion_can_be_made_once_more(old: Path, idxflow: Shell) -> None:
    code, out, err = idxflow("reproduce", f"digits8x8/{FIRST}", "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] in ("equal to the bit", "within tolerance")
