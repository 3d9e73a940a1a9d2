"""Manifests: sealed JSON that names every file of a folder with its SHA-256."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_config.sections import Record
from tasks.runtime.files import canonical_json, digest_of, sha256_file

MANIFEST = "manifest.json"
# No manifest and no metrics are longer.
MAX_JSON_BYTES = 16 * 2**20


class FileEntry(Record):
    """The SHA-256 and the size of one file."""

    sha256: str
    num_bytes: int


def sealed(content: Mapping[str, Any], seal: str = "digest") -> dict[str, Any]:
    """Return `content` with the digest of everything else in it under the key `seal`."""
    rest = {key: value for key, value in content.items() if key != seal}
    return {**rest, seal: digest_of(rest)}


def read_sealed(content: bytes, seal: str = "digest") -> tuple[dict[str, Any], bool]:
    """Return the mapping in canonical JSON, and whether its seal is right.

    The seal also covers fields of other versions. Raises ValueError for anything but a mapping.
    """
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("not a mapping")
    return found, canonical_json(found) == content and found == sealed(found, seal)


def read_regular(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes. Raises OSError for others.

    Reading a pipe or a device may never end.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        raise OSError(errno.EINVAL, f"no regular file of at most {limit:,} bytes", str(path))
    return path.read_bytes()


def damaged_files(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Return how a folder differs from the files in its manifest, one line for each file.

    Only files that a walk of the folder finds are read, so a name with `..` in it is missing.
    """
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {str(path.relative_to(folder)): path for path in paths}
    damage = [f"{name}: missing" for name in files if name not in present]
    for name, path in sorted(present.items()):
        if name == MANIFEST:
            continue
        if name not in files:
            damage.append(f"{name}: not in the manifest")
        elif path.is_symlink() or not path.is_file():
            damage.append(f"{name}: a link, a pipe or a device instead of a file")
        elif path.stat().st_size != files[name].num_bytes:
            damage.append(f"{name}: {path.stat().st_size} bytes instead of {files[name].num_bytes}")
        elif sha256_file(path) != files[name].sha256:
            damage.append(f"{name}: its SHA-256 changed")
    return damage


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Return every file below `folder` except the manifest, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            entry = FileEntry(sha256=sha256_file(path), num_bytes=path.stat().st_size)
            found[str(path.relative_to(folder))] = entry
    return found
