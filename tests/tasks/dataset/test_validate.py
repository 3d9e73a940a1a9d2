import json
import os

import numpy as np
import pytest

from tasks.dataset.profile import frame_of, profile
from tasks.dataset.splits import Differences
from tasks.dataset.validate import check_expectations, validate
from tasks.raw.idx import read_idx
from tasks.raw.tables import sklearn_digits
from tasks.runtime.errors import RawDataError, StorageError, ValidationError

FITTING = {"train": 1.0, "test": 1.0}
FIGURES = ("swapped", "train_noise", "test_noise", "mirrored", "turned")


def unlike(num_test, **figures):
    """Differences of two splits that are alike, but for these figures."""
    return Differences(FITTING, dict.fromkeys(FIGURES, 0.0) | figures, np.full(num_test, -1))


def outcomes_of(arrays, num_classes=3):
    train = profile(arrays.train_images, arrays.train_labels)
    test = profile(arrays.test_images, arrays.test_labels)
    return {
        outcome["name"]: outcome
        for outcome in check_expectations(train, test, num_classes, unlike(len(test)))
    }


def failed(outcomes):
    return {name for name, outcome in outcomes.items() if not outcome["success"]}


def with_images(arrays, split, changes):
    images = getattr(arrays, f"{split}_images").copy()
    for index, image in changes.items():
        images[index] = image
    return arrays.changed(**{f"{split}_images": images})


def test_a_sound_data_set_passes(arrays, make_raw):
    raw = make_raw(arrays)
    checked = validate.fn(raw, 3)
    assert checked.facts == {
        "num_classes": 3,
        "image_shape": [6, 5],
        "rows": {"train": 40, "test": 30},
        "expectations": 24,
        "warnings": 0,
    }
    assert set(checked.manifest.files) == {
        "report.json",
        "report.html",
        "train.profile.parquet",
        "test.profile.parquet",
    }
    report = json.loads((checked.path / "report.json").read_bytes())
    assert report["verdict"] == "passed"
    assert report["sha256"] == raw.facts["sha256"]
    assert report["classes"] == {"train": [14, 13, 13], "test": [10, 10, 10]}
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_scikit_learns_digits_pass_as_they_are(tmp_path, arrays, make_raw):
    files = [path for _, path, _ in sklearn_digits(tmp_path)]
    read = {field: read_idx(path) for field, path in zip(vars(arrays), files, strict=True)}
    digits = arrays.changed(**read)
    assert validate.fn(make_raw(digits), 10).facts["warnings"] == 0


def test_the_report_of_a_warning_names_its_rows_and_is_reproducible(many, make_raw):
    raw = make_raw(with_images(many, "train", {3: 0}))
    checked = validate.fn(raw, 3)
    assert checked.facts["warnings"] == 2
    report = json.loads((checked.path / "report.json").read_bytes())
    assert (report["verdict"], report["warnings"]) == ("passed", ["no-blank-images", "ink"])
    assert report["expectations"][0]["rows"] == ["train[3]"]
    page = (checked.path / "report.html").read_text(encoding="utf-8")
    assert "Passed, with 2 warnings" in page and "<code>train[3]</code>" in page
    assert validate.fn(raw, 3, refresh=True) == checked


def test_a_rejection_is_explained_and_its_report_is_kept(arrays, make_raw, root):
    raw = make_raw(with_images(arrays, "test", {2: arrays.train_images[17]}))
    with pytest.raises(ValidationError) as caught:
        validate.fn(raw, 3)
    error = caught.value
    assert error.what == "the data set, expectation few-leaks"
    assert error.found == "1 of 30 rows (test[2] = train[17])"
    assert "Drop the copies" in error.remedy
    (rejected,) = (root / "rejected").iterdir()
    assert str(rejected / "report.html") in error.remedy
    assert not list((root / "stages").glob("*validate-*"))

    report = json.loads((rejected / "report.json").read_bytes())
    assert (report["verdict"], report["critical"]) == ("rejected", ["few-leaks"])
    first = report["expectations"][0]
    assert (first["name"], first["severity"], first["success"]) == ("few-leaks", "critical", False)
    assert first["rows"] == ["test[2] = train[17]"]
    page = (rejected / "report.html").read_text(encoding="utf-8")
    assert "Rejected" in page and "test[2]" in page and "train[17]" in page

    with pytest.raises(ValidationError):
        validate.fn(raw, 3)
    assert [path.name for path in (root / "rejected").iterdir()] == [rejected.name]


def test_the_page_is_self_contained(arrays, make_raw):
    checked = validate.fn(make_raw(arrays.changed(test_images=arrays.test_images // 2)), 3)
    page = (checked.path / "report.html").read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "<link" not in page
    assert page.count("src=") == page.count('src="data:image/png;base64,')
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_the_error_counts_the_rows_and_names_five(arrays, make_raw):
    raw = make_raw(with_images(arrays, "train", dict.fromkeys(range(8), 0)))
    with pytest.raises(ValidationError, match=r"8 of 70 rows \(.*train\[4\]\)") as caught:
        validate.fn(raw, 3)
    assert "few-blank-images" in caught.value.what


def test_a_missing_class_is_critical(arrays):
    twos = arrays.train_labels == 2
    few = arrays.changed(
        train_images=arrays.train_images[~twos], train_labels=arrays.train_labels[~twos]
    )
    outcomes = outcomes_of(few)
    assert failed(outcomes) == {"train-classes"}
    assert outcomes["train-classes"]["severity"] == "critical"
    assert outcomes["train-classes"]["observed"] == "no rows of class 2"
    assert failed(outcomes_of(arrays, num_classes=4)) == {"train-classes", "test-classes"}


def test_a_label_out_of_range_is_refused_before_any_expectation(arrays, make_raw, root):
    """The structure of the files is checked before the expectations."""
    labels = arrays.train_labels.copy()
    labels[5] = 10
    broken = arrays.changed(train_labels=labels)
    assert "labels" not in outcomes_of(arrays)
    with pytest.raises(RawDataError, match="label 10 in row 5") as caught:
        validate.fn(make_raw(broken), 3, "the folder /home/me/digits")
    assert caught.value.what == "train-labels-idx1-ubyte of the folder /home/me/digits"
    assert not list((root / "stages").glob("*validate-*"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({3: 0}, {"no-blank-images": ["train[3]"], "ink": ["train[3]"]}),
        (
            {3: 250},
            {
                "no-blank-images": ["train[3]"],
                "no-saturated-images": ["train[3]"],
                "ink": ["train[3]"],
            },
        ),
    ],
)
def test_blank_and_saturated_images_are_warnings(many, changes, expected):
    outcomes = outcomes_of(with_images(many, "train", changes))
    assert {name: outcomes[name]["rows"] for name in failed(outcomes)} == expected
    assert {outcomes[name]["severity"] for name in expected} == {"warning"}


def test_copies_are_named_with_their_originals(arrays):
    copies = with_images(arrays, "train", {7: arrays.train_images[20]})
    outcomes = outcomes_of(copies)
    assert failed(outcomes) == {"no-duplicates", "one-label"}
    rows = ["train[7] = train[20]", "train[20] = train[7]"]
    assert outcomes["no-duplicates"]["rows"] == outcomes["one-label"]["rows"] == rows


@pytest.mark.parametrize("too_many", [False, True])
def test_an_expectation_with_a_share_fails_just_above_it(too_many):
    rng = np.random.default_rng(2)
    rows = 2000
    images = rng.integers(0, 256, (2 * rows, 4, 4)).astype(np.uint8)
    labels = (np.arange(rows) % 2).astype(np.uint8)
    train, test = images[:rows].copy(), images[rows:].copy()
    train[: round(0.01 * 2 * rows) + too_many] = 0
    leaks = round(0.001 * rows) + too_many
    test[:leaks] = train[-leaks:]
    found = check_expectations(profile(train, labels), profile(test, labels), 2, unlike(rows))
    outcomes = {outcome["name"]: outcome for outcome in found}
    assert outcomes["few-blank-images"]["success"] is not too_many
    assert outcomes["few-leaks"]["success"] is not too_many
    assert not outcomes["no-blank-images"]["success"] and not outcomes["no-leaks"]["success"]


def test_imbalance_few_rows_dark_images_and_unlike_splits_are_warnings(arrays):
    labels = np.where(np.arange(40) < 32, 0, arrays.train_labels).astype(np.uint8)
    outcomes = outcomes_of(arrays.changed(train_labels=labels))
    assert failed(outcomes) == {"class-balance", "row-counts"}

    dim = arrays.changed(
        train_images=arrays.train_images // 16, test_images=arrays.test_images // 16
    )
    assert "grey-levels" in failed(outcomes_of(dim))

    dense = np.maximum(arrays.test_images, np.arange(30, dtype=np.uint8).reshape(6, 5) % 3)
    outcomes = outcomes_of(arrays.changed(test_images=dense))
    assert failed(outcomes) == {"splits-alike"}
    assert outcomes["splits-alike"]["severity"] == "warning"


def test_a_full_disk_raises_a_storage_error_and_leaves_no_output(
    arrays, make_raw, root, monkeypatch
):
    raw = make_raw(with_images(arrays, "test", {2: arrays.train_images[17]}))

    def full(folder, report, page):
        (folder / "report.json").write_bytes(b"{")
        raise OSError(28, "No space left on device", str(folder / "report.json"))

    monkeypatch.setattr("tasks.dataset.validate._write_report", full)
    with pytest.raises(StorageError, match="no room to write"):
        validate.fn(raw, 3)
    assert not list((root / "rejected").iterdir())
    assert not list((root / "stages").glob("*validate-*"))


def test_an_expectation_that_fails_to_run_is_an_error(arrays, monkeypatch):
    monkeypatch.setattr(
        "tasks.dataset.validate.frame_of",
        lambda *given: frame_of(*given).drop(columns="twin_labels"),
    )
    with pytest.raises(RuntimeError, match="one-label failed to run"):
        outcomes_of(arrays)
