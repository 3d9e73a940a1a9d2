"""The command line: output, exit codes, and the messages about bad input."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
import yaml

from pipeline_config.datasets import FILES
from pipeline_config.recipe_files import RECIPES
from tasks.raw.idx import write_idx
from tasks.runtime import devices

pytestmark = pytest.mark.flow
Shell = Callable[..., tuple[int, str, str]]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


@pytest.fixture
def folder(tmp_path: Path, small_rows: Callable[[int], tuple[object, object]]) -> Path:
    """A good data set in a folder: 60 + 40 images of 6×6 pixels in ten classes."""
    path = tmp_path / "mine"
    path.mkdir()
    for names, num_rows in ((FILES[:2], 60), (FILES[2:], 40)):
        for name, array in zip(names, small_rows(num_rows), strict=True):
            write_idx(path / name, array)
    return path


COMMANDS = (
    *("run", "explain", "show", "audit-labels", "recipes", "predict", "monitor"),
    *("verify", "reproduce", "scrub", "gc", "models", "models show", "models diff"),
    *("models promote", "models rollback", "models history"),
    *("data show", "data create", "data add", "data retract", "data release", "data history"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_json(idxflow: Shell, command: str) -> None:
    code, out, _ = idxflow(*command.split(), "--help")
    assert code == 0
    assert f"Example: idxflow {command}" in out
    assert "--json" in out


@pytest.mark.parametrize("words", [("--help",), ("models", "--help"), ("data", "--help")])
def test_short_help_lines_are_complete_at_80_columns(
    idxflow: Shell, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = idxflow(*words)
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]


def test_the_version_is_printed(idxflow: Shell) -> None:
    assert idxflow("--version")[:2] == (0, f"idxflow {version('idxflow')}\n")


def test_lists_are_plain_without_a_terminal(idxflow: Shell) -> None:
    for command in ("data", "recipes"):
        code, out, _ = idxflow(command)
        assert code == 0
        assert "\x1b" not in out
        _, printed, _ = idxflow(command, "--json")
        for entry in json.loads(printed):
            assert entry["name"] in out


def test_a_recipe_is_printed_whole(idxflow: Shell) -> None:
    code, out, _ = idxflow("recipes", "fast")
    assert (code, out) == (0, (RECIPES / "fast.yaml").read_text())


def test_show_prints_counts_and_an_image(idxflow: Shell, root: Path) -> None:
    code, out, _ = idxflow("show", "digits8x8", "--split", "test", "--index", "7")
    assert code == 0
    assert "images uint8 (360, 8, 8)" in out
    assert "@" in out
    _, printed, _ = idxflow("show", "digits8x8", "--json")
    view = json.loads(printed)
    assert sum(count for _, count in view["counts"]) == view["shape"][0] == 1437
    assert Path(view["grid"]).read_bytes().startswith(b"\x89PNG")


def test_show_refuses_an_index_beyond_the_split(idxflow: Shell) -> None:
    code, _, err = idxflow("show", "digits8x8", "--split", "test", "--index", "360")
    assert code == 1
    assert "from 0 to 359" in err


def test_run_prints_one_object_and_then_is_up_to_date(
    idxflow: Shell, served: None, root: Path
) -> None:
    words = (
        *("run", "--dataset", "digits8x8", "--json"),
        *("--set", "training.epochs=1", "--set", "floors={}"),
    )
    code, out, _ = idxflow(*words)
    assert code == 0
    first = json.loads(out)
    assert {"version", "bundle", "champion", "metrics", "stages"} <= set(first)
    for row in first["stages"]:
        assert {"name", "state", "seconds", "key", "path", "reason"} <= set(row)
        assert Path(row["path"]).is_dir()
    for name in ("accuracy", "macro_f1", "loss", "confusion_matrix", "untrained_accuracy"):
        assert name in first["metrics"]
    assert first["metrics"]["validation_accuracy"] is not None

    code, out, err = idxflow(*words)
    second = json.loads(out)
    assert code == 0
    assert "up to date" in err
    assert {row["state"] for row in second["stages"]} == {"cached"}
    assert (second["version"], second["champion"]) == (first["version"], first["champion"])

    (root / "models/digits8x8/champion.json").unlink()
    code, out, err = idxflow(*words)
    assert code == 0
    assert "up to date" not in err
    pointer = json.loads((root / "models/digits8x8/champion.json").read_text())
    assert pointer["champion"]["version"] == first["version"]


def test_explain_names_what_changed(idxflow: Shell, served: None) -> None:
    words = ("--dataset", "digits8x8", "--set", "training.epochs=1", "--set", "floors={}")
    assert idxflow("run", *words)[0] == 0
    rate = "training.optimizer.learning_rate"
    code, out, _ = idxflow("explain", *words, "--set", f"{rate}=0.01", "--json")
    outcomes = {each["name"]: each for each in json.loads(out)}
    assert code == 0
    assert outcomes["normalize"]["state"] == "hit"
    assert outcomes["train"]["state"] == "miss"
    assert outcomes["train"]["changes"] == [{"component": rate, "old": "0.003", "new": "0.01"}]
    assert outcomes["evaluate"]["state"] == outcomes["publish"]["state"] == "pending"
    _, plain, _ = idxflow("explain", *words, "--set", f"{rate}=0.01")
    assert f"{rate}: 0.003 → 0.01" in plain


@pytest.mark.parametrize(
    "words",
    [
        ["--bogus"],
        ["run", "--device", "tpu"],
        ["run", "--refresh-from", "bake"],
        ["run", "--classes", "one"],
        ["show"],
        ["bake"],
    ],
)
def test_wrong_usage_ends_with_2(idxflow: Shell, words: list[str]) -> None:
    code, _, err = idxflow(*words)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--dataset", "mnits"], "mnits"),
        (["--recipe", "quick"], "quick"),
        (["--set", "training.optimizer.learning_rate=-1"], "greater than 0"),
        (["--set", "training.epoch=1"], "training.epoch"),
        (["--device", "cuda"], "cuda"),
        (["--source", "nowhere"], "no such folder"),
        (["--dataset", "digits8x8", "--classes", "11"], "10 classes"),
    ],
)
def test_an_impossible_choice_is_one_clear_error(
    idxflow: Shell, root: Path, words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_cuda", lambda: False)
    code, out, err = idxflow("run", *words)
    assert (code, out) == (1, "")
    assert expected in err
    assert "Traceback" not in err
    assert not (root / "stages").exists()


def test_an_unknown_key_in_a_recipe_file_is_one_clear_error(idxflow: Shell, tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES / "small.yaml").read_text())
    content["widht"] = 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    code, _, err = idxflow("run", "--dataset", "digits8x8", "--recipe", str(path))
    assert code == 1
    assert "widht (an unknown key)" in err


def header(*dims: int, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{len(dims)}I", 0, kind, len(dims), *dims)


def swap(folder: Path) -> None:
    images, labels = (folder / name for name in FILES[:2])
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))

    return harm


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def loop(folder: Path) -> None:
    (folder / TRAIN_LABELS).unlink()
    (folder / TRAIN_LABELS).symlink_to(TRAIN_LABELS)


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong magic": (change(TRAIN_IMAGES, lambda old: b"\x01" + old[1:]), TRAIN_IMAGES),
    "wrong type": (change(TRAIN_IMAGES, lambda old: old[:2] + b"\x0a" + old[3:]), TRAIN_IMAGES),
    "floats": (lambda f: (f / TEST_LABELS).write_bytes(header(0, kind=13)), TEST_LABELS),
    "truncated": (change(TEST_IMAGES, lambda old: old[:-1]), TEST_IMAGES),
    "trailing bytes": (change(TEST_LABELS, lambda old: old + b"\x00"), TEST_LABELS),
    "overflow": (lambda f: (f / TRAIN_IMAGES).write_bytes(header(*[2**32 - 1] * 3)), TRAIN_IMAGES),
    "swapped": (swap, TRAIN_IMAGES),
    "unequal": (lambda f: (f / TRAIN_LABELS).write_bytes(header(2) + b"\0\1"), "60"),
    "label 10": (change(TEST_LABELS, lambda old: old[:-1] + b"\x0a"), "10"),
    "HTML": (lambda f: (f / TRAIN_IMAGES).write_text("<!doctype html><p>404"), "HTML"),
    "no files": (empty, "no data"),
    "symlink loop": (loop, TRAIN_LABELS),
}


@pytest.mark.parametrize("harm", HARMS)
def test_bad_data_is_one_clear_error(
    idxflow: Shell, served: None, root: Path, folder: Path, harm: str
) -> None:
    damage, expected = HARMS[harm]
    damage(folder)
    code, out, err = idxflow("run", "--dataset", str(folder), "--recipe", "small")
    assert (code, out) == (1, "")
    assert expected in err
    assert err.count("error ") == 1
    assert "expected" in err
    assert "Traceback" not in err
    assert str(folder) in err.replace("\n", "") and "stages" not in err
    stages = {path.name.split("-")[0] for path in root.glob("stages/*")}
    assert stages <= {"fetch"}
    assert not (root / "models").exists()
    assert not list(root.glob("**/.*-*"))


@pytest.mark.parametrize("classes", ["1", "257"])
def test_the_number_of_classes_is_2_to_256(idxflow: Shell, folder: Path, classes: str) -> None:
    code, _, err = idxflow("run", "--dataset", str(folder), "--classes", classes)
    assert code == 2
    assert "--classes" in err and "equal to" in err and "Traceback" not in err


def test_show_refuses_labels_outside_the_classes(idxflow: Shell, folder: Path) -> None:
    HARMS["label 10"][0](folder)
    code, _, err = idxflow("show", str(folder))
    assert code == 1
    assert "Traceback" not in err
    words = " ".join(err.split())
    assert f"{TEST_LABELS} of the folder {folder}" in words and "label 10 in row 39" in words


def test_the_undamaged_folder_is_accepted(idxflow: Shell, served: None, folder: Path) -> None:
    words = ("--set", "training.epochs=1", "--set", "split.validation.share=0.2")
    code, _, err = idxflow("run", "--dataset", str(folder), "--recipe", "small", *words)
    assert code == 0, err


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--dataset", LONG),
        ("run", "--dataset", f"./{LONG}"),
        ("run", "--recipe", LONG),
        ("explain", "--source", LONG),
        ("show", LONG),
        ("audit-labels", LONG),
        ("recipes", LONG),
        ("predict", "a.png", "--model", LONG),
        ("predict", "a.png", "--model", f"{LONG}.onnx"),
        ("predict", "a.png", "--out", f"{LONG}.json"),
        ("predict", "a.png", "--explain", f"{LONG}.png"),
        ("predict", "a.png", "--dataset", LONG),
        ("verify", LONG),
        ("reproduce", LONG),
        ("models", "--dataset", LONG),
        ("models", "show", LONG),
        ("models", "show", "champion", "--dataset", LONG),
        ("models", "diff", LONG, LONG),
        ("models", "promote", LONG, "--why", "x"),
        ("models", "rollback", "--dataset", LONG),
        ("models", "history", "--dataset", LONG),
    ],
)
def test_a_name_too_long_for_a_file_is_one_clear_error(
    idxflow: Shell, root: Path, words: tuple[str, ...]
) -> None:
    (root / "models").mkdir(parents=True)
    code, out, err = idxflow(*words)
    assert (code, out) == (1, "")
    assert err.count("error ") == 1
    assert LONG in err
    assert "Traceback" not in err


def test_a_folder_of_another_owner_is_one_clear_error(
    idxflow: Shell, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    code, out, err = idxflow("run", "--dataset", "digits8x8")
    assert (code, out) == (1, "")
    assert err.count("error ") == 1
    assert f"error {root / 'prefect'}" in err
    assert "no permission to write (Operation not permitted)" in err


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_failing_server_is_one_clear_error(
    idxflow: Shell, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    """The root was deleted while a run was using it: Prefect raises one of several errors."""

    def fail(*_: object) -> None:
        request = httpx.Request("POST", "http://127.0.0.1/api")
        error = httpx.HTTPStatusError("500", request=request, response=httpx.Response(500))
        if wrapped:
            raise RuntimeError("Unable to acquire concurrency slots") from error
        raise error from OSError("connection refused")

    monkeypatch.setattr("flows.launch._serve_and_run", fail)
    code, out, err = idxflow("run", "--dataset", "digits8x8")
    assert (code, out) == (1, "")
    assert "error the Prefect server" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err
