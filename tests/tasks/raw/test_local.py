"""A folder of a person's own: what is recognised, what it is called, and how it may be broken."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile

import numpy as np
import pytest

from pipeline_config.datasets import FILES
from tasks.raw.local import folder_dataset, survey
from tasks.raw.obtain import obtain
from tasks.runtime.errors import RawDataError

VARIANTS = {
    "train-images-idx3-ubyte": "train-images.idx3-ubyte",
    "train-labels-idx1-ubyte": "Train_Labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte": "test-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte": "t10k-labels.idx1-ubyte",
}


def dressed(raw, folder, names) -> None:
    for name, file in names.items():
        content = (raw / name).read_bytes()
        (folder / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)


def same_as(raw, folder) -> bool:
    return all((folder / name).read_bytes() == (raw / name).read_bytes() for name in FILES)


def told(path) -> str:
    with pytest.raises(RawDataError) as caught:
        folder_dataset(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "names", [dict(zip(FILES, FILES, strict=True)), {n: f"{n}.gz" for n in FILES}, VARIANTS]
)
def test_idx_files_under_all_their_names(tmp_path, target, raw, names):
    dressed(raw, tmp_path, names)
    # Some archives unpack to folders of the very names that the files should have.
    for name in set(FILES) - set(names.values()):
        (tmp_path / name).mkdir()
    obtain(folder_dataset(tmp_path), None, target)
    assert same_as(raw, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)


def test_a_zip_with_the_four_files_in_a_folder_of_it(tmp_path, target, raw):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(f"MNIST/raw/{name}.gz", gzip.compress((raw / name).read_bytes()))
        archive.writestr("readme.txt", "words")
    obtain(folder_dataset(tmp_path), None, target)
    assert same_as(raw, target)
    # The archive alone may stand for the folder.
    assert folder_dataset(tmp_path / "archive.zip").content == folder_dataset(tmp_path).content


@pytest.mark.parametrize(
    "member", ["../train-images-idx3-ubyte", "/etc/x", "a\\..\\..\\b", "a/../../b"]
)
def test_no_member_of_a_zip_leaves_its_folder(tmp_path, raw, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in FILES:
            archive.write(raw / name, name)
        archive.writestr(member, "x")
    assert "leaves its folder" in told(tmp_path)


def test_the_name_and_the_key_follow_from_the_content(tmp_path, raw):
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


def test_a_folder_that_changes_after_it_was_named(tmp_path, target, raw):
    shutil.copytree(raw, tmp_path / "a")
    dataset = folder_dataset(tmp_path / "a")
    labels = tmp_path / "a" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RawDataError, match="other files than when the run was planned"):
        obtain(dataset, None, target)


def test_a_folder_as_a_data_set_has_no_source_but_itself(target, raw):
    dataset = folder_dataset(raw)
    obtain(dataset, "/nowhere", target)
    assert same_as(raw, target)


def test_a_broken_file_of_a_folder_is_its_own_error(tmp_path, target, raw):
    shutil.copytree(raw, tmp_path / "a")
    (tmp_path / "a" / "t10k-labels-idx1-ubyte").write_bytes(b"<html>")
    with pytest.raises(RawDataError, match="t10k-labels-idx1-ubyte: found a web page"):
        obtain(folder_dataset(tmp_path / "a"), None, target)


def test_folders_that_cannot_be_used(tmp_path, raw):
    assert "found no data" in told(tmp_path)
    assert "No such file" in told(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic links" in told(tmp_path / "loop")
    for name in FILES[:3]:
        shutil.copy(raw / name, tmp_path)
    assert "found no t10k-labels-idx1-ubyte," in told(tmp_path)
    (tmp_path / FILES[3]).symlink_to(FILES[3])
    assert "symbolic links" in told(tmp_path)
    (tmp_path / FILES[3]).unlink()
    os.mkfifo(tmp_path / FILES[3])
    assert "neither a file nor a folder" in told(tmp_path)


def test_an_unreadable_file(tmp_path, raw, monkeypatch):
    folder = shutil.copytree(raw, tmp_path / "a")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tasks.raw.local.sha256_file", refuse)
    assert "Permission denied" in told(folder)


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_an_archive_that_is_none(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    assert name in told(tmp_path)


def test_two_data_sets_in_one_folder_are_not_chosen_between(tmp_path, arrays, raw):
    named = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays.values(), strict=True))
    np.savez(tmp_path / "a.npz", **named)
    np.savez(tmp_path / "b.npz", **named)
    assert "several data sets (a.npz, b.npz)" in told(tmp_path)
    for name in FILES:
        shutil.copy(raw / name, tmp_path)
    assert {place.path.name for place in survey(tmp_path).values()} == set(FILES)


def test_a_bomb_in_a_zip_stops(tmp_path, target, raw):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(name, (raw / name).read_bytes() + bytes(1 << 24))
    with pytest.raises(RawDataError, match="trailing bytes"):
        obtain(folder_dataset(tmp_path), None, target)
    assert list(target.iterdir()) == []
