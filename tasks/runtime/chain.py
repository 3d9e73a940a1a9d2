"""A file of digest-chained lines to which lines are only added, such as a data set's journal.

Each line is a JSON object that holds its own digest and that of the line before, so that a changed
or removed line is found. An incomplete last line is ignored, and the next append removes it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pipeline_config.sections import Record
from tasks.runtime.files import digest_of, write_atomically
from tasks.runtime.manifest import sealed

# What the first line holds in place of the digest of a line before it.
NO_LINE = "0" * 64
TORN = "its last line is torn; the next append cuts it off"


class Line(Record):
    """One line of a chain. `digest` covers the rest; `previous` is the digest of the line before.

    `may_lack_digest`: earlier versions wrote such lines without `digest` and `previous`.
    """

    may_lack_digest: ClassVar[bool] = False
    previous: str = ""
    digest: str = ""


LineT = TypeVar("LineT", bound=Line)


def read_chain(path: Path, cls: type[LineT]) -> list[LineT | None]:
    """Return the file's complete lines, oldest first; None for each damaged one."""
    return [_parsed(line, cls) for line in _split(path)[0]]


def append_line(path: Path, line: LineT, before: LineT | None) -> LineT:
    """Add `line` after the line `before`, atomically; return it with its digests."""
    content = line.model_dump(mode="json")
    content = sealed({**content, "previous": before.digest if before else NO_LINE})
    lines = [*_split(path)[0], _encoded(content)]
    write_atomically(path, b"".join(each + b"\n" for each in lines))
    return type(line).model_validate(content)


def chain_faults(path: Path, cls: type[Line]) -> list[str]:
    """Return a sentence for each fault of a chain; [] for an intact one."""
    faults, before = [], NO_LINE
    for number, line in enumerate(read_chain(path, cls), 1):
        if line is None:
            faults.append(f"line {number} is damaged")
        elif before and line.previous not in ("", before):
            faults.append(f"line {number} does not follow from the line before it")
        before = line.digest if line else ""
    return [*faults, TORN] if _split(path)[1] else faults


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Return the complete lines of a file, and the incomplete one at its end."""
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return lines, rest


@cache
def _parsed(encoded: bytes, cls: type[LineT]) -> LineT | None:
    """Return one line, None for a damaged one. Cached: a run reads its journal several times."""
    try:
        content = json.loads(encoded)
        if cls.may_lack_digest and "digest" not in content:
            return cls.model_validate({**content, "digest": digest_of(content)})
        is_intact = _encoded(content) == encoded and content == sealed(content)
        return cls.model_validate(content) if is_intact else None
    except (AttributeError, TypeError, ValueError, RecursionError):
        return None


def _encoded(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
