"""Receives one IDX file from a source: gunzip, size limit, SHA-256.

Nothing about a source is trusted. A file from it is saved with a limit. Then the IDX header is read
first, no byte more than it declares is written, and the digest decides.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, cast

from pipeline_config.datasets import RawFile
from tasks.raw.idx import GZIP_MAGIC, check_size, parse_header
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import sha256_file
from tasks.runtime.manifest import FileEntry

CHUNK_BYTES = 1 << 18
# The limit of a raw file whose size is not known: 4 GiB.
MAX_BYTES = 1 << 32
# What readers raise for damaged bytes. RuntimeError is for an encrypted member of a zip, ValueError
# for a name that is not text, OverflowError for an offset that no file has, KeyError for a member
# that a zip lacks.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError, KeyError),
    *(struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile),
)

# A source yields the canonical name of each file, where it is, and what errors call it.
Source = Generator[tuple[str, Path, str], None, None]


def damaged(what: object, error: Exception) -> RawDataError:
    """Return the RawDataError for a file whose reader raised `error`."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # A name may have bytes that are not text, which cannot be printed.
    name = str(what).encode(errors="backslashreplace").decode()
    return RawDataError(name, found=f"an unreadable or damaged file ({words})")


def chunks_of(stream: IO[bytes], what: object, size: float = math.inf) -> Iterator[bytes]:
    """Yield the next `size` bytes of an open file. Raises RawDataError where it is unreadable."""
    try:
        while size > 0 and (chunk := stream.read(int(min(size, CHUNK_BYTES)))):
            size -= len(chunk)
            yield chunk
    except UNREADABLE as error:
        raise damaged(what, error) from error


def unpacked(path: Path) -> IO[bytes]:
    """Return a file, open for reading; the content of a gzip file."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path)) if is_gzip else path.open("rb")


def tar_members(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and the chunks of each regular member of a tar archive, gzip or not.

    Only forward and in small pieces. `tarfile` as a reader follows a header: back for a negative
    size, without end, or into a buffer of as many gigabytes as the header declares.
    """
    try:
        with unpacked(archive) as tar:
            while any(block := tar.read(tarfile.BLOCKSIZE)):
                member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                # Links, devices, folders and pipes have no content.
                size = 0 if member.type in b"123456" else member.size
                content = chunks_of(tar, archive.name, size)
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    yield member.name.removeprefix("./"), content
                for _ in content:
                    pass
                tar.read(-size % tarfile.BLOCKSIZE)
    except UNREADABLE as error:
        raise damaged(archive.name, error) from error


def open_file(path: Path, name: str = "") -> IO[bytes]:
    """Return a file, or the member `name` of a zip, open for reading. Raises RawDataError."""
    try:
        if not name:
            return path.open("rb")
        with zipfile.ZipFile(path) as archive:
            if archive.namelist().count(name) > 1:
                raise zipfile.BadZipFile(f"{name} is in it twice")
            return open_member(archive, archive.getinfo(name))
    except UNREADABLE as error:
        raise damaged(path, error) from error


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """Return a member of an open zip, open for reading.

    Raises BadZipFile for more than MAX_BYTES, and for LZMA: four bytes decide how much memory it
    takes.
    """
    is_plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if not is_plain or member.file_size > MAX_BYTES:
        raise zipfile.BadZipFile(f"{member.filename} is too large, or neither stored nor deflated")
    return archive.open(member)


def save(chunks: Iterable[bytes], path: Path, limit: float, what: object) -> FileEntry:
    """Write the chunks to `path`; return their digest. Raises RawDataError beyond `limit` bytes."""
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                expected = f"at most {limit:,} bytes"
                raise RawDataError(what, found="trailing bytes", expected=expected)
            file.write(chunk)
            digest.update(chunk)
    return FileEntry(sha256=digest.hexdigest(), num_bytes=written)


def receive(path: Path, what: str, expected: RawFile, target: Path) -> FileEntry:
    """Write the raw bytes of the IDX file `path`, raw or gzip, to `target`; return their digest.

    Raises RawDataError about `what` for bytes that are not the file which `expected` describes;
    `target` then holds a part of them, at most MAX_BYTES.
    """
    with unpacked(path) as stream:
        chunks = chunks_of(stream, what)
        first = next(chunks, b"")
        header = parse_header(first, what)
        limit = expected.num_bytes or min(header.num_bytes, MAX_BYTES)
        if header.num_bytes != limit:
            found = f"a header that declares {header.num_bytes:,} bytes ({header})"
            words = "" if expected.num_bytes else "at most "
            raise RawDataError(what, found=found, expected=f"{words}{limit:,} bytes")
        entry = save(chain([first], chunks), target, limit, what)
    check_size(header, entry.num_bytes, what)
    # The gzip's digest counts only where that of the raw bytes is not known.
    known, found, of = expected.sha256, entry.sha256, ""
    if known is None and expected.gzip_sha256 is not None:
        known, found, of = expected.gzip_sha256, sha256_file(path), " of the gzip file as published"
    if known is not None and known != found:
        words = f"{known[:16]}…{of}"
        raise RawDataError(what, found=f"the SHA-256 {found[:16]}…", expected=words)
    return entry
