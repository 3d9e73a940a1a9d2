"""Tests of receiving a file: gunzip, size limits and digests."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_config.datasets import RawFile
from tasks.raw.receive import MAX_BYTES, receive, save
from tasks.runtime.errors import RawDataError

CONTENT = struct.pack(">4BI", 0, 0, 8, 1, 1000) + bytes(range(250)) * 4
PACKED = gzip.compress(CONTENT, mtime=0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def take(target, content, expected=RawFile()):  # noqa: B008
    source = target.with_suffix(".source")
    source.write_bytes(content)
    return receive(source, "name", expected, target)


def message_of(target, content, expected=RawFile()):  # noqa: B008
    with pytest.raises(RawDataError) as caught:
        take(target, content, expected)
    return str(caught.value)


@pytest.mark.parametrize("content", [CONTENT, PACKED])
@pytest.mark.parametrize("size", [1 << 18, 300, 261])
def test_raw_and_gzip_files_are_received_in_chunks_of_any_size(
    tmp_path, monkeypatch, content, size
):
    monkeypatch.setattr("tasks.raw.receive.CHUNK_BYTES", size)
    target = tmp_path / "received"
    received = take(target, content, RawFile(num_bytes=len(CONTENT), sha256=sha256(CONTENT)))
    assert target.read_bytes() == CONTENT
    assert (received.sha256, received.num_bytes) == (sha256(CONTENT), len(CONTENT))


def test_a_gzip_of_several_members_is_received(tmp_path):
    take(tmp_path / "a", gzip.compress(CONTENT[:100]) + gzip.compress(CONTENT[100:]))
    assert (tmp_path / "a").read_bytes() == CONTENT


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(PACKED) - 1))
def test_a_truncated_gzip_is_refused(tmp_path_factory, length):
    assert message_of(tmp_path_factory.getbasetemp() / "received", PACKED[:length])


def test_a_damaged_gzip_is_refused_by_its_checksum(tmp_path):
    assert "CRC" in message_of(tmp_path / "a", PACKED[:-8] + bytes(8))


def test_the_raw_digest_is_checked_before_the_gzip_digest(tmp_path):
    wrong = RawFile(sha256="0" * 64, gzip_sha256=sha256(PACKED))
    assert f"the SHA-256 {sha256(CONTENT)[:16]}" in message_of(tmp_path / "a", PACKED, wrong)
    take(tmp_path / "b", PACKED, RawFile(sha256=sha256(CONTENT), gzip_sha256="0" * 64))


def test_the_gzip_digest_is_checked_where_the_raw_one_is_unknown(tmp_path):
    known = RawFile(gzip_sha256=sha256(PACKED))
    take(tmp_path / "a", PACKED, known)
    assert "the gzip file as published" in message_of(tmp_path / "b", CONTENT, known)
    other = gzip.compress(CONTENT, 1, mtime=1)
    assert f"the SHA-256 {sha256(other)[:16]}" in message_of(tmp_path / "c", other, known)


def test_no_more_bytes_are_written_than_the_header_declares(tmp_path):
    bomb = gzip.compress(CONTENT + bytes(1 << 24))
    assert "trailing bytes" in message_of(tmp_path / "a", bomb)
    assert (tmp_path / "a").stat().st_size <= len(CONTENT)


def test_a_header_that_declares_too_many_bytes_is_refused(tmp_path):
    huge = struct.pack(">4BI", 0, 0, 14, 1, 2**30)
    assert f"at most {MAX_BYTES:,} bytes" in message_of(tmp_path / "a", huge + bytes(1 << 16))
    expected = RawFile(num_bytes=len(CONTENT))
    assert "expected 1,008 bytes" in message_of(tmp_path / "b", huge + bytes(1 << 16), expected)
    assert not (tmp_path / "b").exists()


def test_an_endless_download_stops_at_the_limit(tmp_path):
    """The comment in a gzip header and the zeros after a gzip may be endless."""
    limit = 100_000
    endless = itertools.chain([PACKED], itertools.repeat(bytes(1 << 16)))
    with pytest.raises(RawDataError, match="trailing bytes"):
        save(endless, tmp_path / "a", limit, "a")
    assert (tmp_path / "a").stat().st_size <= limit
