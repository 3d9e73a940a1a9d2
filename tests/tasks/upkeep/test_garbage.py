"""What goes, what stays, and that nothing which stays is ever broken by what goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from pipeline_config.settings import CHECKOUT, settings
from tasks.bundle.contents import read_bundle
from tasks.release.by_hand import rollback
from tasks.release.journal import journal_path
from tasks.release.publish import Published, publish_model
from tasks.release.registry import is_current
from tasks.release.versions import published_versions
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import in_use
from tasks.runtime.manifest import inspect
from tasks.upkeep.garbage import YOUNG_S, collect
from tasks.upkeep.scrub import scrub

Publish = Callable[[int], Published]


def recipe_with(seed: int) -> Recipe:
    small = ("model.hidden=[6]", "training.epochs=2", "split.validation.rows=10", "floors={}")
    return load_recipe("fast", (*small, f"training.seed={seed}"))


@pytest.fixture
def publish(make_lineage) -> Publish:
    """`publish(seed)` publishes a model of its own."""
    return lambda seed: publish_model(make_lineage(recipe=recipe_with(seed)))


def grow_old() -> None:
    """Make everything below the root older than a day."""
    then = time.time() - YOUNG_S - 60
    for path in settings().root.rglob("*"):
        os.utime(path, (then, then))


def kinds(keep: int, *, dry_run: bool = False) -> dict[str, int]:
    found = [item.kind for item in collect(keep, dry_run=dry_run)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_old_versions_go_with_what_only_they_needed(publish):
    made = [publish(seed) for seed in range(4)]
    assert made[-1].champion == made[-1].version
    keep = {made[-1].version, made[-2].version}
    grow_old()
    before = journal_path("mnist").read_bytes()
    told = kinds(1, dry_run=True)
    assert len(published_versions("mnist")) == 4
    assert kinds(1) == told
    assert set(published_versions("mnist")) == keep
    # Trainings alone: all evaluations of this fixture have the same bytes, and stay for it.
    assert told == {"lock": 2, "page": 2, "stage output": 2, "version": 2}
    assert journal_path("mnist").read_bytes() == before
    assert all(inspect(path)[1] == [] for path in settings().stages.iterdir())
    assert scrub().damage == ()
    assert kinds(1) == {}


def test_what_stays_stays_a_hit_and_what_went_comes_back(publish, make_lineage):
    made = [publish(seed) for seed in range(3)]
    grow_old()
    collect(0)
    assert set(published_versions("mnist")) == {made[1].version, made[2].version}
    assert is_current("mnist", made[2].version) == []
    again = publish_model(make_lineage(recipe=recipe_with(0)))
    assert again.version == made[0].version
    assert not again.is_new, "the journal remembers what was decided"


def test_the_same_bytes_under_another_key_stay(publish):
    """As after an edit of the code that changes keys and no bytes: the bundle names the old one."""
    publish(0)
    (old,) = settings().stages.glob("train-*")
    new = old.with_name("train-0123456789abcdef")
    shutil.copytree(old, new)
    grow_old()
    collect(5)
    assert old.exists()
    assert new.exists()


def test_a_rollback_keeps_its_goal_and_tells_of_one_that_went(publish):
    first, second, third = (publish(seed) for seed in range(3))
    assert third.champion == third.version
    grow_old()
    collect(0)
    assert rollback("mnist").version == second.version
    with pytest.raises(ReleaseError, match=f"{first.version}.* it is missing"):
        rollback("mnist")


def test_young_things_stay_and_leftovers_go(publish):
    published = publish(0)
    orphan = settings().stages / "train-0123456789abcdef"
    orphan.mkdir()
    checkpoint = settings().checkpoints / "train-0123456789abcdef.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"half a training")
    for leftover in (
        settings().stages / ".train-0123.abc",
        settings().models / "mnist" / f".{published.version}.abc",
    ):
        (leftover / "half").mkdir(parents=True)
    (settings().models / "mnist" / ".champion.json.abc").write_bytes(b"{")
    home = settings().root / "prefect"
    (home / "results").mkdir(parents=True)
    (home / "results" / "train-0000000000000000").write_bytes(b"{}")
    for number in (1, 2):
        (home / f"embedded-{number}.db").write_bytes(b"rows")
    assert kinds(5) == {"leftover": 3, "record": 1, "database": 1}
    assert orphan.exists()
    assert checkpoint.exists()
    grow_old()
    assert kinds(5) == {"checkpoint": 1, "stage output": 1}
    assert not orphan.exists()
    assert read_bundle("mnist", published.version)[1] == []


def test_what_is_gone_already_is_no_error(publish, monkeypatch):
    for seed in range(3):
        publish(seed)
    grow_old()
    from tasks.upkeep import garbage

    real = garbage.find_garbage

    def gone(keep):
        items = list(real(keep))
        for item in items:
            path = Path(item.path)
            if path.is_file():
                path.unlink()
        return items

    monkeypatch.setattr(garbage, "find_garbage", gone)
    collect(0)
    assert len(published_versions("mnist")) >= 1


def test_it_waits_for_a_run_that_is_using_the_root(root, publish):
    publish(0)
    environment = {**os.environ, "IDXFLOW_ROOT": str(root), "PYTHONPATH": str(CHECKOUT)}
    program = "from tasks.upkeep.garbage import collect; collect(0); print('done')"
    with in_use(), in_use():
        child = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=3)
    assert child.communicate(timeout=60)[0] == b"done\n"
