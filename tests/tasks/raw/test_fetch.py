"""The stage itself: a whole output or none, with facts that know nothing of places."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prefect.states import Failed

from pipeline_config.datasets import FILES, named_dataset
from tasks.raw.fetch import fetch, only_transient
from tasks.raw.folder import folder_dataset
from tasks.runtime.errors import FetchError, RawDataError, StorageError
from tasks.runtime.store import inspect


def test_the_output_is_the_four_files(root, raw, files, make_dataset):
    ref = fetch.fn(make_dataset(str(raw)))
    manifest, damage = inspect(ref.path)
    assert damage == []
    assert sorted(manifest.files) == sorted(FILES)
    assert ref.facts["sha256"] == {name: files[name].sha256 for name in FILES}
    assert str(raw) not in (ref.path / "manifest.json").read_text()
    assert ref.path.parent == root / "stages"


def test_places_are_not_part_of_the_key(raw, web, make_dataset):
    one = fetch.fn(make_dataset(str(raw)))
    two = fetch.fn(make_dataset(web.url), source="/nowhere", refresh=True)
    assert one == two
    assert web.asked
    assert fetch.fn(make_dataset("folder:/nowhere")) == one


def test_a_folder_is_another_output_when_its_content_is(tmp_path, raw, arrays):
    from tasks.raw.idx import write_idx

    for name, array in arrays.items():
        write_idx(tmp_path / name, array)
    first = fetch.fn(folder_dataset(tmp_path))
    write_idx(tmp_path / FILES[1], arrays[FILES[1]][::-1])
    second = fetch.fn(folder_dataset(tmp_path))
    assert first.key != second.key


def test_the_stage_says_where_the_files_came_from(raw, make_dataset, monkeypatch):
    shown = []
    monkeypatch.setattr("tasks.raw.sources.show_table", lambda key, rows, words: shown.extend(rows))
    fetch.fn(make_dataset("folder:/nowhere", str(raw)))
    assert [row["source"] for row in shown] == ["folder:/nowhere", str(raw)]
    assert "No such file" in shown[0]["result"]
    assert "gave train-images-idx3-ubyte" in shown[1]["result"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    root, web, make_dataset, monkeypatch, code
):
    opened = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, content):
            raise OSError(code, os.strerror(code))

    def open_or_full(path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return Full(file) if path.name.startswith("received-t10k") else file

    monkeypatch.setattr(Path, "open", open_or_full)
    with pytest.raises(StorageError, match="no room to write"):
        fetch.fn(make_dataset(web.url))
    assert list((root / "stages").iterdir()) == []


def test_a_failed_fetch_leaves_nothing(root, make_dataset):
    with pytest.raises(FetchError):
        fetch.fn(make_dataset("folder:/nowhere"))
    assert list((root / "stages").iterdir()) == []


def test_only_the_network_is_retried():
    def state(error):
        return Failed(data=error)

    words = {"found": "a", "expected": "b", "remedy": "c"}
    assert only_transient(None, None, state(FetchError("x", **words, transient=True)))
    assert not only_transient(None, None, state(FetchError("x", **words)))
    assert not only_transient(None, None, state(RawDataError("x", **words)))
    assert fetch.retries == 2
    assert fetch.retry_condition_fn is only_transient


def test_digits_come_out_the_same_every_time():
    dataset = named_dataset("digits8x8")
    first = fetch.fn(dataset)
    files = inspect(first.path)[0].files
    second = fetch.fn(dataset, refresh=True)
    assert first == second
    assert inspect(second.path)[0].files == files
