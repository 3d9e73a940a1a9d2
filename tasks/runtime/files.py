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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline_config.settings import settings
from tasks.runtime.errors import StorageError

logger = logging.getLogger(__name__)

# The error numbers of a full disk, and of a place that may not be written to.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content`, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(content: Any) -> bytes:
    """Return `content` as JSON with sorted keys. Raises ValueError for NaN and infinity."""
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def digest_of(content: Any) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    return sha256_bytes(canonical_json(content))


def _fsync(path: Path) -> None:
    """Write a file's bytes, or a folder's entries, to disk; afterwards they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(final: Path, stale_s: float = 24 * 3600) -> Iterator[Path]:
    """Yield a temporary path. The file or folder made there is fsynced and replaces `final`.

    What killed processes left beside `final` at least `stale_s` seconds ago is removed.
    """
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f".{glob.escape(final.name)}.????????"):
            with suppress(FileNotFoundError):
                if stale.stat().st_mtime <= time.time() - stale_s:
                    shutil.rmtree(stale, ignore_errors=True)
        with TemporaryDirectory(
            prefix=f".{final.name}.", dir=final.parent, ignore_cleanup_errors=True
        ) as folder:
            aside = Path(folder, final.name)
            yield aside
            for path in [*aside.rglob("*"), aside]:
                _fsync(path)
            if aside.is_dir() and final.exists():
                final.rename(Path(folder, "earlier folder"))
            aside.replace(final)
            _fsync(final.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader sees the old file or the new one."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def built_aside(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `final`, whose lock the caller holds."""
    with replacing(final, stale_s=0) as aside:
        aside.mkdir()
        yield aside


@contextmanager
def locked(name: str, *, exclusive: bool = True) -> Iterator[None]:
    """Hold the kernel lock `name`, which the kernel releases when the process ends."""
    path = settings().root / "locks" / f"{name}.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another command that works on %s", name)
            fcntl.flock(file, kind)
        yield


@contextmanager
def root_lock(*, exclusive: bool = False) -> Iterator[None]:
    """Hold the lock of the root: shared for a run, exclusive for `idxflow gc`."""
    with locked("root", exclusive=exclusive):
        yield


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise StorageError where a write at `path` fails for a full disk or missing permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | FORBIDDEN:
            raise
        lacking = "room" if error.errno in FULL else "permission"
        found = f"no {lacking} to write ({error.strerror})"
        raise StorageError(error.filename or path, found=found) from error
