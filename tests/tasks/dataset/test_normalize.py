import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from pipeline_config.recipe import Split
from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import ConfigError
from tasks.dataset.convert import convert
from tasks.dataset.normalize import fit, normalize, split_rows
from tasks.dataset.table import read_split
from tasks.runtime.errors import ValidationError

OFFICIAL, NONE = {"kind": "official"}, {"kind": "none"}


def split_of(test=OFFICIAL, validation=NONE):
    return Split.model_validate({"test": test, "validation": validation})


@pytest.fixture
def table(stages):
    return convert.fn(*stages, "made-up")


shares = st.floats(0.05, 0.6)
seeds = st.integers(0, 2**32 - 1)
test_parts = st.one_of(
    st.just(OFFICIAL),
    st.builds(lambda share, seed: {"kind": "pooled", "share": share, "seed": seed}, shares, seeds),
)
validation_parts = st.one_of(
    st.just(NONE),
    st.builds(lambda rows: {"kind": "last", "rows": rows}, st.integers(1, 20)),
    st.builds(
        lambda share, seed: {"kind": "stratified", "share": share, "seed": seed}, shares, seeds
    ),
)


@given(test_parts, validation_parts, st.integers(100, 200), seeds)
def test_the_parts_are_disjoint_complete_and_reproducible(test, validation, num_rows, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(num_rows) % 4)
    split = split_of(test, validation)
    parts = split_rows(split, labels, num_rows * 3 // 4)
    everything = np.concatenate([parts.train, parts.validation, parts.test])
    assert np.array_equal(np.sort(everything), np.arange(num_rows))
    assert len(parts.train) and len(parts.test)
    assert {part.dtype for part in (parts.train, parts.validation, parts.test)} == {
        np.dtype("int64")
    }
    again = split_rows(split, labels, num_rows * 3 // 4)
    assert all(np.array_equal(getattr(parts, name), rows) for name, rows in again._asdict().items())


@given(shares, seeds, st.lists(st.integers(20, 90), min_size=2, max_size=5))
def test_a_stratified_share_is_to_the_nearest_row_of_each_class(share, seed, sizes):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = split_of(validation={"kind": "stratified", "share": share, "seed": seed})
    parts = split_rows(split, np.append(labels, [0, 1]), len(labels))
    held = np.bincount(labels[parts.validation], minlength=len(sizes))
    assert np.all(np.abs(held - share * np.array(sizes)) <= 0.5 + 1e-9)


def test_the_last_rows_are_taken_in_the_order_of_the_files():
    parts = split_rows(split_of(validation={"kind": "last", "rows": 2}), np.zeros(10, int), 7)
    assert [rows.tolist() for rows in parts] == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_a_pooled_test_split_is_that_of_scikit_learn():
    split = split_of({"kind": "pooled", "share": 0.2, "seed": 42}, {"kind": "last", "rows": 11})
    parts = split_rows(split, np.zeros(70, np.int64), 60)
    rest, test = train_test_split(np.arange(70), test_size=0.2, random_state=42)
    assert np.array_equal(parts.test, test)
    assert np.array_equal(np.concatenate([parts.train, parts.validation]), rest)
    assert len(parts.validation) == 11


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        (split_of(validation={"kind": "last", "rows": 8}), [0, 1] * 5, "only 8 rows"),
        (
            split_of(validation={"kind": "stratified", "share": 0.2, "seed": 0}),
            [0, 0, 0, 0, 0, 0, 1, 1, 0, 1],
            "2 rows of class 1, 0 of them for validation",
        ),
        (
            split_of(validation={"kind": "stratified", "share": 0.95, "seed": 0}),
            [0, 1] * 5,
            "4 rows of class 0, 4 of them for validation",
        ),
        (
            split_of({"kind": "pooled", "share": 0.95, "seed": 0}),
            [0, 1] * 5,
            "10 rows, none left to train on",
        ),
    ],
)
def test_a_part_without_rows_is_a_config_error(split, labels, message):
    with pytest.raises(ConfigError, match=message):
        split_rows(split, np.array(labels), 8)


@pytest.mark.parametrize(("num_rows", "fits"), [(5_200, False), (9_999, False), (10_000, True)])
def test_at_most_half_of_the_rows_are_for_validation(num_rows, fits):
    """The recipe `fast` is used on a folder that is smaller than MNIST."""
    split, labels = load_recipe("fast").split, np.zeros(num_rows + 10, np.int64)
    if fits:
        parts = split_rows(split, labels, num_rows)
        assert (len(parts.train), len(parts.validation)) == (5_000, 5_000)
        return
    with pytest.raises(ConfigError) as caught:
        split_rows(split, labels, num_rows)
    # The remedies in the message work.
    setting = re.search(r"--set (split\.validation\.rows=\d+)", caught.value.remedy)[1]
    parts = split_rows(load_recipe("fast", (setting,)).split, labels, num_rows)
    assert len(parts.validation) == num_rows // 10
    setting = re.search(r"--set '(.*)'", caught.value.remedy)[1]
    parts = split_rows(load_recipe("fast", (setting,)).split, labels, num_rows)
    assert len(parts.train) == num_rows


def test_the_stage_writes_the_parts_and_the_scaling(table, arrays):
    split = split_of(validation={"kind": "last", "rows": 10})
    normalized = normalize.fn(table, split, "standard")
    parts = read_split(normalized)
    assert [len(rows) for rows in parts] == [30, 10, 30]
    facts = normalized.facts
    assert facts["rows"] == {"train": 30, "validation": 10, "test": 30}
    assert (facts["scaling"], facts["pooled"]) == ("standard", False)
    assert facts["mean"] == pytest.approx(arrays.train_images[:30].mean())
    assert facts["std"] == pytest.approx(arrays.train_images[:30].std())
    assert normalize.fn(table, split, "standard", refresh=True) == normalized


@pytest.mark.parametrize(("scaling", "numbers"), [("none", (0.0, 1.0)), ("unit", (0.0, 255.0))])
def test_scalings_none_and_unit_are_constants(table, scaling, numbers):
    facts = normalize.fn(table, split_of(), scaling).facts
    assert (facts["mean"], facts["std"]) == numbers


def test_the_facts_of_a_pooled_split_name_it(table):
    split = split_of({"kind": "pooled", "share": 0.2, "seed": 42})
    normalized = normalize.fn(table, split, "unit")
    assert normalized.facts["pooled"] is True
    assert normalized.facts["rows"] == {"train": 56, "validation": 0, "test": 14}
    assert len(read_split(normalized).validation) == 0


@given(seeds)
def test_the_scaling_does_not_depend_on_the_order_of_the_rows(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (25, 12)).astype(np.uint8)
    fitted = fit("standard", images)
    assert fit("standard", rng.permutation(images)) == fitted
    assert fitted == pytest.approx((images.mean(), images.std()))


def test_fitting_large_images_takes_little_memory():
    """The bound is for eight images of 1 MB, of which bincount converts one at a time."""
    images = np.random.default_rng(0).integers(0, 256, (8, 1 << 20), np.uint8)
    tracemalloc.start()
    try:
        fitted = fit("standard", images)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fitted == pytest.approx((images.mean(), images.std()))
    assert most < 12 * images[0].size


def test_images_without_spread_cannot_be_standardized():
    images = np.full((5, 4), 7, np.uint8)
    with pytest.raises(ValidationError, match="the same grey level 7 in every pixel"):
        fit("standard", images)


def folds_of(labels, num_train, folds, seed, test=OFFICIAL):
    """Return the parts of each fold."""
    kind = {"kind": "fold", "folds": folds, "seed": seed}
    splits = [split_of(test, {**kind, "fold": fold}) for fold in range(folds)]
    return [split_rows(split, labels, num_train) for split in splits]


@given(test_parts, st.integers(2, 7), seeds, st.lists(st.integers(30, 60), min_size=2, max_size=4))
def test_folds_are_disjoint_complete_and_stratified(test, folds, seed, sizes):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    if test["kind"] == "pooled":
        test = {**test, "share": 0.1}
    num_train = len(labels) - 5
    parts = folds_of(labels, num_train, folds, seed, test)
    rest = np.setdiff1d(np.arange(len(labels)), parts[0].test)
    held = [part.validation for part in parts]
    assert np.array_equal(np.sort(np.concatenate(held)), rest)
    for part in parts:
        assert np.array_equal(part.test, parts[0].test)
        assert np.array_equal(np.sort(np.concatenate([part.train, part.validation])), rest)
        assert np.all(np.diff(part.train) > 0) and np.all(np.diff(part.validation) > 0)
    counts = np.array([np.bincount(labels[rows], minlength=len(sizes)) for rows in held])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1
    again = folds_of(labels, num_train, folds, seed, test)
    assert all(
        np.array_equal(a.validation, b.validation) for a, b in zip(parts, again, strict=True)
    )


def test_another_seed_gives_other_folds():
    labels = np.arange(200) % 4
    first, second = (folds_of(labels, 190, 5, seed)[0].validation for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_a_class_with_fewer_rows_than_folds_is_a_config_error():
    with pytest.raises(ConfigError, match="found 2 rows of class 1"):
        folds_of(np.array([0, 0, 0, 0, 1, 1, 0, 1]), 6, 3, 0)


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_fold_out_of_range_is_refused(fold):
    with pytest.raises(ValueError, match="fold"):
        split_of(validation={"kind": "fold", "fold": fold, "folds": 3, "seed": 0})
