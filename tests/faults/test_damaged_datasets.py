"""The validators, tested by mutation: a damaged data set is caught by name, or cannot be.

What cannot be makes a data set as good as the sound one. Only where the files are known beforehand,
as those of every data set that has a name, their digests catch that as well.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import rotate

from pipeline_config.datasets import FILES, named_dataset
from tasks.dataset.profile import profile
from tasks.dataset.splits import compare_splits
from tasks.dataset.validate import check_expectations
from tasks.evaluation.label_audit import find_label_errors
from tasks.raw.folder import folder_dataset
from tasks.raw.idx import read_idx, read_splits, write_idx
from tasks.raw.sources import obtain
from tasks.raw.tables import sklearn_digits
from tasks.runtime.errors import FetchError, RawDataError

# Train images and labels, then those of test; by canonical name.
Arrays = dict[str, np.ndarray]
Contents = dict[str, bytes]
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES
NUM_CLASSES = 10


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An IDXFLOW_ROOT without the laboratory."""
    monkeypatch.setenv("IDXFLOW_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Arrays:
    """scikit-learn's digits: 1,437 and 360 real images of 8×8 pixels."""
    folder = tmp_path_factory.mktemp("digits")
    return {name: np.array(read_idx(path)) for name, path, _ in sklearn_digits(folder)}


@pytest.fixture(scope="session")
def contents(digits, tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("contents")
    written(digits, folder)
    return {name: (folder / name).read_bytes() for name in FILES}


def written(arrays: Arrays, folder: Path) -> Path:
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return folder


def refused(folder: Path, target: Path) -> str:
    """The words with which files are refused that are not those of the data set with a name."""
    digits8x8 = named_dataset("digits8x8").model_copy(update={"sources": ()})
    with pytest.raises(FetchError) as caught:
        obtain(digits8x8, str(folder), target)
    return str(caught.value)


# Files: what a disk, a network or a hand can do to them


def swapped(contents: Contents, first: str, second: str) -> Contents:
    return {**contents, first: contents[second], second: contents[first]}


def with_header(content: bytes, place: int, size: int) -> bytes:
    start = 4 + 4 * place
    return content[:start] + size.to_bytes(4, "big") + content[start + 4 :]


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


BROKEN_FILES: dict[str, tuple[Callable[[Contents], Contents], str]] = {
    "truncated": (lambda f: {**f, IMAGES: f[IMAGES][:-1]}, "truncated data"),
    "empty": (lambda f: {**f, TEST_LABELS: b""}, "an empty file"),
    "too long": (lambda f: {**f, LABELS: f[LABELS] + b"\0"}, "trailing bytes"),
    "a count too high": (lambda f: {**f, IMAGES: with_header(f[IMAGES], 0, 1438)}, "truncated"),
    "images too narrow": (lambda f: {**f, IMAGES: with_header(f[IMAGES], 2, 7)}, "trailing bytes"),
    "another type": (lambda f: {**f, IMAGES: b"\0\0\x0d" + f[IMAGES][3:]}, "truncated data"),
    "a flipped magic number": (lambda f: {**f, IMAGES: flipped(f[IMAGES], 0)}, "magic number"),
    "a flipped bit in a gzip": (
        lambda f: {**f, LABELS: flipped(gzip.compress(f[LABELS]), 300)},
        "unreadable or damaged file",
    ),
    "labels and images swapped": (
        lambda f: swapped(f, IMAGES, LABELS),
        "the files are swapped",
    ),
    "the labels of the other split": (lambda f: swapped(f, LABELS, TEST_LABELS), "360 labels"),
    "one label fewer": (
        lambda f: {**f, LABELS: with_header(f[LABELS], 0, 1436)[:-1]},
        "1,436 labels, expected 1,437, one for each image",
    ),
    "one split in other dimensions": (
        lambda f: {**f, TEST_IMAGES: with_header(with_header(f[TEST_IMAGES], 1, 4), 2, 16)},
        "images of 4×16, expected 8×8 as in training",
    ),
    "a label out of range": (lambda f: {**f, LABELS: f[LABELS][:-1] + b"\x0a"}, "label 10 in row"),
    "a web page": (lambda f: {**f, IMAGES: b"<!doctype html>"}, "a web page (HTML)"),
}


@pytest.mark.parametrize("damage", BROKEN_FILES)
def test_a_broken_file_is_refused_whether_its_digest_is_known_or_not(tmp_path, contents, damage):
    break_files, words = BROKEN_FILES[damage]
    folder, target = tmp_path / "files", tmp_path / "target"
    folder.mkdir()
    target.mkdir()
    for name, content in break_files(contents).items():
        (folder / name).write_bytes(content)
    with pytest.raises(RawDataError) as caught:
        obtain(folder_dataset(folder, NUM_CLASSES), None, target)
        read_splits(target, NUM_CLASSES)
    assert words in str(caught.value)
    assert "digits8x8" in refused(folder, target)


# Rows: files that are sound by themselves


def inverted(images: np.ndarray) -> np.ndarray:
    return 255 - images


def transposed(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 1)


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


def one_bit(images: np.ndarray) -> np.ndarray:
    flat = images.flatten()
    flat[70] ^= 1
    return flat.reshape(images.shape)


def shuffled(labels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(labels)


def off_by_one(labels: np.ndarray) -> np.ndarray:
    """The labels of the rows before."""
    return np.roll(labels, 1)


def renumbered(labels: np.ndarray) -> np.ndarray:
    """Labels that count the classes from 1, with 10 for 0."""
    return (labels + 1) % NUM_CLASSES


def swapped_classes(labels: np.ndarray) -> np.ndarray:
    """4 for 9 and 9 for 4."""
    return np.array([0, 1, 2, 3, 9, 5, 6, 7, 8, 4], np.uint8)[labels]


def turned(images: np.ndarray) -> np.ndarray:
    """Images turned by 10°."""
    return np.round(rotate(images * 1.0, 10, axes=(2, 1), reshape=False, order=1)).astype(np.uint8)


def paler(images: np.ndarray) -> np.ndarray:
    return (images * 0.75).astype(np.uint8)


def each_with_a_flipped_bit(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[:, 3, 4] ^= 1
    return images


def shifted(images: np.ndarray) -> np.ndarray:
    """Images moved by a pixel to the right."""
    return np.pad(images, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]


def noisy(labels: np.ndarray, share: float = 0.01) -> np.ndarray:
    """A share of the labels replaced by another class."""
    chance = np.random.default_rng(0)
    rows = chance.choice(len(labels), round(len(labels) * share), replace=False)
    wrong = labels.copy()
    wrong[rows] = (wrong[rows] + chance.integers(1, NUM_CLASSES, len(rows))) % NUM_CLASSES
    return wrong


def on(change: Callable[[np.ndarray], np.ndarray], *names: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, **{name: change(arrays[name]) for name in names}}


def without(label: int, images: str, labels: str) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        kept = arrays[labels] != label
        return {**arrays, images: arrays[images][kept], labels: arrays[labels][kept]}

    return change


def copied(
    source: str, target: str, rows: int, change_images: Callable[[np.ndarray], np.ndarray] = np.copy
) -> Callable[[Arrays], Arrays]:
    """The first rows of one split, labels and all, appended to a split."""

    def change(arrays: Arrays) -> Arrays:
        return {
            **arrays,
            **{
                f"{target}-{kind}": np.concatenate(
                    [arrays[f"{target}-{kind}"], alter(arrays[f"{source}-{kind}"][:rows])]
                )
                for kind, alter in (
                    ("images-idx3-ubyte", change_images),
                    ("labels-idx1-ubyte", np.copy),
                )
            },
        }

    return change


def filled(name: str, rows: int, grey: int) -> Callable[[Arrays], Arrays]:
    def fill(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[:rows] = grey
        return images

    return on(fill, name)


BLANK = {"no-blank-images", "ink", "no-duplicates", "one-label"}
CAUGHT: dict[str, tuple[Callable[[Arrays], Arrays], set[str]]] = {
    "train labels shuffled": (
        on(shuffled, LABELS),
        {"labels-fit", "classes-alike", "train-labels-clean"},
    ),
    "test labels shuffled": (on(shuffled, TEST_LABELS), {"test-fits", "test-labels-clean"}),
    "all labels shuffled": (on(shuffled, LABELS, TEST_LABELS), {"labels-fit"}),
    "train labels off by one row": (
        on(off_by_one, LABELS),
        {"labels-fit", "classes-alike", "train-labels-clean"},
    ),
    "test labels renumbered": (on(renumbered, TEST_LABELS), {"test-fits", "classes-alike"}),
    "no train row of a class": (without(3, IMAGES, LABELS), {"train-classes!"}),
    "no test row of a class": (without(3, TEST_IMAGES, TEST_LABELS), {"test-classes!"}),
    "train rows twice": (copied("train", "train", 20), {"no-duplicates"}),
    "test rows in train": (copied("t10k", "train", 9), {"few-leaks!", "no-leaks"}),
    "train rows in test": (copied("train", "t10k", 9), {"few-leaks!", "no-leaks"}),
    "train images inverted": (
        on(inverted, IMAGES),
        {"splits-alike", "test-fits", "dark-edges", "ink", "classes-alike", "greys-alike"},
    ),
    "test images inverted": (
        on(inverted, TEST_IMAGES),
        {"splits-alike", "test-fits", "ink", "classes-alike", "greys-alike"},
    ),
    "all images inverted": (on(inverted, IMAGES, TEST_IMAGES), {"dark-edges", "ink"}),
    "train images transposed": (on(transposed, IMAGES), {"test-fits", "classes-alike"}),
    "test images transposed": (on(transposed, TEST_IMAGES), {"test-fits", "classes-alike"}),
    "test images mirrored": (
        on(mirrored, TEST_IMAGES),
        {"test-fits", "classes-alike", "not-mirrored"},
    ),
    "train images mirrored": (on(mirrored, IMAGES), {"test-fits", "classes-alike", "not-mirrored"}),
    "train images turned": (on(turned, IMAGES), {"not-turned", "greys-alike"}),
    "test images turned": (on(turned, TEST_IMAGES), {"not-turned", "greys-alike"}),
    "train images paler": (on(paler, IMAGES), {"greys-alike"}),
    "test images paler": (on(paler, TEST_IMAGES), {"greys-alike"}),
    "two train classes swapped": (on(swapped_classes, LABELS), {"classes-alike"}),
    "two test classes swapped": (on(swapped_classes, TEST_LABELS), {"classes-alike"}),
    "10 % train label noise": (on(partial(noisy, share=0.1), LABELS), {"train-labels-clean"}),
    "50 % train label noise": (on(partial(noisy, share=0.5), LABELS), {"train-labels-clean"}),
    "10 % test label noise": (on(partial(noisy, share=0.1), TEST_LABELS), {"test-labels-clean"}),
    "test rows in train, a bit off": (
        copied("t10k", "train", 20, each_with_a_flipped_bit),
        {"few-near-copies"},
    ),
    "test rows in train, shifted": (copied("t10k", "train", 20, shifted), {"few-near-copies"}),
    "a few images of one grey": (filled(IMAGES, 3, 90), BLANK),
    "many images of one grey": (filled(IMAGES, 30, 90), {"few-blank-images!", *BLANK}),
    "all train images zero": (
        filled(IMAGES, 1437, 0),
        {
            "few-blank-images!",
            *BLANK,
            "splits-alike",
            "labels-fit",
            "greys-alike",
            "train-labels-clean",
        },
    ),
    "grey levels of 0 to 15": (on(lambda a: a // 16, IMAGES, TEST_IMAGES), {"grey-levels"}),
}

CORE = {
    *("train labels shuffled", "test rows in train"),
    *("test images transposed", "all images inverted"),
    *("two train classes swapped", "10 % train label noise"),
}

# As good a data set as the sound one, but for its digests.
NOT_CAUGHT: dict[str, Callable[[Arrays], Arrays]] = {
    "all images transposed": on(transposed, IMAGES, TEST_IMAGES),
    "all images mirrored": on(mirrored, IMAGES, TEST_IMAGES),
    "all images of 4×16": on(lambda images: images.reshape(-1, 4, 16), IMAGES, TEST_IMAGES),
    "all labels renumbered": on(renumbered, LABELS, TEST_LABELS),
    "a flipped bit": on(
        lambda images: images ^ (np.arange(images.size) == 70).reshape(images.shape), IMAGES
    ),
    "a row missing": lambda a: {**a, IMAGES: a[IMAGES][1:], LABELS: a[LABELS][1:]},
    "1 % label noise": on(noisy, LABELS),
    "10 % label noise in both splits": on(partial(noisy, share=0.1), LABELS, TEST_LABELS),
    "two classes swapped in both splits": on(swapped_classes, LABELS, TEST_LABELS),
    "all images turned": on(turned, IMAGES, TEST_IMAGES),
    "all images paler": on(paler, IMAGES, TEST_IMAGES),
    "train and test exchanged": lambda a: dict(
        zip(FILES, [a[name] for name in FILES[2:] + FILES[:2]], strict=True)
    ),
}


def found(arrays: Arrays) -> set[str]:
    """The expectations that a data set breaks; critical ones, which stop a run, with a !."""
    train, test = ((arrays[IMAGES], arrays[LABELS]), (arrays[TEST_IMAGES], arrays[TEST_LABELS]))
    outcomes = check_expectations(
        profile(*train), profile(*test), NUM_CLASSES, compare_splits(train, test)
    )
    return {
        outcome["name"] + "!" * (outcome["severity"] == "critical")
        for outcome in outcomes
        if not outcome["success"]
    }


def some(damages: Iterable[str]) -> list[object]:
    """Great Expectations takes half a second: all of them only in `make test-all`."""
    return [
        pytest.param(damage, marks=[] if damage in CORE else pytest.mark.exhaustive)
        for damage in damages
    ]


@pytest.mark.parametrize("damage", some(CAUGHT))
def test_damaged_rows_are_caught_by_name(digits, damage):
    change, names = CAUGHT[damage]
    assert found(change(digits)) == names


@pytest.mark.parametrize("damage", some(NOT_CAUGHT))
def test_what_no_validator_can_know(digits, damage):
    assert found(NOT_CAUGHT[damage](digits)) == set()


@pytest.mark.parametrize("damage", [*CAUGHT, *NOT_CAUGHT])
def test_a_digest_that_is_known_catches_them_all(tmp_path, digits, damage):
    change = NOT_CAUGHT.get(damage) or CAUGHT[damage][0]
    folder, target = tmp_path / "files", tmp_path / "target"
    folder.mkdir()
    target.mkdir()
    assert "expected" in refused(written(change(digits), folder), target)


def test_label_noise_is_what_the_audit_finds(digits):
    """Out-of-fold probabilities of a linear model, and nine of ten wrong labels are named."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import cross_val_predict

    labels = noisy(digits[LABELS]).astype(np.int64)
    wrong = set(np.flatnonzero(labels != digits[LABELS]))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    pixels = digits[IMAGES].reshape(len(labels), -1).astype(np.float64)
    probabilities = cross_val_predict(model, pixels, labels, cv=5, method="predict_proba")
    suspects = find_label_errors(probabilities, labels).suspects["row"].to_pylist()
    assert len(wrong) == 14
    assert len(wrong & set(suspects)) >= 13
    assert len(wrong & set(suspects[:14])) >= 10
