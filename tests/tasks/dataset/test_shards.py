"""Shards of new rows: their names, their journal, what is admitted, and what trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline_config.datasets import Dataset, named_dataset
from pipeline_config.recipe import Split
from pipeline_config.sections import ConfigError
from tasks.dataset.admit import ROWS, admit
from tasks.dataset.convert import RECENT_SHARE, assemble, convert
from tasks.dataset.incoming import collect_incoming, incoming_folder, take_in, waiting_files
from tasks.dataset.normalize import split_with_shards
from tasks.dataset.profile import profile
from tasks.dataset.shards import (
    ADMITTED,
    IMAGES,
    LABELS,
    QUARANTINED,
    RELEASED,
    RETRACTED,
    Shard,
    ShardEvent,
    arrive,
    decide,
    find_shard,
    read_events,
    read_shard,
    shards_journal,
    standing,
    training_shards,
)
from tasks.dataset.table import read_labels, read_rows
from tasks.raw.idx import read_splits, write_idx
from tasks.raw.sources import obtain
from tasks.runtime.errors import RawDataError
from tasks.runtime.manifest import read_chain
from tasks.runtime.stages import FETCH, VALIDATE
from tasks.runtime.store import StageRef, build

NAME = "digits8x8"
OFFICIAL = Split.model_validate(
    {"test": {"kind": "official"}, "validation": {"kind": "last", "rows": 100}}
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = tmp_path_factory.mktemp("digits")
    obtain(named_dataset(NAME), None, folder)
    return {split: (np.array(a), np.array(b)) for split, (a, b) in read_splits(folder, 10).items()}


@pytest.fixture
def created(digits) -> tuple[StageRef, StageRef]:
    """The outputs of fetch and validate for all but the last 500 training rows."""
    images, labels = digits["train"]
    arrays = {"train": (images[:-500], labels[:-500]), "test": digits["test"]}

    def write_raw(folder: Path) -> dict[str, object]:
        for split, (images_NHW, labels_N) in arrays.items():
            prefix = "train" if split == "train" else "t10k"
            write_idx(folder / f"{prefix}-images-idx3-ubyte", images_NHW)
            write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels_N)
        return {"sha256": {}, "num_bytes": {}}

    def write_profiles(folder: Path) -> dict[str, object]:
        for split, pair in arrays.items():
            pq.write_table(profile(*pair), folder / f"{split}.profile.parquet")
        rows = {split: len(pair[1]) for split, pair in arrays.items()}
        return {"num_classes": 10, "image_shape": [8, 8], "rows": rows}

    raw = build(FETCH, {"dataset": named_dataset(NAME)}, write_raw)
    return raw, build(VALIDATE, {"raw": raw, "num_classes": 10}, write_profiles)


@pytest.fixture
def fresh(digits) -> tuple[np.ndarray, np.ndarray]:
    """500 rows that the created data set does not have."""
    images, labels = digits["train"]
    return images[-500:].copy(), labels[-500:].copy()


def judged(created, images, labels) -> tuple[StageRef, list[dict]]:
    ref = admit.fn(*created, arrive(NAME, images, labels))
    return ref, json.loads((ref.path / "report.json").read_bytes())["findings"]


def failed(created, images, labels) -> list[str]:
    return [each["check"] for each in judged(created, images, labels)[1] if not each["passed"]]


def test_the_same_rows_in_any_order_are_one_shard(fresh):
    images, labels = fresh
    order = np.random.default_rng(0).permutation(500)
    shard = arrive(NAME, images, labels)
    assert arrive(NAME, images[order], labels[order]) == shard
    assert np.array_equal(read_shard(shard)[0], images), "the rows that came first are kept"
    assert arrive(NAME, images, (labels + 1) % 10) != shard
    assert len(training_shards(NAME)) == 2


def test_changed_rows_are_one_clear_error(fresh):
    shard = arrive(NAME, *fresh)
    write_idx(shard.path / LABELS, (fresh[1] + 1) % 10)
    with pytest.raises(ConfigError, match="other rows"):
        read_shard(shard)


def test_the_journal_says_which_shards_train(fresh):
    images, labels = fresh
    good, bad = arrive(NAME, images[:250], labels[:250]), arrive(NAME, images[250:], labels[250:])
    assert decide(good, ADMITTED, "fine", 250)
    assert not decide(good, QUARANTINED, "another verdict", 250), "a shard is judged once"
    assert decide(bad, QUARANTINED, "not fine", 250, b"<p>why</p>")
    assert training_shards(NAME) == (good,)
    assert not bad.path.exists()
    assert (bad.quarantine / "report.html").read_bytes() == b"<p>why</p>"
    assert arrive(NAME, images[250:], labels[250:]) == bad, "it stays in quarantine"
    assert not bad.path.exists()
    assert decide(bad, RELEASED, "rare, but right")
    assert training_shards(NAME) == (good, bad.model_copy(update={"released": True}))
    assert decide(good, RETRACTED, "labelled by mistake")
    assert not decide(good, RETRACTED, "again")
    assert [shard.digest for shard in training_shards(NAME)] == [bad.digest]
    assert [event.event for event in read_events(NAME)] == [
        "admitted",
        "quarantined",
        "released",
        "retracted",
    ]
    assert {event.rows for event in read_events(NAME)} == {250}
    assert read_chain(shards_journal(NAME), ShardEvent)[1] == []
    assert (good.path / IMAGES).exists(), "the rows of a retracted shard are kept"


def test_a_killed_move_is_completed_by_the_next_command(fresh):
    shard = arrive(NAME, *fresh)
    decide(shard, QUARANTINED, "not fine", 500)
    shard.quarantine.rename(shard.path)
    decide(Shard(dataset=NAME, digest="0" * 16), QUARANTINED, "another", 0)
    assert shard.quarantine.exists()
    assert not shard.path.exists()


def test_shards_are_found_by_the_beginning_of_their_digest(fresh):
    shard = arrive(NAME, *fresh)
    assert find_shard(NAME, shard.digest[:4]) == shard
    with pytest.raises(ConfigError, match="no such shard"):
        find_shard(NAME, "zz")


def test_clean_and_drifted_rows_are_admitted(created, fresh):
    images, labels = fresh
    ref, _ = judged(created, images, labels)
    assert (ref.facts["verdict"], ref.facts["kept"]) == ("admitted", 500)
    dark = (images * 0.5).astype(np.uint8)
    turned = np.rot90(images, axes=(1, 2))
    for changed in (dark, turned, 16 - images):
        assert failed(created, np.ascontiguousarray(changed), labels) == []


def test_labels_that_do_not_fit_are_refused(created, fresh):
    images, labels = fresh
    chance = np.random.default_rng(0)
    assert failed(created, images, chance.permutation(labels)) == ["labels fit"]
    some = labels.copy()
    some[:250] = chance.permutation(some[:250])
    assert failed(created, images, some) == ["labels fit"]
    assert failed(created, images[:60], chance.permutation(labels[:60])) == [], "too few to tell"


def test_test_rows_are_refused_and_named(created, fresh, digits):
    images, labels = fresh
    images[[3, 70]], labels[[3, 70]] = digits["test"][0][:2], digits["test"][1][:2]
    ref, _ = judged(created, images, labels)
    assert ref.facts["verdict"] == "quarantined"
    assert ref.facts["reason"] == "2 rows are test rows of the data set (row 3, row 70)"
    assert ref.facts["kept"] == 498, "released or not, a test row never trains"
    page = (ref.path / "report.html").read_text()
    assert page.count("<img") >= 2
    assert "<script" not in page


def test_copies_conflicts_and_blank_images_are_left_out(created, fresh, digits):
    images, labels = fresh
    images[0], labels[0] = digits["train"][0][0], digits["train"][1][0]
    images[1], labels[1] = images[2], labels[2]
    images[3], labels[3] = images[4], (labels[4] + 1) % 10
    images[5] = 0
    ref, findings = judged(created, images, labels)
    assert ref.facts["verdict"] == "admitted"
    kept = pq.read_table(ref.path / ROWS)
    assert sorted({*range(500)} - {*kept["index"].to_pylist()}) == [0, 2, 3, 4, 5]
    assert {each["check"]: each["rows"] for each in findings} == {
        "test rows": [],
        "labels fit": [],
        "blank images": [5],
        "copies": [0, 2],
        "one label an image": [3, 4],
    }
    images[:10] = 0
    assert failed(created, images, labels) == ["blank images"]


def test_rows_of_another_form_are_refused(created, fresh):
    images, labels = fresh
    assert failed(created, images[:, :7], labels) == ["form"]
    assert failed(created, images, labels + 10) == ["form"]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_order_and_any_split_into_shards_give_the_same_rows(chance, num_shards):
    rows = np.random.default_rng(0)
    images = rows.integers(0, 256, (60, 3, 3)).astype(np.uint8)
    images[40:50] = images[:10]
    labels = np.resize(np.arange(3), 60).astype(np.uint8)
    labels[40:45], labels[45:50] = labels[:5], (labels[5:10] + 1) % 3
    table = profile(images, labels).append_column("image", [[each.tobytes() for each in images]])
    order = list(range(60))
    whole, recent, left_out = assemble([table])
    chance.shuffle(order)
    parts = [table.take(order[start::num_shards]) for start in range(num_shards)]
    mixed, mixed_recent, mixed_out = assemble(parts)
    names = ["sha256", "label", "image"]
    assert mixed.select(names).to_pylist() == whole.select(names).to_pylist()
    assert mixed_recent.select(names).to_pylist() == recent.select(names).to_pylist()
    assert left_out == mixed_out == 10
    assert len(whole) + len(recent) == 45
    firsts = [int.from_bytes(row["sha256"][:4]) / 2**32 for row in recent.to_pylist()]
    assert max(firsts, default=0) < RECENT_SHARE


def test_shards_train_and_nothing_else_changes(created, fresh):
    images, labels = fresh
    pairs = [(images[:250], labels[:250]), (images[250:], labels[250:])]
    shards = tuple(admit.fn(*created, arrive(NAME, *pair)) for pair in pairs)
    before, after = convert.fn(*created, NAME), convert.fn(*created, NAME, shards)
    for name in ("train.parquet", "test.parquet"):
        assert before.manifest.files[name] == after.manifest.files[name]
    counts = after.facts["rows"]
    assert counts["shards"] + counts["recent"] == 500
    assert 60 <= counts["recent"] <= 140
    old, new = split_with_shards(OFFICIAL, before), split_with_shards(OFFICIAL, after)
    assert np.array_equal(old.test, new.test)
    assert np.array_equal(old.validation, new.validation)
    added = new.train[len(old.train) :]
    assert np.array_equal(new.train[: len(old.train)], old.train)
    assert len(added) == counts["shards"]
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    pixels, classes = read_rows(after, added)
    assert all(known[row.tobytes()] == label for row, label in zip(pixels, classes, strict=True))
    assert len(read_labels(after)) == sum(counts.values())
    pooled = {"test": {"kind": "pooled", "share": 0.3, "seed": 0}, "validation": {"kind": "none"}}
    with pytest.raises(ConfigError, match="shards"):
        split_with_shards(Split.model_validate(pooled), after)


def write_pair(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    write_idx(folder / IMAGES, images)
    write_idx(folder / LABELS, labels)
    return folder


def test_what_lies_in_incoming_is_taken_in_once(fresh, tmp_path):
    images, labels = fresh
    folder = incoming_folder(NAME)
    write_pair(folder / "monday", images, labels)
    write_pair(folder / "again under another name", images[::-1], labels[::-1])
    write_pair(folder / ".hidden", images[:9], labels[:9])
    write_pair(folder / "half.part", images[:9], labels[:9])
    assert len(waiting_files(NAME)) == 2
    collect_incoming(named_dataset(NAME))
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", "half.part"]
    (shard,) = training_shards(NAME)
    assert len(read_shard(shard)[1]) == 500


def test_what_cannot_be_read_goes_to_quarantine_with_the_reason(fresh):
    folder = write_pair(incoming_folder(NAME) / "tuesday", *fresh)
    content = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes(content[:-100])
    collect_incoming(named_dataset(NAME))
    ((name, last),) = standing(NAME).items()
    assert last.event == QUARANTINED
    assert "100 bytes" in last.reason or "truncated" in last.reason
    kept = Shard(dataset=NAME, digest=name).quarantine / "tuesday" / IMAGES
    assert kept.read_bytes() == content[:-100]
    assert training_shards(NAME) == ()
    assert waiting_files(NAME) == []


def test_labels_out_of_range_are_refused(fresh, tmp_path):
    folder = write_pair(tmp_path / "wrong", fresh[0], fresh[1] + 1)
    dataset: Dataset = named_dataset(NAME)
    with pytest.raises(RawDataError, match="a label 10 and 10 class names"):
        take_in(dataset, folder)
    Image.new("L", (8, 8)).save(tmp_path / "picture.png")
    with pytest.raises(RawDataError):
        take_in(dataset, tmp_path / "picture.png")
