"""Which version of a data set's models is the champion, and how that came about.

The journal decides: a line is appended and fsynced before the pointer `champion.json` moves. The
pointer is a copy of what the journal's last line says, made again whenever the two differ. Pure:
neither Prefect nor torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pipeline_config.base import Section
from pipeline_config.settings import settings
from tasks.release.bundle import METRICS, bundle_folder, read_bundle
from tasks.release.journal import (
    Champion,
    Entry,
    append_line,
    champion_of,
    journal_path,
    read_journal,
)
from tasks.runtime.files import canonical_json, locked, write_atomically

PROMOTED, KEPT, ADOPTED = "promoted", "kept", "adopted"


class Candidate(Section):
    """A published version that asks to become champion; `accuracy` is on the test split."""

    version: str
    recipe: str
    accuracy: float
    competes: bool


@dataclass(frozen=True)
class Decision:
    """What the journal says about a candidate; `is_new` if it has yet to be written down."""

    event: str
    champion: Champion | None
    reason: str
    is_new: bool


def registry_lock(dataset: str) -> str:
    """The name of the lock under which a data set's bundles, journal and pointer are written."""
    return f"models-{dataset}"


def pointer_path(dataset: str) -> Path:
    """The pointer's file."""
    return settings().models / dataset / "champion.json"


def decide(dataset: str, entries: list[Entry], candidate: Candidate) -> Decision:
    """What becomes of `candidate`, whose bundle is there already; hashes the champion's bundle.

    A version is judged once. It is judged again only where it would now win outright: against a
    champion that is worse, or whose bundle is damaged. So reruns never trade places for ever.
    """
    champion = champion_of(entries)
    if champion is not None and champion.version == candidate.version:
        return Decision(PROMOTED, champion, "it is the champion already", is_new=False)
    known = any(entry.version == candidate.version for entry in entries)
    damage = read_bundle(dataset, champion.version)[1] if champion else []
    wins, reason = _judge(candidate, champion, damage)
    if wins and champion and not damage and known and candidate.accuracy == champion.accuracy:
        wins, reason = False, f"{_words(champion)} is as accurate and was preferred before"
    if not wins:
        return Decision(KEPT, champion, reason, is_new=not known)
    new = Champion(
        version=candidate.version,
        recipe=candidate.recipe,
        accuracy=candidate.accuracy,
        since=_next_seq(entries),
    )
    return Decision(PROMOTED, new, reason, is_new=True)


def _judge(candidate: Candidate, champion: Champion | None, damage: list[str]) -> tuple[bool, str]:
    """Whether the candidate may take the champion's place, and why in words."""
    score = f"accuracy {candidate.accuracy:.4f} on the test split"
    broken = f"; the bundle of {_words(champion)} is damaged ({'; '.join(damage)})"
    if not candidate.competes:
        reason = f"recipe {candidate.recipe} does not compete"
        return False, reason + (broken + ": publish that version again" if damage else "")
    if champion is None:
        return True, f"{score}; there was no champion"
    if damage:
        return True, score + broken
    better = candidate.accuracy >= champion.accuracy
    sign = "<" if not better else ">" if candidate.accuracy > champion.accuracy else "="
    return better, f"{score} {sign} {champion.accuracy:.4f} of {_words(champion)}"


def _words(champion: Champion | None) -> str:
    return f"champion {champion.version} ({champion.recipe})" if champion else "no champion"


def _next_seq(entries: list[Entry]) -> int:
    return entries[-1].seq + 1 if entries else 1


def settle(dataset: str, candidate: Candidate) -> Decision:
    """Judge `candidate`, write it down, then bring the pointer in line with the journal.

    Doing it again changes nothing; what a crash left undone between the two is made good.
    """
    with locked(registry_lock(dataset)):
        entries = read_journal(dataset) or _adopt_pointer(dataset)
        decision = decide(dataset, entries, candidate)
        if decision.is_new:
            entries.append(_record(dataset, entries, candidate, decision))
        _repair_pointer(dataset, champion_of(entries))
    return decision


def _record(
    dataset: str, entries: list[Entry], subject: Candidate | Champion, decision: Decision
) -> Entry:
    """Append a decision to the journal; returns its entry."""
    entry = Entry(
        seq=_next_seq(entries),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        event=decision.event,
        version=subject.version,
        recipe=subject.recipe,
        accuracy=subject.accuracy,
        champion=decision.champion,
        reason=decision.reason,
    )
    append_line(journal_path(dataset), entry.line())
    return entry


def _adopt_pointer(dataset: str) -> list[Entry]:
    """A journal that was lost, begun anew with the champion that the pointer still names."""
    try:
        pointer = Champion.model_validate_json(pointer_path(dataset).read_bytes())
    except (OSError, ValidationError):
        return []
    reason = f"the journal was lost; {pointer_path(dataset).name} named this version"
    champion = pointer.model_copy(update={"since": 1})
    return [_record(dataset, [], champion, Decision(ADOPTED, champion, reason, is_new=True))]


def _pointer_content(champion: Champion | None) -> bytes | None:
    return canonical_json(champion.model_dump()) if champion else None


def _pointer_fault(dataset: str, champion: Champion | None) -> str | None:
    """How the pointer differs from what the journal says; None if it does not."""
    path = pointer_path(dataset)
    wanted = _pointer_content(champion)
    found = path.read_bytes() if path.is_file() else None
    if found == wanted:
        return None
    if found is None:
        return f"{path.name} is missing"
    return f"{path.name} does not say what the journal says"


def _repair_pointer(dataset: str, champion: Champion | None) -> None:
    """Make the pointer say what the journal says."""
    if _pointer_fault(dataset, champion) is None:
        return
    content = _pointer_content(champion)
    if content is None:
        pointer_path(dataset).unlink(missing_ok=True)
    else:
        write_atomically(pointer_path(dataset), content)


def is_current(dataset: str, version: str, competes: bool) -> list[str]:
    """Why publishing `version` once more would change something, in words; [] if it would not.

    Reads and hashes the bundle and the champion's; takes no lock and writes nothing.
    """
    manifest, damage = read_bundle(dataset, version)
    if manifest is None or damage:
        return [f"bundle {version}: {line}" for line in damage]
    entries = read_journal(dataset)
    metrics = json.loads((bundle_folder(dataset, version) / METRICS).read_bytes())
    candidate = Candidate(
        version=version,
        recipe=manifest.recipe,
        accuracy=metrics["accuracy"],
        competes=competes,
    )
    decision = decide(dataset, entries, candidate)
    if decision.is_new:
        return [f"the journal does not say yet what became of {version}: {decision.reason}"]
    fault = _pointer_fault(dataset, champion_of(entries))
    return [fault] if fault else []
