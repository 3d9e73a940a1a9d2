"""The pointer `champion.json`: a copy of what the journal's last line says, moved by one rename.

Other programs read its `version`. It is made again whenever it differs from the journal. The
journal decides, except where it is shorter than the pointer says: then it has lost its end.
"""

from __future__ import annotations

from pathlib import Path

from pipeline_config.base import Record
from pipeline_config.settings import settings
from tasks.release.journal import Champion, Entry, champion_of
from tasks.runtime.files import canonical_json, digest_of, read_sealed, write_atomically


class Pointer(Record):
    """The champion, and the number and digest of the journal's last line."""

    champion: Champion
    seq: int
    journal: str


def pointer_path(dataset: str) -> Path:
    """The pointer's file."""
    return settings().models / dataset / "champion.json"


def read_pointer(dataset: str) -> Pointer | None:
    """The pointer as it stands; None for none and for a damaged one."""
    try:
        found, is_whole = read_sealed(pointer_path(dataset).read_bytes())
        return Pointer.model_validate(found) if is_whole else None
    except (OSError, ValueError):
        return None


def _wanted(entries: list[Entry]) -> Pointer | None:
    """What the pointer has to say; None for no pointer."""
    champion = champion_of(entries)
    if champion is None:
        return None
    return Pointer(champion=champion, seq=entries[-1].seq, journal=entries[-1].digest)


def pointer_fault(dataset: str, entries: list[Entry]) -> str | None:
    """How the pointer differs from what the journal says; None if it does not."""
    path, wanted = pointer_path(dataset), _wanted(entries)
    if not path.exists():
        return None if wanted is None else f"{path.name} is missing"
    is_right = wanted is not None and read_pointer(dataset) == wanted
    return None if is_right else f"{path.name} does not say what the journal says"


def repair_pointer(dataset: str, entries: list[Entry]) -> None:
    """Make the pointer say what the journal says, in today's form."""
    path, wanted = pointer_path(dataset), _wanted(entries)
    if wanted is None:
        path.unlink(missing_ok=True)
        return
    content = {"version": wanted.champion.version, **wanted.model_dump()}
    line = canonical_json({**content, "digest": digest_of(content)})
    if not path.is_file() or path.read_bytes() != line:
        write_atomically(path, line)
