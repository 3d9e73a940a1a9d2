"""Versions and bundles: what names them, what is in them, and what happens to damaged ones."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline_config.recipe import Expectation
from pipeline_config.recipe_files import load_recipe
from pipeline_config.settings import settings
from tasks.raw.folder import folder_dataset
from tasks.release import assemble
from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import bundle_folder, inspect_bundle
from tasks.runtime.errors import ReleaseError


def version(lineage: Lineage) -> str:
    return lineage.determinants.version


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_recipe(lineage: Lineage, **changes) -> Lineage:
    recipe = lineage.recipe.model_copy(update=changes)
    return Lineage(**{**vars(lineage), "recipe": recipe})


def test_the_version_follows_what_determines_the_model(make_lineage):
    lineage = make_lineage()
    training = lineage.recipe.training.model_copy(update={"epochs": 3})
    others = [
        make_lineage(data=1),
        make_lineage(accuracy=0.95),
        with_recipe(lineage, training=training),
        with_recipe(lineage, competes=False),
        with_recipe(lineage, name="other"),
    ]
    versions = {version(lineage), *map(version, others)}
    assert len(versions) == 1 + len(others)
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in versions)


def test_the_version_ignores_words_and_the_clock(make_lineage):
    lineage = make_lineage()
    expected = Expectation(dataset="mnist", accuracy=0.5, seconds=1)
    assert version(with_recipe(lineage, description="x", expected=expected)) == version(lineage)
    path, before = lineage.trained.path / "manifest.json", version(lineage)
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "clock": {"started": "2001-01-01", "seconds": 9}}))
    assert version(lineage) == before


def test_a_bundle_is_complete(make_lineage):
    lineage = make_lineage()
    manifest, done = ensure_bundle(lineage)
    folder = bundle_folder("mnist", manifest.version)
    assert done == "built"
    assert manifest.version == version(lineage)
    assert inspect_bundle(bundle_folder("mnist", manifest.version)) == (manifest, [])
    assert {*manifest.files} == {
        "model.safetensors",
        "model.onnx",
        "golden.safetensors",
        "likeness.safetensors",
        "recipe.yaml",
        "metrics.json",
        "probabilities.parquet",
        "README.md",
        "MLmodel",
        "report.html",
        "validation/report.html",
        "validation/report.json",
        *(f"figures/{name}.png" for name in ("confusion_matrix", "history", "misclassified")),
        *(f"figures/{name}.png" for name in ("per_class", "samples", "reliability", "coverage")),
    }
    origin = manifest.provenance
    assert (origin["device"], origin["threads"], origin["seed"]) == ("cpu", 1, 0)
    assert {"torch", "onnx", "python"} <= {*origin["libraries"]}
    assert {"tasks.release.onnx_export", "tasks.model.network"} <= {*origin["modules"]}
    loaded = load_recipe(str(folder / "recipe.yaml"))
    assert loaded == lineage.recipe.model_copy(update={"expected": None})


def test_the_same_content_twice_gives_one_folder(make_lineage):
    first = ensure_bundle(make_lineage())[0]
    folder = bundle_folder("mnist", first.version)
    before, inode = contents(folder), folder.stat().st_ino
    assert ensure_bundle(make_lineage()) == (first, "found intact")
    assert folder.stat().st_ino == inode
    assert contents(folder) == before
    assert [path.name for path in settings().models.joinpath("mnist").iterdir()] == [first.version]


def test_building_again_gives_the_same_bytes(make_lineage, monkeypatch, tmp_path):
    folder = bundle_folder("mnist", ensure_bundle(make_lineage())[0].version)
    monkeypatch.setenv("IDXFLOW_ROOT", str(tmp_path / "elsewhere"))
    again = bundle_folder("mnist", ensure_bundle(make_lineage())[0].version)
    assert again != folder
    assert contents(again) == contents(folder)


def test_a_bundle_holds_no_times_and_no_paths(make_lineage, root):
    folder = bundle_folder("mnist", ensure_bundle(make_lineage())[0].version)
    for name, content in contents(folder).items():
        assert str(root).encode() not in content, name
        assert datetime.now(UTC).date().isoformat().encode() not in content, name


@pytest.mark.parametrize("damage", ["flip", "remove", "add", "truncate the manifest", "manifest"])
def test_a_damaged_bundle_is_built_again(make_lineage, damage, caplog):
    manifest = ensure_bundle(make_lineage())[0]
    folder = bundle_folder("mnist", manifest.version)
    before = contents(folder)
    target = folder / ("manifest.json" if "manifest" in damage else "model.onnx")
    if damage == "remove":
        target.unlink()
    elif damage == "add":
        (folder / "notes.txt").write_text("mine")
    elif damage.startswith("truncate"):
        target.write_bytes(target.read_bytes()[:100])
    elif damage == "manifest":
        target.write_text(target.read_text().replace('"threads": 1', '"threads": 2'))
    else:
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    told = inspect_bundle(folder)[1]
    assert len(told) == 1
    rebuilt, done = ensure_bundle(make_lineage())
    assert (rebuilt, contents(folder)) == (manifest, before)
    assert done == f"built again: {told[0]}"
    assert told[0] in caplog.text


def test_a_stage_output_that_changed_is_refused(make_lineage):
    lineage = make_lineage()
    (lineage.evaluated.path / "figures" / "samples.png").write_bytes(b"other")
    with pytest.raises(ReleaseError, match=r"samples\.png"):
        ensure_bundle(lineage)
    assert not list(settings().models.rglob("*.*"))


def test_a_bundle_under_another_name_is_damaged(make_lineage):
    manifest = ensure_bundle(make_lineage())[0]
    bundle_folder("mnist", manifest.version).rename(bundle_folder("mnist", "0" * 12))
    assert "of another bundle" in inspect_bundle(bundle_folder("mnist", "0" * 12))[1][0]
    assert inspect_bundle(bundle_folder("mnist", manifest.version)) == (None, ["it is missing"])


def test_large_probabilities_are_left_out(make_lineage, monkeypatch):
    monkeypatch.setattr(assemble, "MAX_PROBABILITIES_BYTES", 5)
    assert "probabilities.parquet" not in ensure_bundle(make_lineage())[0].files


def test_the_path_of_a_local_folder_is_not_published(make_lineage, tmp_path):
    source = tmp_path / "my digits"
    source.mkdir()
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (source / name).write_bytes(b"\0\0\x08\x03" + b"\0" * 12)
        (source / name.replace("images-idx3", "labels-idx1")).write_bytes(b"\0\0\x08\x01\0\0\0\0")
    dataset = folder_dataset(source)
    manifest = ensure_bundle(make_lineage(dataset=dataset))[0]
    for name, content in contents(bundle_folder(dataset.name, manifest.version)).items():
        assert str(tmp_path).encode() not in content, name
