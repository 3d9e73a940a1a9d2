"""The one gate that foreign bytes come in through: unpacked, bounded, and held to their digest.

A source gives a file as chunks of bytes, raw or gzip. Nothing about the source is trusted: the IDX
header must come first, no byte more than it declares is written, and the digest has the last word.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from pipeline_config.datasets import RawFile
from tasks.raw.idx import (
    GZIP_MAGIC,
    MAX_HEADER_BYTES,
    REPLACE,
    Header,
    check_size,
    parse_header,
)
from tasks.runtime.errors import RawDataError

Chunks = Iterator[bytes]
# Give the chunks of the file with this canonical name for as long as the context lasts.
Opener = Callable[[str], AbstractContextManager[Chunks]]

CHUNK_BYTES = 1 << 18
# What a file may unpack to where no size is known beforehand: 4 GiB.
MAX_BYTES = 1 << 32
# What readers raise for damaged bytes: RuntimeError is zipfile's word for an encrypted member,
# ValueError for a name that is no text, OverflowError for a place beyond every file.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Received:
    """A file that came through: the SHA-256 and the size of its raw bytes."""

    sha256: str
    num_bytes: int


def chunks_of(stream: IO[bytes], what: str, size: float = math.inf) -> Chunks:
    """The next `size` bytes of an open file or archive member; RawDataError where unreadable."""
    try:
        while size > 0 and (chunk := stream.read(int(min(size, CHUNK_BYTES)))):
            size -= len(chunk)
            yield chunk
    except UNREADABLE as error:
        raise damaged(what, error) from error


def open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A zip's member, open for reading; raises one of UNREADABLE, or KeyError if it is not there.

    Only the two common packings: LZMA takes as much memory as four bytes of the member ask for.
    """
    member = archive.getinfo(name)
    if archive.namelist().count(name) > 1:
        raise zipfile.BadZipFile(f"{name} is in it twice")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
    return archive.open(member)


def damaged(what: str, error: Exception) -> RawDataError:
    """The RawDataError for a file that its reader gave up on."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RawDataError(
        what,
        found=f"an unreadable or damaged file ({told or type(error).__name__})",
        expected="a readable, intact file",
        remedy=REPLACE,
    )


def receive(
    chunks: Chunks, name: str, expected: RawFile, target: Path, advance: Callable[[int], None]
) -> Received:
    """Write the raw bytes of an IDX file to `target`, telling `advance` of each piece.

    Raises RawDataError for bytes that are not the file which `expected` describes; `target` then
    holds a part of them, at most the size that was expected (MAX_BYTES where nobody knows it).
    """
    limit = expected.num_bytes or MAX_BYTES
    packed = _Packed(chunks, name, limit)
    buffered = io.BufferedReader(packed, CHUNK_BYTES)
    is_gzip = buffered.peek(2)[:2] == GZIP_MAGIC
    raw = cast(BinaryIO, gzip.GzipFile(fileobj=buffered) if is_gzip else buffered)
    digest, written = hashlib.sha256(), 0
    with target.open("wb") as file:
        chunk = _read(raw, MAX_HEADER_BYTES, name)
        header = parse_header(chunk, name)
        _check_declared(header, name, expected)
        while chunk:
            written += len(chunk)
            if written > header.num_bytes:
                raise _fault(name, "trailing bytes", f"{header.num_bytes:,} bytes for {header}")
            file.write(chunk)
            digest.update(chunk)
            advance(len(chunk))
            chunk = _read(raw, CHUNK_BYTES, name)
    check_size(header, written, name)
    _check_digest(name, expected, digest.hexdigest(), packed.digest.hexdigest() if is_gzip else "")
    return Received(digest.hexdigest(), written)


class _Packed(io.RawIOBase):
    """The bytes as they travelled, digested on the way and bounded by what `limit` can pack to."""

    def __init__(self, chunks: Chunks, name: str, limit: int) -> None:
        self.digest = hashlib.sha256()
        self._chunks, self._name, self._rest = chunks, name, b""
        # Gzip makes no file that much longer; a header's comment may be, and is not waited for.
        self._room = limit + limit // 100 + CHUNK_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while len(self._rest) < 2 and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        piece, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(piece)] = piece
        self.digest.update(piece)
        self._room -= len(piece)
        if self._room < 0:
            raise _fault(self._name, "more bytes than the file can have", "the file and its end")
        return len(piece)


def _read(stream: BinaryIO, num_bytes: int, name: str) -> bytes:
    """Up to `num_bytes`, fewer only at the end; RawDataError where gzip's own checks fail."""
    try:
        return stream.read(num_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(name, error) from error


def _check_declared(header: Header, name: str, expected: RawFile) -> None:
    """Refuse by the header alone what would turn out wrong only after gigabytes."""
    if expected.num_bytes is not None and header.num_bytes != expected.num_bytes:
        raise _fault(
            name,
            f"a header that declares {header.num_bytes:,} bytes ({header})",
            f"{expected.num_bytes:,} bytes",
        )
    if header.num_bytes > MAX_BYTES:
        raise _fault(
            name,
            f"a header that declares {header.num_bytes:,} bytes ({header})",
            f"at most {MAX_BYTES:,} bytes a file",
        )


def _check_digest(name: str, expected: RawFile, raw: str, packed: str) -> None:
    """The raw digest decides; the gzip's, where it is the only one that is known."""
    if expected.sha256 is not None:
        if raw != expected.sha256:
            raise _fault(name, f"the SHA-256 {raw[:16]}…", f"{expected.sha256[:16]}…")
    elif expected.gzip_sha256 is not None and packed != expected.gzip_sha256:
        raise _fault(
            name,
            f"a gzip file with the SHA-256 {packed[:16]}…" if packed else "no gzip file",
            f"the gzip file as published, {expected.gzip_sha256[:16]}…",
        )


def _fault(name: str, found: str, expected: str) -> RawDataError:
    return RawDataError(name, found=found, expected=expected, remedy=REPLACE)
