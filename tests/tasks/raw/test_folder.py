"""Tests of folders as data sets: the files that are found, their names and their faults."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest

from pipeline_config.datasets import FILES
from pipeline_config.sections import ConfigError
from tasks.raw.folder import folder_dataset, survey
from tasks.raw.idx import SPLITS
from tasks.raw.sources import obtain
from tasks.runtime.errors import RawDataError

VARIANTS = {
    "train-images-idx3-ubyte": "train-images.idx3-ubyte",
    "train-labels-idx1-ubyte": "Train_Labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte": "test-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte": "t10k-labels.idx1-ubyte",
}


def write_files(raw, folder, names) -> None:
    for name, file in names.items():
        content = (raw / name).read_bytes()
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)


def same_as(raw, folder) -> bool:
    return all((folder / name).read_bytes() == (raw / name).read_bytes() for name in FILES)


def message_of(path) -> str:
    with pytest.raises(RawDataError) as caught:
        folder_dataset(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "names", [dict(zip(FILES, FILES, strict=True)), {n: f"{n}.gz" for n in FILES}, VARIANTS]
)
def test_idx_files_are_found_under_each_of_their_names(tmp_path, target, raw, names):
    write_files(raw, tmp_path, names)
    # Some archives unpack to folders that have the names of the files.
    for name in set(FILES) - set(names.values()):
        (tmp_path / name).mkdir()
    obtain(folder_dataset(tmp_path), None, target)
    assert same_as(raw, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)


def test_a_zip_may_have_the_four_files_in_a_folder(tmp_path, target, raw):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(f"MNIST/raw/{name}.gz", gzip.compress((raw / name).read_bytes()))
        archive.writestr("readme.txt", "words")
    obtain(folder_dataset(tmp_path), None, target)
    assert same_as(raw, target)
    # The archive may be given in place of its folder.
    assert folder_dataset(tmp_path / "archive.zip").content == folder_dataset(tmp_path).content


@pytest.mark.parametrize(
    "member", ["../train-images-idx3-ubyte", "/etc/x", "a\\..\\..\\b", "a/../../b"]
)
def test_a_zip_with_a_member_outside_its_folder_is_refused(tmp_path, raw, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in FILES:
            archive.write(raw / name, name)
        archive.writestr(member, "x")
    assert "leaves its folder" in message_of(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "member",
    [FILES[1], f"other/{FILES[1]}", f"other/{FILES[1]}.gz", "train-labels.idx1-ubyte"],
)
def test_a_zip_with_a_file_twice_is_refused(tmp_path, raw, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in FILES:
            archive.write(raw / name, name)
        archive.writestr(member, b"other labels")
    words = message_of(tmp_path)
    assert repr(FILES[1]) in words and repr(member) in words
    assert f"expected {FILES[1]} once" in words


def test_a_raw_member_is_used_before_its_gzip(tmp_path, target, raw):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in FILES:
            archive.writestr(f"raw/{name}.gz", b"not read")
            archive.write(raw / name, f"raw/{name}")
    obtain(folder_dataset(tmp_path), None, target)
    assert same_as(raw, target)


def test_name_and_content_digest_follow_from_the_files(tmp_path, raw):
    folder = tmp_path / "My  Digits (2)"
    shutil.copytree(raw, folder)
    first = folder_dataset(folder, num_classes=12)
    assert first.name == f"my-digits-2-{first.content[:8]}"
    assert first.sources == (f"folder:{folder}",)
    assert first.class_names == tuple(str(label) for label in range(12))
    assert (first.image_shape, first.files, first.default_recipe) == (None, {}, "fast")
    (folder / "notes.txt").write_text("not data")
    assert folder_dataset(folder).content == first.content
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    assert folder_dataset(folder).content != first.content


def test_a_folder_that_changed_after_the_plan_is_refused(tmp_path, target, raw):
    shutil.copytree(raw, tmp_path / "a")
    dataset = folder_dataset(tmp_path / "a")
    labels = tmp_path / "a" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RawDataError, match="other files than when the run was planned"):
        obtain(dataset, None, target)


# Replaces a file, atomically and without end, by a copy with another last byte and back.
FLIP = """
import os, sys
path = sys.argv[1]
content = open(path, "rb").read()
while True:
    for last in (content[-1] ^ 1, content[-1]):
        open(path + ".new", "wb").write(content[:-1] + bytes([last]))
        os.replace(path + ".new", path)
"""


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "mnist_train.csv", "a.npz", "a.zip"])
def test_the_files_are_read_as_planned_while_the_folder_changes(
    tmp_path, target, arrays, raw, monkeypatch, name
):
    """The file changes just after it is copied."""
    from tasks.raw import folder as folder_module

    folder = folder_with(name, raw, arrays, tmp_path / "a")
    dataset = folder_dataset(folder)
    save, flipped = folder_module.save, []

    def save_and_flip(chunks, path, limit, what):
        entry = save(chunks, path, limit, what)
        if path.name == name:
            (folder / name).write_bytes(b"something else")
            flipped.append(name)
        return entry

    monkeypatch.setattr(folder_module, "save", save_and_flip)
    obtain(dataset, None, target)
    assert flipped
    assert same_as(raw, target)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "mnist_train.csv", "a.npz", "a.zip"])
def test_a_folder_that_keeps_changing_is_read_as_planned_or_refused(tmp_path, arrays, raw, name):
    folder = folder_with(name, raw, arrays, tmp_path / "a")
    dataset = folder_dataset(folder)
    outcomes = Counter()
    flipping = subprocess.Popen([sys.executable, "-c", FLIP, folder / name])
    try:
        for number in range(300):
            target = tmp_path / f"target-{number}"
            target.mkdir()
            try:
                obtain(dataset, None, target)
                assert same_as(raw, target)
                outcomes["read"] += 1
            except RawDataError as error:
                assert ".scratch" not in str(error)
                assert list(target.iterdir()) == []
                outcomes["refused"] += 1
    finally:
        flipping.kill()
        flipping.wait()
    assert outcomes["read"] and outcomes["refused"]


def test_an_error_names_the_file_in_the_folder_and_not_its_copy(tmp_path, target, arrays, raw):
    folder = folder_with("mnist_train.csv", raw, arrays, tmp_path / "a")
    (folder / "mnist_train.csv").write_text("1,0,0,0,x\n")
    with pytest.raises(RawDataError) as caught:
        obtain(folder_dataset(folder), None, target)
    assert caught.value.what == str(folder / "mnist_train.csv")
    assert list(target.iterdir()) == []


def folder_with(name, raw, arrays, folder):
    """Return a folder with the data set in a file called `name` and those that belong to it."""
    if name in FILES:
        return shutil.copytree(raw, folder)
    folder.mkdir()
    if name.endswith(".npz"):
        names = ("x_train", "y_train", "x_test", "y_test")
        np.savez(folder / name, **dict(zip(names, arrays.values(), strict=True)))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for file in FILES:
                archive.write(raw / file, file)
    else:
        for split, names in SPLITS.items():
            images, labels = (arrays[name] for name in names)
            rows = np.column_stack([labels, images.reshape(len(images), -1)])
            np.savetxt(folder / f"mnist_{split}.csv", rows, fmt="%d", delimiter=",")
    return folder


def test_a_folder_as_a_data_set_ignores_other_sources(target, raw):
    dataset = folder_dataset(raw)
    obtain(dataset, "/nowhere", target)
    assert same_as(raw, target)


def test_a_broken_file_in_a_folder_is_a_raw_data_error(tmp_path, target, raw):
    shutil.copytree(raw, tmp_path / "a")
    (tmp_path / "a" / "t10k-labels-idx1-ubyte").write_bytes(b"<html>")
    with pytest.raises(RawDataError, match="t10k-labels-idx1-ubyte: found a web page") as caught:
        obtain(folder_dataset(tmp_path / "a"), None, target)
    assert caught.value.what == str(tmp_path / "a" / "t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("num_classes", [1, 257])
def test_a_number_of_classes_out_of_range_is_a_config_error(raw, num_classes):
    with pytest.raises(ConfigError, match="num_classes"):
        folder_dataset(raw, num_classes)


def test_folders_that_cannot_be_used_are_refused(tmp_path, raw):
    assert "found no data" in message_of(tmp_path)
    assert "No such file" in message_of(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic links" in message_of(tmp_path / "loop")
    for name in FILES[:3]:
        shutil.copy(raw / name, tmp_path)
    assert "found no t10k-labels-idx1-ubyte," in message_of(tmp_path)
    (tmp_path / FILES[3]).symlink_to(FILES[3])
    assert "symbolic links" in message_of(tmp_path)
    (tmp_path / FILES[3]).unlink()
    os.mkfifo(tmp_path / FILES[3])
    assert "found no t10k-labels-idx1-ubyte," in message_of(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path, raw, monkeypatch):
    folder = shutil.copytree(raw, tmp_path / "a")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tasks.raw.folder.sha256_file", refuse)
    assert "Permission denied" in message_of(folder)


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    assert name in message_of(tmp_path)


def test_two_data_sets_of_one_kind_in_a_folder_are_refused(tmp_path, arrays, raw):
    named = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays.values(), strict=True))
    np.savez(tmp_path / "a.npz", **named)
    np.savez(tmp_path / "b.npz", **named)
    assert "several data sets (a.npz, b.npz)" in message_of(tmp_path)
    for name in FILES:
        shutil.copy(raw / name, tmp_path)
    assert {file.name for file, _ in survey(tmp_path).values()} == set(FILES)


def test_a_zip_bomb_is_refused(tmp_path, target, raw):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(name, (raw / name).read_bytes() + bytes(1 << 24))
    with pytest.raises(RawDataError, match="trailing bytes") as caught:
        obtain(folder_dataset(tmp_path), None, target)
    assert caught.value.what == f"{tmp_path / 'a.zip'}: {FILES[0]}"
    assert list(target.iterdir()) == []
