"""The pointer `champion.json`: a copy of what the journal's last line says, moved by one rename.

It is made again whenever the two differ. The journal decides, except where it is shorter than the
pointer says: then it has lost its end.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pipeline_config.base import Section
from pipeline_config.settings import settings
from tasks.release.journal import Champion, Entry, champion_of
from tasks.runtime.files import canonical_json, digest_of, write_atomically


class Pointer(Section):
    """The champion, and the journal's last line, by number and digest; `digest` covers the rest."""

    champion: Champion
    seq: int
    journal: str
    digest: str = ""

    def digest_of_the_rest(self) -> str:
        """The SHA-256 of the pointer less its digest."""
        return digest_of(self.model_dump(exclude={"digest"}))


def pointer_path(dataset: str) -> Path:
    """The pointer's file."""
    return settings().models / dataset / "champion.json"


def read_pointer(dataset: str) -> Pointer | None:
    """The pointer as it stands; None for none and for a damaged one."""
    try:
        pointer = Pointer.model_validate_json(pointer_path(dataset).read_bytes())
    except (OSError, ValidationError):
        return None
    return pointer if pointer.digest == pointer.digest_of_the_rest() else None


def _pointer_content(entries: list[Entry]) -> bytes | None:
    """What the pointer has to say; None for no pointer."""
    champion = champion_of(entries)
    if champion is None:
        return None
    last = entries[-1]
    pointer = Pointer(champion=champion, seq=last.seq, journal=last.digest)
    told = {**pointer.model_dump(), "digest": pointer.digest_of_the_rest()}
    return canonical_json(told)


def pointer_fault(dataset: str, entries: list[Entry]) -> str | None:
    """How the pointer differs from what the journal says; None if it does not."""
    path = pointer_path(dataset)
    wanted = _pointer_content(entries)
    found = path.read_bytes() if path.is_file() else None
    if found == wanted:
        return None
    if found is None:
        return f"{path.name} is missing"
    return f"{path.name} does not say what the journal says"


def repair_pointer(dataset: str, entries: list[Entry]) -> None:
    """Make the pointer say what the journal says."""
    if pointer_fault(dataset, entries) is None:
        return
    content = _pointer_content(entries)
    if content is None:
        pointer_path(dataset).unlink(missing_ok=True)
    else:
        write_atomically(pointer_path(dataset), content)
