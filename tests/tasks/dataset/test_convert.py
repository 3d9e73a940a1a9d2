import json
import resource
from contextlib import contextmanager

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dataset.convert import convert
from tasks.dataset.table import read_labels, read_rows
from tasks.runtime.errors import StorageError


def read_images(table):
    """Return all rows, and check that rows in another order are read alike."""
    labels = read_labels(table)
    images, again = read_rows(table, np.arange(len(labels)))
    assert np.array_equal(labels, again)
    some = np.random.default_rng(0).permutation(len(labels))[:7]
    assert all(map(np.array_equal, read_rows(table, some), (images[some], labels[some])))
    return images, labels


def test_the_table_has_types_and_metadata(stages):
    raw, checked = stages
    table = convert.fn(raw, checked, "made-up")
    assert table.facts == {
        "dataset": "made-up",
        "num_classes": 3,
        "image_shape": [6, 5],
        "rows": {"train": 40, "test": 30},
        "sha256": raw.facts["sha256"],
    }
    schema = pq.read_schema(table.path / "train.parquet")
    assert schema.names[:4] == ["index", "label", "image", "mean"]
    assert [field.type for field in schema][:3] == [pa.int64(), pa.uint8(), pa.binary(30)]
    metadata = {
        key.decode("ascii").removeprefix("idxflow."): json.loads(value)
        for key, value in schema.metadata.items()
    }
    assert metadata == table.facts


def test_the_readers_return_pixels_labels_and_profile(stages, arrays):
    table = convert.fn(*stages, "made-up")
    images, labels = read_images(table)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    pooled = np.concatenate([arrays.train_images, arrays.test_images])
    assert np.array_equal(images, pooled.reshape(70, 30))
    assert np.array_equal(labels, np.concatenate([arrays.train_labels, arrays.test_labels]))
    profiles = pq.read_table(stages[1].path / "test.profile.parquet")
    rows = pq.read_table(table.path / "test.parquet").drop_columns("image")
    assert rows.replace_schema_metadata(None).equals(profiles)


def test_pandas_and_duckdb_read_the_table(stages, arrays):
    path = convert.fn(*stages, "made-up").path / "train.parquet"
    frame = pd.read_parquet(path)
    assert frame["image"][7] == arrays.train_images[7].tobytes()
    query = f"select label, count(*), min(octet_length(image)) from '{path}' group by 1 order by 1"
    assert duckdb.sql(query).fetchall() == [(0, 14, 30), (1, 13, 30), (2, 13, 30)]
    query = f"select image, mean from '{path}' where index = 7"
    ((image, mean),) = duckdb.sql(query).fetchall()
    assert image == arrays.train_images[7].tobytes()
    assert mean == pytest.approx(arrays.train_images[7].mean())


def test_row_groups_and_reruns_give_the_same_rows(stages, monkeypatch):
    whole = convert.fn(*stages, "made-up")
    assert convert.fn(*stages, "made-up", refresh=True) == whole
    images, labels = read_images(whole)
    monkeypatch.setattr("tasks.dataset.convert.ROW_GROUP", 16)
    pieces = convert.fn(*stages, "made-up", refresh=True)
    assert pq.ParquetFile(pieces.path / "train.parquet").num_row_groups == 3
    assert all(map(np.array_equal, read_images(pieces), (images, labels)))


def test_row_groups_of_large_images_are_bounded_in_bytes(stages, monkeypatch):
    whole = read_images(convert.fn(*stages, "made-up"))
    monkeypatch.setattr("tasks.dataset.convert.GROUP_BYTES", 7 * 30 + 29)
    pieces = convert.fn(*stages, "made-up", refresh=True)
    file = pq.ParquetFile(pieces.path / "train.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(6)] == [7] * 5 + [5]
    assert all(map(np.array_equal, read_images(pieces), whole))
    monkeypatch.setattr("tasks.dataset.convert.GROUP_BYTES", 1)
    single = convert.fn(*stages, "made-up", refresh=True)
    assert pq.ParquetFile(single.path / "train.parquet").num_row_groups == 40


@contextmanager
def file_size_limit(num_bytes):
    """Make writes beyond `num_bytes` of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_raises_a_storage_error_and_leaves_no_output(stages, root):
    with file_size_limit(1000), pytest.raises(StorageError, match="no room to write"):
        convert.fn(*stages, "made-up")
    assert not [path for path in (root / "stages").iterdir() if "convert" in path.name]
    assert convert.fn(*stages, "made-up").facts["rows"]["train"] == 40
