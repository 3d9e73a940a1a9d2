"""Digests, canonical JSON, atomic writes and locks: a file or a folder is complete or absent."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline_config.settings import settings
from tasks.runtime.errors import StorageError

logger = logging.getLogger(__name__)

# A temporary file older than this was left by a killed process.
STALE_S = 24 * 3600
# The error numbers of a full disk.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content`, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(content: Any) -> bytes:
    """Return `content` as JSON with sorted keys: equal content gives equal bytes.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def digest_of(content: Any) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    return sha256_bytes(canonical_json(content))


def fsync_path(path: Path) -> None:
    """Write a file's bytes, or a folder's entries, to disk; afterwards they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it is fsynced and replaces `path`.

    On an error the temporary file is removed, as are those that killed processes left a day ago.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{glob.escape(path.name)}.????????"):
            with suppress(FileNotFoundError):
                if time.time() - stale.stat().st_mtime > STALE_S:
                    stale.unlink()
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        aside = Path(name)
        try:
            aside.chmod(0o644)
            yield aside
            fsync_path(aside)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        fsync_path(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader sees the old file or the new one."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def built_aside(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; on success it is fsynced and renamed to `final`.

    The caller holds the lock of `final`. An earlier `final` is replaced. Temporary folders are
    removed in any case, also those that a killed process left.
    """
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(final)
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        try:
            aside.chmod(0o755)
            yield aside
            for path in [*aside.rglob("*"), aside]:
                fsync_path(path)
            if final.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
                final.rename(old / "old")
            aside.rename(final)
            fsync_path(final.parent)
        finally:
            _remove_temporaries(final)


def _remove_temporaries(final: Path) -> None:
    for stale in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the kernel lock `name`, which the kernel releases when the process ends."""
    folder = settings().locks
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            logger.info("waiting for another run that is working on %s", name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def root_lock(*, exclusive: bool = False) -> Iterator[None]:
    """Hold the lock of the root: shared for a run, exclusive for `idxflow gc`.

    With fcntl, since filelock's shared lock is a database.
    """
    folder = settings().locks
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder.joinpath("root.lock").open("ab")
    with file:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = "the runs that use this root" if exclusive else "`idxflow gc`"
            logger.info("waiting for %s", holder)
            fcntl.flock(file, kind)
        yield


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise StorageError where a write at `path` fails for a full disk or missing permission."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            found, expected = "no room to write", "enough free disk"
            remedy = "Free some space and run the same command again; it resumes from here."
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            found, expected = "no permission to write", "a folder that this user may write to"
            remedy = "Change its owner, or set IDXFLOW_ROOT to another folder."
        else:
            raise
        what, found = error.filename or path, f"{found} ({error.strerror})"
        raise StorageError(what, found=found, expected=expected, remedy=remedy) from error
