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
from contextlib import contextmanager
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
# for a name that is not text, OverflowError for an offset that no file has.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError),
    *(struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile),
)

# A source yields the canonical name of each file, where it is, and what errors call it.
Source = Generator[tuple[str, Path, str], None, None]


def damaged(what: object, error: Exception) -> RawDataError:
    """Return the RawDataError for a file whose reader raised `error`."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = f"an unreadable or damaged file ({words or type(error).__name__})"
    return RawDataError(what, found=found)


def chunks_of(stream: IO[bytes], what: object, size: float = math.inf) -> Iterator[bytes]:
    """Yield the next `size` bytes of an open file. Raises RawDataError where it is unreadable."""
    try:
        while size > 0 and (chunk := stream.read(int(min(size, CHUNK_BYTES)))):
            size -= len(chunk)
            yield chunk
    except UNREADABLE as error:
        raise damaged(what, error) from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file, open for reading; the content of a gzip file."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
        file.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file


def tar_members(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and the chunks of each regular member of a tar archive, gzip or not.

    Only forward and in small pieces. `tarfile` as a reader follows a header: back for a negative
    size, without end, or into a buffer of as many gigabytes as the header declares.
    """
    try:
        with opened(archive) as tar:
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


def open_member(path: Path, name: str, limit: float = math.inf) -> IO[bytes]:
    """Return a zip's member, open for reading. Raises KeyError or one of UNREADABLE.

    A member of more than `limit` bytes is refused, and so is LZMA: four bytes of a member decide
    how much memory it takes.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        if archive.namelist().count(name) > 1:
            raise zipfile.BadZipFile(f"{name} is in it twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
        if member.file_size > limit:
            raise zipfile.BadZipFile(f"{name} has {member.file_size:,} bytes, too many")
        return archive.open(member)


def save(chunks: Iterable[bytes], path: Path, limit: float, what: object) -> Path:
    """Write the chunks to `path` and return it. Raises RawDataError beyond `limit` bytes."""
    written = 0
    with path.open("wb") as file:
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                found = "more bytes than the file can have"
                raise RawDataError(what, found=found, expected=f"at most {limit:,} bytes")
            file.write(chunk)
    return path


def receive(path: Path, what: str, expected: RawFile, target: Path) -> FileEntry:
    """Write the raw bytes of the IDX file `path`, raw or gzip, to `target`; return their digest.

    Raises RawDataError about `what` for bytes that are not the file which `expected` describes;
    `target` then holds a part of them, at most MAX_BYTES.
    """
    digest, written = hashlib.sha256(), 0
    with opened(path) as stream, target.open("wb") as raw:
        chunks = chunks_of(stream, what)
        first = next(chunks, b"")
        header = parse_header(first, what)
        limit = expected.num_bytes or MAX_BYTES
        if header.num_bytes > limit or header.num_bytes < (expected.num_bytes or 0):
            found = f"a header that declares {header.num_bytes:,} bytes ({header})"
            words = f"{limit:,} bytes" if expected.num_bytes else f"at most {limit:,} bytes"
            raise RawDataError(what, found=found, expected=words)
        for chunk in chain([first], chunks):
            written += len(chunk)
            if written > header.num_bytes:
                break
            raw.write(chunk)
            digest.update(chunk)
    check_size(header, written, what)
    entry = FileEntry(sha256=digest.hexdigest(), num_bytes=written)
    # The gzip's digest counts only where that of the raw bytes is not known.
    known, found, of = expected.sha256, entry.sha256, ""
    if known is None and expected.gzip_sha256 is not None:
        known, found, of = expected.gzip_sha256, sha256_file(path), " of the gzip file as published"
    if known is not None and known != found:
        words = f"{known[:16]}…{of}"
        raise RawDataError(what, found=f"the SHA-256 {found[:16]}…", expected=words)
    return entry
