"""Tests of the fetch stage: its output, its key, its retries and its errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prefect.states import Failed

from pipeline_config.datasets import FILES
from tasks.raw.fetch import fetch, only_transient
from tasks.raw.folder import folder_dataset
from tasks.runtime.errors import FetchError, RawDataError, StorageError
from tasks.runtime.store import inspect


def test_the_output_has_the_four_files_and_their_digests(root, raw, files, make_dataset):
    ref = fetch.fn(make_dataset(str(raw)))
    manifest, damage = inspect(ref.path)
    assert damage == []
    assert sorted(manifest.files) == sorted(FILES)
    assert ref.facts["sha256"] == {name: files[name].sha256 for name in FILES}
    assert str(raw) not in (ref.path / "manifest.json").read_text()
    assert ref.path.parent == root / "stages"


def test_the_key_does_not_depend_on_the_source(raw, web, make_dataset):
    one = fetch.fn(make_dataset(str(raw)))
    two = fetch.fn(make_dataset(web.url), source="/nowhere", refresh=True)
    assert one == two
    assert web.requests
    assert fetch.fn(make_dataset("folder:/nowhere")) == one


def test_a_folder_with_other_content_has_another_key(tmp_path, raw, arrays):
    from tasks.raw.idx import write_idx

    for name, array in arrays.items():
        write_idx(tmp_path / name, array)
    first = fetch.fn(folder_dataset(tmp_path))
    write_idx(tmp_path / FILES[1], arrays[FILES[1]][::-1])
    second = fetch.fn(folder_dataset(tmp_path))
    assert first.key != second.key


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_a_storage_error_and_leaves_no_output(
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
        return Full(file) if path.name == "received" else file

    monkeypatch.setattr(Path, "open", open_or_full)
    with pytest.raises(StorageError, match="no room to write"):
        fetch.fn(make_dataset(web.url))
    assert list((root / "stages").iterdir()) == []


def test_a_failed_fetch_leaves_no_output(root, make_dataset):
    with pytest.raises(FetchError):
        fetch.fn(make_dataset("folder:/nowhere"))
    assert list((root / "stages").iterdir()) == []


def test_only_network_errors_are_retried():
    def state(error):
        return Failed(data=error)

    words = {"found": "a", "expected": "b", "remedy": "c"}
    assert only_transient(None, None, state(FetchError("x", **words, transient=True)))
    assert not only_transient(None, None, state(FetchError("x", **words)))
    assert not only_transient(None, None, state(RawDataError("x", **words)))
    assert fetch.retries == 2
    assert fetch.retry_condition_fn is only_transient
