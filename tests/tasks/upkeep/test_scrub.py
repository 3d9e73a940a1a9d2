"""Damage of every kind is named, with what becomes of it; an intact root has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_config.settings import settings
from tasks.release.publish import publish_model
from tasks.upkeep.scrub import LOST, scrub


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def version(make_lineage) -> str:
    checkpoints = settings().checkpoints
    published = publish_model(make_lineage())
    checkpoints.mkdir()
    from tasks.model.checkpoint import Checkpoint

    Checkpoint(checkpoints / "train-0.safetensors", 0).save({}, {"epoch": 1})
    return published.version


def test_an_intact_root_has_no_damage(version):
    found = scrub()
    assert found.damage == ()
    assert found.looked_at == {
        "stage outputs": 6,
        "versions": 1,
        "journals": 1,
        "checkpoints": 1,
    }


@pytest.mark.parametrize(
    ("pattern", "what", "remedy"),
    [
        ("stages/train-*/model.safetensors", "stages/train-", "runs train again"),
        ("stages/fetch-*/manifest.json", "stages/fetch-", "runs fetch again"),
        ("models/mnist/*/model.onnx", "models/mnist/", "builds its bundle again"),
        ("models/mnist/*/golden.safetensors", "models/mnist/", "builds its bundle again"),
        ("models/mnist/*.html", ".html", "written again"),
        ("models/mnist/champion.json", "champion.json", "in line with the journal"),
        ("models/mnist/journal.jsonl", "journal.jsonl", LOST),
        ("models/mnist/looks.jsonl", "looks.jsonl", LOST),
        ("checkpoints/train-0.safetensors", "train-0", "begins anew"),
    ],
)
def test_damage_is_named_with_what_becomes_of_it(version, pattern, what, remedy):
    path = next(settings().root.glob(pattern))
    if path.suffix in {".jsonl"}:
        path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
    else:
        flip(path)
    told = scrub().damage
    assert any(what in damage.what and remedy in damage.remedy for damage in told), told


def test_a_champion_that_is_gone_and_a_lost_manifest_are_named(version):
    folder = settings().models / "mnist" / version
    (folder / "manifest.json").unlink()
    told = [damage.found for damage in scrub().damage if version in damage.what]
    assert any("manifest" in found for found in told)
    assert any("the champion's bundle is gone" in found for found in told)
    assert scrub().looked_at["versions"] == 1
