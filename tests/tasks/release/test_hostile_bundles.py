"""Hostile bundles with right digests: each command ends in one clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from tasks.release.bundle import METRICS, PROBABILITIES
from tasks.runtime.manifest import MANIFEST

Shell = Callable[..., tuple[int, str, str]]
Reseal = Callable[..., Path]
COMMANDS = (("models", "show"), ("models", "diff"), ("reproduce",), ("verify",), ("predict",))


@pytest.fixture
def idxflow(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["idxflow", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def ended(idxflow: Shell, *commands: tuple[str, ...], folder: Path) -> None:
    """Each command ends well, or in one error that is no traceback."""
    for words in commands:
        extra = (str(folder), str(folder))[: {"diff": 2, "models": 0}.get(words[-1], 1)]
        code, _, err = idxflow(*words, *extra)
        assert (code, f"\n{err}".count("\nerror ")) in ((0, 0), (1, 1)), err
        assert "Traceback" not in err


def asked(idxflow: Shell, *commands: tuple[str, ...], folder: Path) -> Iterator[str]:
    """What each command says about the bundle on standard error; none is a traceback."""
    for words in commands:
        more = {"diff": (str(folder),), "predict": (str(folder / "no.png"), "--model")}
        extra = more.get(words[-1], ())
        code, _, err = idxflow(*words, *extra, str(folder))
        assert code == 1, words
        assert f"\n{err}".count("\nerror ") == 1
        assert "Traceback" not in err
        yield err


HALF: tuple[Any, ...] = (None, "", [], {}, "much", [[]], {"a": []})
PROVENANCE = ("device", "precision", "threads", "cpu", "data", "modules", "libraries", "stages")
FIGURES = ("accuracy", "accuracy_interval_95", "macro_f1", "loss", "ece", "ece_expected_95")


@pytest.mark.parametrize("key", [None, *PROVENANCE, "seed", "code"])
def test_an_incomplete_provenance_is_one_error(
    bundle: Path, reseal: Reseal, idxflow: Shell, key: str | None
) -> None:
    def harm(made: dict[str, Any]) -> None:
        made["provenance"] = {} if key is None else made["provenance"]
        made["provenance"].pop(key, None)

    bundle = reseal(bundle, harm)
    show, diff, reproduce = COMMANDS[:3]
    readers: dict[str | None, tuple[tuple[str, ...], ...]] = {None: COMMANDS[:3]}
    readers |= {"seed": (show,), "code": (show,), "data": (diff,), "stages": (reproduce,)}
    readers |= {"modules": (diff, reproduce), "libraries": (diff, reproduce)}
    for err in asked(idxflow, *readers.get(key, (show, reproduce)), folder=bundle):
        assert "manifest or metrics of another form (KeyError: '" in err
        assert key is None or f"'{key}'" in err
        assert str(bundle) in err


@pytest.mark.parametrize("key", [*PROVENANCE, "seed", "code"])
def test_a_provenance_of_another_form_is_no_traceback(
    bundle: Path, reseal: Reseal, idxflow: Shell, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(bundle=str(bundle))
    monkeypatch.setattr("flows.reproduce.launch", lambda *_, **__: made)
    monkeypatch.setattr("flows.reproduce.explain", lambda _: [])
    monkeypatch.setattr("flows.reproduce.make_plan", lambda _: None)
    for value in HALF:
        bundle = reseal(bundle, lambda made, value=value: made["provenance"].update({key: value}))
        ended(idxflow, *COMMANDS[:3], folder=bundle)


@pytest.mark.parametrize("key", [None, *FIGURES, "brier", "calibrated", "per_class"])
def test_incomplete_metrics_are_one_error(
    bundle: Path, reseal: Reseal, idxflow: Shell, key: str | None
) -> None:
    metrics = json.loads((bundle / METRICS).read_bytes())
    metrics.pop(key, None)
    (bundle / METRICS).write_text(json.dumps(metrics if key else {}))
    bundle = reseal(bundle)
    only_compared = key in ("brier", "per_class")
    for err in asked(idxflow, COMMANDS[only_compared], folder=bundle):
        assert f"(KeyError: '{key or 'accuracy'}" in err
    assert idxflow("models")[0] == 0


@pytest.mark.parametrize("key", [*FIGURES, "brier", "calibrated", "per_class", "temperature"])
def test_metrics_of_another_form_are_no_traceback(
    bundle: Path, reseal: Reseal, idxflow: Shell, key: str
) -> None:
    metrics = json.loads((bundle / METRICS).read_bytes())
    for value in (*HALF, float("nan"), 1e400, 10**400):
        (bundle / METRICS).write_text(json.dumps({**metrics, key: value}))
        bundle = reseal(bundle)
        ended(idxflow, *COMMANDS[:2], ("models",), folder=bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b'{"a":', b"\xff"])
def test_unreadable_metrics_are_one_error(
    bundle: Path, reseal: Reseal, idxflow: Shell, content: bytes
) -> None:
    (bundle / METRICS).write_bytes(content)
    bundle = reseal(bundle)
    for err in asked(idxflow, *COMMANDS[:2], folder=bundle):
        assert "manifest or metrics of another form" in err
    assert idxflow("models")[0] == 0, "one that is left out"


def test_more_rows_than_the_file_can_hold_are_not_read(
    bundle: Path, reseal: Reseal, write_probabilities: Callable[..., None], idxflow: Shell
) -> None:
    write_probabilities(bundle, 20, pa.string())
    for num_rows in (None, 0, 10_000_000):
        if num_rows is not None:
            write_probabilities(bundle, num_rows)
        bundle = reseal(bundle)
        (err,) = asked(idxflow, ("models", "diff"), folder=bundle)
        assert "no readable probabilities" in err
    rows = pa.array([1, None])
    pq.write_table(
        pa.table(dict.fromkeys(("index", "label", "prediction"), rows)), bundle / PROBABILITIES
    )
    bundle = reseal(bundle)
    assert list(asked(idxflow, ("models", "diff"), folder=bundle))


def test_a_recipe_with_keys_of_numbers_can_be_compared(
    bundle: Path, reseal: Reseal, idxflow: Shell
) -> None:
    other = Path(shutil.copytree(bundle, bundle.parents[2] / "other"))
    with (other / "recipe.yaml").open("a") as file:
        file.write("1: {2: 3}\n")
    other = reseal(other)
    code, out, err = idxflow("models", "diff", str(bundle), str(other))
    assert code == 0, err
    assert "1.2" in out


@pytest.mark.parametrize("name", [MANIFEST, METRICS, PROBABILITIES, "recipe.yaml", "model.onnx"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_only_regular_files_are_read(bundle: Path, idxflow: Shell, name: str, kind: str) -> None:
    path = bundle / name
    if kind == "link":
        path.rename(bundle.parent / "elsewhere")
        path.symlink_to("../elsewhere")
    else:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    every = {MANIFEST: COMMANDS, METRICS: COMMANDS[:4], "model.onnx": COMMANDS[2:]}
    for err in asked(idxflow, *every.get(name, COMMANDS[1:4]), folder=bundle):
        assert name in err or "no bundle's folder of that name" in err


def test_a_reason_that_is_not_utf_8_is_one_error(bundle: Path, idxflow: Shell) -> None:
    for name in ("journal.jsonl", "champion.json"):
        (bundle.parent / name).unlink()
    for words in (("promote", bundle.name), ("rollback",)):
        code, out, err = idxflow("models", *words, "--why", "\udcff")
        assert (code, out) == (1, "")
        assert f"\n{err}".count("\nerror ") == 1
        assert "Traceback" not in err
        assert not (bundle.parent / "journal.jsonl").exists()


def test_a_bundle_that_names_no_raw_files_is_one_error(
    bundle: Path, reseal: Reseal, idxflow: Shell
) -> None:
    """It lies where its version is published, so that a look at the test rows is counted."""
    bundle = reseal(bundle, lambda made: made["determinants"].update(data={}))
    (err,) = asked(idxflow, ("reproduce",), folder=bundle)
    assert "manifest or metrics of another form (KeyError: 't10k-images" in err
