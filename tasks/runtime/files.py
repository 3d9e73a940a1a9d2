"""Files that are either whole or absent: digests, canonical JSON, atomic writes, locks, folders."""

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

# Nothing that is still being written is that old.
STALE_S = 24 * 3600
# The ways in which a disk says that no more fits.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_bytes(content: bytes) -> str:
    """The SHA-256 of `content`, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(content: Any) -> bytes:
    """`content` as JSON with sorted keys and two spaces: equal content, equal bytes.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def digest_of(content: Any) -> str:
    """The SHA-256 of `content` as canonical JSON."""
    return sha256_bytes(canonical_json(content))


def digest_holds(content: dict[str, Any], name: str = "digest") -> bool:
    """Whether a mapping's entry `name` is the digest of the rest of it.

    Asked of what was read, not of what this version would write: older files have other fields.
    """
    rest = {key: value for key, value in content.items() if key != name}
    return bool(content.get(name) == digest_of(rest))


def read_sealed(content: bytes, name: str = "digest") -> tuple[dict[str, Any], bool]:
    """The mapping in canonical JSON, and whether nothing of it was changed.

    Its entry `name` holds the digest of the rest. Raises ValueError for anything but a mapping.
    """
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no mapping")
    return found, canonical_json(found) == content and digest_holds(found, name)


def fsync_path(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries, to disk, so that they outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of the file `path` to write; on success it is fsynced and replaces it.

    A reader sees the old file or the new one, never a half. On any error nothing is left behind;
    what a killed process left for a day is removed.
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
    """Replace `path` by `content`: a reader sees the old file or the new one, never a half."""
    with replacing(path) as aside:
        aside.write_bytes(content)


@contextmanager
def built_aside(final: Path) -> Iterator[Path]:
    """A temporary sibling of the folder `final`; on success it is fsynced and renamed to `final`.

    An earlier `final` is moved away first. On any error nothing is left behind. What a killed
    process left is swept by the next one: the caller holds the lock of `final`.
    """
    parent = final.parent
    with storage_errors(final):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=parent))
        try:
            aside.chmod(0o755)
            yield aside
            _fsync_tree(aside)
            if final.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=parent))
                final.rename(old / "old")
            aside.rename(final)
            fsync_path(parent)
        finally:
            _sweep(final)


def _fsync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        fsync_path(path)


def _sweep(final: Path) -> None:
    """Remove what was built aside for `final` and never got there."""
    for stale in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the kernel lock called `name`; it is gone with its holder, however that one ends."""
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
def in_use() -> Iterator[None]:
    """Hold the root as one of any number of runs: nothing below it is cleared away meanwhile."""
    with _root_lock(fcntl.LOCK_SH, "waiting for `idxflow gc`, which is clearing away"):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Hold the root while no run does; waits for those that do."""
    with _root_lock(fcntl.LOCK_EX, "waiting for the runs that are using this root"):
        yield


@contextmanager
def _root_lock(kind: int, words: str) -> Iterator[None]:
    """A kernel lock that many may share, which filelock does not offer."""
    folder = settings().locks
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "root.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info(words)
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's "no" to a write at `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageError(
                str(error.filename or path),
                found=f"no room to write ({error.strerror})",
                expected="enough free disk for the stage's output",
                remedy="Free some space and run the same command again; it goes on from here.",
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise StorageError(
                str(error.filename or path),
                found=f"no permission to write ({error.strerror})",
                expected="a folder that this user may write to",
                remedy="Change its owner, or set IDXFLOW_ROOT to another folder.",
            ) from error
        raise
