"""Versions and bundles: what names them, what is in them, and what happens to damaged ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline_config.recipe import Expectation
from pipeline_config.recipe_files import load_recipe
from pipeline_config.settings import settings
from tasks.bundle import assemble
from tasks.bundle.assemble import ensure_bundle
from tasks.bundle.contents import bundle_folder, read_bundle, version_of
from tasks.bundle.lineage import Lineage
from tasks.bundle.report import thinned
from tasks.raw.folder import folder_dataset
from tasks.runtime.errors import ReleaseError
from tasks.runtime.store import Clock, Manifest


def version(lineage: Lineage) -> str:
    return version_of(
        lineage.recipe,
        lineage.table.facts,
        lineage.trained.manifest,
        lineage.evaluated.manifest,
    )


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
    trained: Manifest = lineage.trained.manifest
    later = trained.model_copy(update={"clock": Clock(started="2001-01-01", seconds=9)})
    told = version_of(lineage.recipe, lineage.table.facts, later, lineage.evaluated.manifest)
    assert told == version(lineage)


def test_a_bundle_is_whole(make_lineage):
    lineage = make_lineage()
    manifest, done = ensure_bundle(lineage)
    folder = bundle_folder("mnist", manifest.version)
    assert done == "built"
    assert manifest.version == version(lineage)
    assert read_bundle("mnist", manifest.version) == (manifest, [])
    assert {*manifest.files} == {
        "model.safetensors",
        "model.onnx",
        "golden.safetensors",
        "recipe.yaml",
        "metrics.json",
        "probabilities.parquet",
        "model_card.md",
        "report.html",
        "validation/report.html",
        "validation/report.json",
        *(f"figures/{name}.png" for name in ("confusion_matrix", "history", "misclassified")),
        *(f"figures/{name}.png" for name in ("per_class", "samples", "reliability", "coverage")),
    }
    origin = manifest.provenance
    assert (origin["device"], origin["threads"], origin["seed"]) == ("cpu", 1, 0)
    assert {"torch", "onnx", "python"} <= {*origin["libraries"]}
    assert {"tasks.bundle.onnx_export", "tasks.model.network"} <= {*origin["modules"]}
    loaded = load_recipe(str(folder / "recipe.yaml"))
    assert loaded == lineage.recipe.model_copy(update={"expected": None})


def test_the_same_content_twice_is_one_folder(make_lineage):
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


def test_nothing_in_a_bundle_says_when_or_where(make_lineage, root):
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
    told = read_bundle("mnist", manifest.version)[1]
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


def test_stages_of_different_runs_are_refused(make_lineage):
    lineage, other = make_lineage(), make_lineage(data=1)
    mixed = Lineage(**{**vars(lineage), "trained": other.trained})
    with pytest.raises(
        ReleaseError, match="publishing the output of train: found that it was made"
    ):
        ensure_bundle(mixed)


def test_a_bundle_under_another_name_is_damaged(make_lineage):
    manifest = ensure_bundle(make_lineage())[0]
    bundle_folder("mnist", manifest.version).rename(bundle_folder("mnist", "0" * 12))
    assert "of another bundle" in read_bundle("mnist", "0" * 12)[1][0]
    assert read_bundle("mnist", manifest.version) == (None, ["it is missing"])


def test_probabilities_stay_out_where_they_are_large(make_lineage, monkeypatch):
    monkeypatch.setattr(assemble, "MAX_PROBABILITIES_BYTES", 5)
    assert "probabilities.parquet" not in ensure_bundle(make_lineage())[0].files


VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects what a page would load and whether its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "srcset", "href", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("pooled", [False, True])
def test_the_report_is_well_formed_and_loads_nothing(make_lineage, pooled):
    folder = bundle_folder("mnist", ensure_bundle(make_lineage(pooled=pooled))[0].version)
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert page.tags.count("img") == 7
    assert not {"script", "link", "iframe"} & {*page.tags}
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "&lt;1 % of the pixels" in text
    assert ("pooled test split" in text) == pooled
    assert ("pooled test split" in (folder / "model_card.md").read_text()) == pooled


def test_a_local_folder_keeps_its_place_to_itself(make_lineage, tmp_path):
    source = tmp_path / "my digits"
    source.mkdir()
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (source / name).write_bytes(b"\0\0\x08\x03" + b"\0" * 12)
        (source / name.replace("images-idx3", "labels-idx1")).write_bytes(b"\0\0\x08\x01\0\0\0\0")
    dataset = folder_dataset(source)
    manifest = ensure_bundle(make_lineage(dataset=dataset))[0]
    for name, content in contents(bundle_folder(dataset.name, manifest.version)).items():
        assert str(tmp_path).encode() not in content, name


def test_a_long_history_is_thinned():
    history = [{"epoch": epoch} for epoch in range(1, 501)]
    shown = [row["epoch"] for row in thinned(history)]
    assert (len(shown), shown[0], shown[-1]) == (20, 1, 500)
    assert shown == sorted(set(shown))
    assert thinned(history[:20]) == history[:20]
