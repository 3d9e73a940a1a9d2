"""What goes, what stays, and that nothing which stays is ever broken by what goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_config.datasets import named_dataset
from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from pipeline_config.settings import CHECKOUT, settings
from tasks.release import garbage
from tasks.release.bundle import inspect_bundle, published_versions
from tasks.release.garbage import YOUNG_S, collect
from tasks.release.journal import journal_path
from tasks.release.publish import publish as publish_task
from tasks.release.registry import Decision, is_current, rollback
from tasks.release.verify import scrub, verify_bundles
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import root_lock, write_atomically
from tasks.runtime.stages import AUDIT
from tasks.runtime.store import build, inspect

Publish = Callable[[int], Decision]


def recipe_with(seed: int) -> Recipe:
    small = ("model.hidden=[6]", "training.epochs=2", "split.validation.rows=10", "floors={}")
    return load_recipe("fast", (*small, f"training.seed={seed}"))


@pytest.fixture
def publish(make_lineage) -> Publish:
    """`publish(seed)` publishes a model of its own."""
    return lambda seed: publish_task.fn(make_lineage(recipe=recipe_with(seed)))


def grow_old() -> None:
    """Make everything below the root older than a day."""
    then = time.time() - YOUNG_S - 60
    for path in settings().root.rglob("*"):
        os.utime(path, (then, then))


def kinds(keep: int, *, dry_run: bool = False) -> dict[str, int]:
    found = [item.kind for item in collect(keep, dry_run=dry_run)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_old_versions_are_removed_with_what_only_they_needed(publish):
    made = [publish(seed) for seed in range(4)]
    assert made[-1].champion == made[-1].version
    # The first champion is the reference of them all.
    keep = {made[0].version, made[-1].version, made[-2].version}
    grow_old()
    before = journal_path("mnist").read_bytes()
    told = kinds(1, dry_run=True)
    assert len(published_versions("mnist")) == 4
    assert kinds(1) == told
    assert set(published_versions("mnist")) == keep
    # Trainings alone: all evaluations of this fixture have the same bytes, and stay for it.
    assert told == {"lock": 1, "page": 1, "stage output": 1, "version": 1}
    assert journal_path("mnist").read_bytes() == before
    assert all(inspect(path)[1] == [] for path in settings().stages.iterdir())
    assert scrub().damage == ()
    assert kinds(1) == {}


def test_kept_versions_are_hits_and_removed_ones_can_be_rebuilt(publish, make_lineage):
    made = [publish(seed) for seed in range(4)]
    grow_old()
    collect(0)
    kept = {made[place].version for place in (0, 2, 3)}
    assert set(published_versions("mnist")) == kept
    assert is_current("mnist", made[3].version) == []
    again = publish_task.fn(make_lineage(recipe=recipe_with(1)))
    assert again.version == made[1].version
    assert not again.is_new, "the journal remembers what was decided"


def test_the_same_bytes_under_another_key_are_kept(publish):
    """As after an edit of the code that changes keys and no bytes: the bundle names the old one."""
    publish(0)
    (old,) = settings().stages.glob("train-*")
    new = old.with_name("train-0123456789abcdef")
    shutil.copytree(old, new)
    grow_old()
    collect(5)
    assert old.exists()
    assert new.exists()


def test_the_target_of_a_rollback_is_kept(publish):
    first, second, third, last = (publish(seed) for seed in range(4))
    assert last.champion == last.version
    grow_old()
    collect(0)
    entry = rollback("mnist")
    assert (entry.version, entry.reference) == (third.version, first.version)
    with pytest.raises(ReleaseError, match=f"{second.version}.* it is missing"):
        rollback("mnist")


def test_young_files_are_kept_and_leftovers_removed(publish):
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
    assert inspect_bundle(published.path)[1] == []


def test_a_file_that_is_already_gone_is_no_error(publish, monkeypatch):
    for seed in range(3):
        publish(seed)
    grow_old()
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
    program = "from tasks.release.garbage import collect; collect(0); print('done')"
    with root_lock(), root_lock():
        child = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=3)
    assert child.communicate(timeout=60)[0] == b"done\n"


def test_a_label_audit_is_kept_with_what_it_was_made_from(publish, make_lineage):
    """README: what is trained for a fold is kept."""
    published = publish_task.fn(make_lineage(recipe=recipe_with(0)))
    fold = make_lineage(recipe=recipe_with(7))
    given = {
        "table": fold.table,
        "normalized": (fold.normalized,),
        "trained": (fold.trained,),
        "model": fold.recipe.model,
        "class_names": ["0"],
    }
    for number in range(3):
        given["class_names"] = [str(number)]
        build(AUDIT, given, lambda folder, number=number: {"number": number})
    grow_old()
    collect(1)
    assert fold.trained.path.exists()
    assert len(list(settings().stages.glob("audit-*"))) == 1
    collect(0)
    assert not fold.trained.path.exists()
    assert is_current("mnist", published.version) == []


def test_unneeded_pages_locks_and_scratch_folders_are_removed(publish):
    publish(0)
    root = settings().root
    for name in ("rejected/validate-0", "rejected/.validate-1.abc", "scratch/reproduce-0"):
        (root / name).mkdir(parents=True)
    (root / "locks" / "models-gone.lock").touch()
    (root / "prefect").mkdir()
    for name in ("embedded-1.log", "embedded-2.log", "embedded-2.db", "embedded-2.lock"):
        (root / "prefect" / name).touch()
    assert (root / "locks" / "models-mnist.lock").exists()
    assert kinds(5) == {"database": 3, "leftover": 2, "lock": 1}
    assert (root / "rejected/validate-0").exists(), "its error may still be on the screen"
    grow_old()
    assert kinds(5) == {"page": 1}
    assert (root / "locks" / "models-mnist.lock").exists()
    assert (root / "prefect/embedded-1.log").exists()


@pytest.mark.parametrize("name", ["mnist", "digits-12345678"])
def test_only_the_champion_of_an_abandoned_folder_is_kept(make_lineage, monkeypatch, name):
    dataset = named_dataset("mnist").model_copy(update={"name": name, "content": "0" * 64})
    first, _, made = (
        publish_task.fn(make_lineage(recipe=recipe_with(seed), dataset=dataset))
        for seed in range(3)
    )
    grow_old()
    assert len(kinds(5)) == 0
    later = datetime.now(UTC) + garbage.ABANDONED + timedelta(hours=1)
    monkeypatch.setattr(
        garbage,
        "datetime",
        SimpleNamespace(now=lambda zone: later, fromisoformat=datetime.fromisoformat),
    )
    told = kinds(5)
    versions = set(published_versions(name))
    if name == "mnist":
        assert told == {}
        assert len(versions) == 3
    else:
        assert told == {"lock": 10, "page": 1, "stage output": 10, "version": 1}
        assert versions == {first.version, made.version}
        assert verify_bundles([made.path])[0].verdict == "ok"


def test_temporary_files_of_killed_commands_are_removed(tmp_path):
    out = tmp_path / "answers[1].json"
    left = [tmp_path / f".answers[1].json.{name}" for name in ("abcdefgh", "abcdefgi")]
    for path in left:
        path.mkdir()
    then = time.time() - YOUNG_S - 60
    os.utime(left[0], (then, then))
    write_atomically(out, b"[]")
    assert [path.exists() for path in left] == [False, True]
