"""Sealed JSON, which holds its own digest: manifests of folders, and chains of lines.

A manifest names every file of its folder with its SHA-256. A chain is a file to which lines are
only added, such as a data set's journal: each line also holds the digest of the line before, so
that a changed or removed line is found. An incomplete last line is ignored, and the next append
removes it.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pipeline_config.sections import Record
from tasks.runtime.files import canonical_json, digest_of, sha256_file, write_atomically

MANIFEST = "manifest.json"
# No manifest and no metrics are longer.
MAX_JSON_BYTES = 16 * 2**20
# What the first line of a chain holds in place of the digest of a line before it.
NO_LINE = "0" * 64
TORN = "its last line is torn; the next append cuts it off"


class FileEntry(Record):
    """The SHA-256 and the size of one file."""

    sha256: str
    num_bytes: int


def sealed(content: Mapping[str, Any], seal: str = "digest") -> dict[str, Any]:
    """Return `content` with the digest of everything else in it under the key `seal`."""
    rest = {key: value for key, value in content.items() if key != seal}
    return {**rest, seal: digest_of(rest)}


def read_sealed(
    content: bytes, seal: str = "digest", encode: Callable[[Any], bytes] = canonical_json
) -> tuple[dict[str, Any], bool]:
    """Return the mapping in JSON, and whether `encode` gives it back and its seal is right.

    The seal also covers fields of other versions. Raises ValueError for anything but a mapping.
    """
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("not a mapping")
    return found, encode(found) == content and found == sealed(found, seal)


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


class Line(Record):
    """One line of a chain. `digest` covers the rest; `previous` is the digest of the line before.

    `may_lack_digest`: earlier versions wrote such lines without `digest` and `previous`.
    """

    may_lack_digest: ClassVar[bool] = False
    previous: str = ""
    digest: str = ""


LineT = TypeVar("LineT", bound=Line)


def read_chain(path: Path, cls: type[LineT]) -> tuple[list[LineT | None], list[str]]:
    """Return a chain's complete lines, oldest first, and a sentence for each fault.

    A damaged line is None.
    """
    complete, incomplete = _split(path)
    lines = [_parsed(line, cls) for line in complete]
    faults, before = [], NO_LINE
    for number, line in enumerate(lines, 1):
        if line is None:
            faults.append(f"line {number} is damaged")
        elif before and line.previous not in ("", before):
            faults.append(f"line {number} does not follow from the line before it")
        before = line.digest if line else ""
    return lines, [*faults, TORN] if incomplete else faults


def append_line(path: Path, line: LineT, before: LineT | None) -> LineT:
    """Add `line` after the line `before`, atomically; return it with its digests."""
    content = line.model_dump(mode="json")
    content = sealed({**content, "previous": before.digest if before else NO_LINE})
    lines = [*_split(path)[0], _encoded(content)]
    write_atomically(path, b"".join(each + b"\n" for each in lines))
    return type(line).model_validate(content)


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Return the complete lines of a file, and the incomplete one at its end."""
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return lines, rest


@cache
def _parsed(encoded: bytes, cls: type[LineT]) -> LineT | None:
    """Return one line, None for a damaged one. Cached: a run reads its journal several times."""
    try:
        content, is_intact = read_sealed(encoded, encode=_encoded)
        if cls.may_lack_digest and "digest" not in content:
            return cls.model_validate({**content, "digest": digest_of(content)})
        return cls.model_validate(content) if is_intact else None
    except (ValueError, RecursionError):
        return None


def _encoded(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
