"""Verify: whatever is damaged is named, in a bundle, a copy of one, a journal or a pointer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from flows.cli.models import verify
from pipeline_config.settings import settings
from tasks.dataset.table import read_rows, read_split
from tasks.model.checkpoint import Checkpoint
from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import (
    GOLDEN,
    NUM_GOLDEN,
    bundle_folder,
    evenly,
    read_golden,
)
from tasks.release.journal import Candidate
from tasks.release.pages import MARK
from tasks.release.publish import publish
from tasks.release.registry import promote
from tasks.release.verify import Check, scrub, verify_bundle, verify_bundles
from tasks.runtime.errors import ReleaseError

BUNDLE = ("manifest", "files", "recipe", "weights", "ONNX model")
REGISTRY = ("journal", "looks", "champion")
Reseal = Callable[..., Path]


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.verdict for check in checks}


def damaged(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.detail for check in checks if check.verdict == "damaged"}


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_published_bundle_is_intact(bundle: Path) -> None:
    checks = verify_bundles()
    assert [check.what for check in checks] == [*BUNDLE, *REGISTRY]
    assert {check.verdict for check in checks} == {"ok"}
    assert {check.subject for check in checks} == {f"mnist/{bundle.name}", "mnist"}
    assert checks == verify_bundles([bundle])


def test_an_empty_root_has_no_damage(root: Path) -> None:
    assert verify_bundles() == []
    assert not root.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "recipe.yaml", GOLDEN])
def test_a_damaged_file_is_named_and_not_parsed(bundle: Path, name: str) -> None:
    flip(bundle / name, 40)
    checks = verify_bundle(bundle)
    assert damaged(checks) == {"files": f"{name}: its SHA-256 changed"}
    skipped = [check for check in checks if check.verdict == "skipped"]
    assert skipped
    assert {check.detail for check in skipped} == {f"{name}: its SHA-256 changed"}
    assert (verdicts(checks)["weights"] == "ok") == (name == "model.onnx")


@pytest.mark.parametrize("rounds", [8, pytest.param(150, marks=pytest.mark.exhaustive)])
def test_any_flipped_bit_is_detected(bundle: Path, rounds: int) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    for _ in range(rounds):
        path = chance.choice(files)
        content = path.read_bytes()
        place = chance.randrange(len(content))
        flip(path, place, chance.randrange(8))
        told = damaged(verify_bundle(bundle))
        assert path.name in " ".join(told.values()), f"seed {seed}, {path.name} at {place}"
        path.write_bytes(content)
    assert not damaged(verify_bundle(bundle))


def test_weights_of_another_network_are_found_by_the_golden_pairs(
    bundle: Path, reseal: Reseal
) -> None:
    """Every digest holds, as if somebody had swapped the file before it was hashed."""
    weights = load_file(bundle / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight") and weights[name].ndim == 2)
    weights[name] = weights[name] + np.float32(0.01)
    save_file(weights, bundle / "model.safetensors")
    bundle = reseal(bundle)
    told = damaged(verify_bundle(bundle))
    assert set(told) == {"weights"}
    assert "images that differ by up to" in told["weights"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"\xff" * 5000, b"[: {", b"{}"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "recipe.yaml", GOLDEN])
def test_garbage_with_the_right_digest_is_damage(
    bundle: Path, reseal: Reseal, name: str, content: bytes
) -> None:
    (bundle / name).write_bytes(content)
    bundle = reseal(bundle)
    told = damaged(verify_bundle(bundle))
    expected = {"model.safetensors": "weights", "model.onnx": "ONNX model", "recipe.yaml": "recipe"}
    assert expected.get(name, "weights") in told
    assert all("\n" not in detail for detail in told.values())


def test_golden_pairs_of_a_wrong_form_are_damage(bundle: Path, reseal: Reseal) -> None:
    images, said = read_golden(bundle / GOLDEN)
    for wrong in (
        {"images": images},
        {"images": images[:0], "probabilities": said[:0]},
        {"images": np.tile(images, (9, 1, 1)), "probabilities": np.tile(said, (9, 1))},
        {"images": images, "probabilities": said[:-1]},
        {"images": images.reshape(len(images), -1), "probabilities": said},
        {"images": images.astype(np.float32), "probabilities": said},
        {"images": images, "probabilities": np.full_like(said, np.nan)},
    ):
        save_file(wrong, bundle / GOLDEN)
        bundle = reseal(bundle)
        assert set(damaged(verify_bundle(bundle))) == {"weights", "ONNX model"}


def test_a_foreign_model_with_the_right_digest_is_not_run(
    bundle: Path, reseal: Reseal, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.graph.node[-1].op_type = "Hardmax"
    onnx.save(model, bundle / "model.onnx")
    bundle = reseal(bundle)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    assert "layers that the export does not write" in damaged(verify_bundle(bundle))["ONNX model"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"dataset": NaN}', b"\xff"])
def test_an_unreadable_manifest_is_one_check(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    assert verdicts(verify_bundle(bundle)) == {"manifest": "damaged"}


def test_a_forged_manifest_is_detected(bundle: Path) -> None:
    content = (bundle / "manifest.json").read_text()
    for wrong in (
        content.replace('"threads": 1', '"threads": NaN'),
        content.replace('"threads": 1', '"threads": 2'),
        content.replace(f'"{bundle.name}"', '"000000000000"'),
        content.replace("{", "{ ", 1),
    ):
        assert wrong != content
        (bundle / "manifest.json").write_text(wrong)
        assert verdicts(verify_bundle(bundle))["manifest"] == "damaged"


def test_a_recipe_of_another_version_is_detected(bundle: Path, reseal: Reseal) -> None:
    text = (bundle / "recipe.yaml").read_text()
    (bundle / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    bundle = reseal(bundle)
    assert set(damaged(verify_bundle(bundle))) == {"recipe"}


def test_a_copy_needs_nothing_but_its_folder(bundle: Path, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "on another machine"
    shutil.copytree(bundle, copy)
    shutil.rmtree(root)
    checks = verify_bundles([copy])
    assert [(check.what, check.verdict) for check in checks] == [(what, "ok") for what in BUNDLE]
    assert not root.exists()
    flip(copy / "metrics.json", 0)
    assert set(damaged(verify_bundle(copy))) == {"files"}
    shutil.rmtree(copy)
    assert damaged(verify_bundle(copy)) == {"manifest": "it is missing"}


def test_missing_golden_pairs_are_reported(bundle: Path, reseal: Reseal) -> None:
    (bundle / GOLDEN).unlink()
    bundle = reseal(bundle)
    checks = verify_bundle(bundle)
    assert not damaged(checks)
    assert verdicts(checks)["weights"] == verdicts(checks)["ONNX model"] == "skipped"
    assert f"has no {GOLDEN}" in checks[-1].detail


def cut_a_line(folder: Path) -> None:
    path = folder / "journal.jsonl"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"accuracy": 0.99}, sort_keys=True) + "\n")


def tear(folder: Path) -> None:
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"seq": 2')


def forget(folder: Path) -> None:
    for name in ("journal.jsonl", "champion.json"):
        (folder / name).unlink()


def lose_the_manifest(folder: Path) -> None:
    next(folder.glob("*/manifest.json")).unlink()


def lose_the_bundle(folder: Path) -> None:
    shutil.rmtree(next(folder.glob("*/manifest.json")).parent)


def rename_the_bundle(folder: Path) -> None:
    next(folder.glob("*/manifest.json")).parent.rename(folder / ("0" * 12))


HARMS: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    "changed line": (cut_a_line, {"journal", "champion"}, "line 1 is damaged"),
    "torn line": (tear, {"journal"}, "torn"),
    "no journal": (lambda f: (f / "journal.jsonl").unlink(), {"journal", "champion"}, "no line"),
    "forgotten": (forget, {"journal"}, "no line is about"),
    "no pointer": (lambda f: (f / "champion.json").unlink(), {"champion"}, "missing"),
    "other pointer": (lambda f: (f / "champion.json").write_text("{}"), {"champion"}, "not say"),
    "no manifest": (lose_the_manifest, {"manifest"}, "unreadable"),
    "no bundle": (lose_the_bundle, {"champion"}, "is gone"),
    "renamed": (rename_the_bundle, {"manifest", "journal", "champion"}, "of another bundle"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_records_are_named(bundle: Path, harm: str) -> None:
    do, expected, told = HARMS[harm]
    do(bundle.parent)
    found = damaged(verify_bundles())
    assert set(found) == expected
    assert told in " ".join(found.values())


def test_a_journal_without_one_line_is_damaged(bundle: Path) -> None:
    for number in range(3):
        name = f"{number:012x}"
        candidate = Candidate(version=name, recipe="fast", accuracy=0.9, competes=True)
        promote("mnist", candidate, "a test")
    path = bundle.parent / "journal.jsonl"
    first, second, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *others]))
    assert "line 2" in damaged(verify_bundles())["journal"]
    path.write_bytes(b"".join([first, second, *others]))
    assert "journal" not in damaged(verify_bundles())


def test_the_command_prints_every_check_and_ends_with_an_error(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(None)
    assert capsys.readouterr().out.count(" ok ") == len(BUNDLE) + len(REGISTRY)
    verify([bundle.name[:5], "champion", str(bundle)], as_json=True)
    assert json.loads(capsys.readouterr().out)["intact"] is True
    (bundle / "report.html").unlink()
    with pytest.raises(ReleaseError, match=r"files: found report\.html: missing"):
        verify([str(bundle)], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["intact"] is False
    assert {check["what"] for check in printed["checks"]} == {*BUNDLE, *REGISTRY}
    with pytest.raises(ReleaseError, match="no published version"):
        verify(["nowhere"])


def test_it_works_offline_and_without_prefect(bundle: Path) -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*given): raise OSError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from flows.cli.models import verify\n"
        "verify(None)\n"
        "sys.exit('prefect' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ok ") == len(BUNDLE) + len(REGISTRY)


def test_golden_images_are_never_test_rows(make_lineage: Callable[..., Lineage]) -> None:
    lineage = make_lineage()
    manifest, _ = ensure_bundle(lineage)
    golden, output = read_golden(bundle_folder("mnist", manifest.version) / GOLDEN)
    images, _ = read_rows(lineage.table, read_split(lineage.normalized).validation)
    wanted = {image.tobytes() for image in images}
    assert {image.tobytes() for image in golden} == wanted
    assert output.sum(axis=1) == pytest.approx(np.ones(len(wanted)), abs=1e-6)


@pytest.mark.parametrize("num_rows", [1, 2, NUM_GOLDEN, NUM_GOLDEN + 1, 1000])
def test_golden_rows_are_spread_over_all_rows(num_rows: int) -> None:
    chosen = evenly(num_rows, NUM_GOLDEN)
    assert len(set(chosen.tolist())) == len(chosen) == min(num_rows, NUM_GOLDEN)
    assert (chosen[0], chosen[-1]) == (0, num_rows - 1)


@pytest.fixture
def version(make_lineage: Callable[..., Lineage]) -> str:
    """The version of a published champion, beside a checkpoint."""
    path = settings().checkpoints / "train-0.safetensors"
    path.parent.mkdir(parents=True)
    Checkpoint(path, 0).save({}, {"epoch": 1})
    return publish.fn(make_lineage()).version


def test_scrub_finds_no_damage_in_an_intact_root(version: str) -> None:
    assert scrub().damage == ()
    assert scrub().looked_at == {
        "stage outputs": 6,
        "versions": 1,
        "journals": 1,
        "checkpoints": 1,
    }


@pytest.mark.parametrize(
    ("pattern", "subject", "what", "remedy"),
    [
        ("stages/train-*/model.safetensors", "stages/train-", "stage output", "runs train again"),
        ("stages/fetch-*/manifest.json", "stages/fetch-", "stage output", "runs fetch again"),
        ("models/mnist/*/model.onnx", "mnist/", "files", "builds it anew"),
        ("models/mnist/*/golden.safetensors", "mnist/", "files", "builds it anew"),
        ("models/mnist/*.html", "mnist/", "page", "written again"),
        ("models/mnist/champion.json", "mnist", "champion", "repairs a torn last line"),
        ("models/mnist/journal.jsonl", "mnist", "journal", "is lost"),
        ("models/mnist/looks.jsonl", "mnist", "looks", "is lost"),
        ("checkpoints/train-0.safetensors", "checkpoints/train-0", "checkpoint", "starts again"),
    ],
)
def test_scrub_names_damage_and_its_remedy(
    version: str, pattern: str, subject: str, what: str, remedy: str
) -> None:
    path = next(settings().root.glob(pattern))
    if path.suffix == ".jsonl":
        path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
    else:
        flip(path, path.stat().st_size // 2)
    (first, *_) = [check for check in scrub().damage if check.what == what]
    assert first.subject.startswith(subject)
    assert remedy in first.remedy


def test_a_missing_champion_and_a_lost_manifest_are_named(version: str) -> None:
    folder = settings().models / "mnist" / version
    (folder / "manifest.json").unlink()
    assert scrub().looked_at["versions"] == 1
    assert "unreadable" in damaged(list(scrub().damage))["manifest"]
    shutil.rmtree(folder)
    assert f"the bundle of {version} is gone" in damaged(list(scrub().damage))["champion"]


def test_a_page_of_an_earlier_version_is_rewritten_but_not_damaged(version: str) -> None:
    """Such a page has other words around the decisions, and no digest at its end."""
    path = settings().models / "mnist" / f"{version}.html"
    before, _, after = (path.with_suffix("") / "report.html").read_text().partition(MARK.decode())
    right = path.read_text()
    for old, is_damaged in ((f"{before}It is champion.{after}", False), ("scribbled over", True)):
        path.write_text(old)
        assert [check.what for check in scrub().damage] == ["page"] * is_damaged
        assert path.read_text() == right
    assert scrub().damage == ()
