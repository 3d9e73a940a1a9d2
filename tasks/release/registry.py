"""Which version of a data set's models is the champion, and how a candidate becomes it.

The journal decides: a line is appended and fsynced before the pointer moves. Pure: neither Prefect
nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tasks.bundle.contents import METRICS, ONNX, RECIPE, bundle_folder, models_lock, read_bundle
from tasks.release.decision_page import stale_pages
from tasks.release.gate import Judgement
from tasks.release.journal import Champion, Entry, champion_of, read_journal
from tasks.release.pointer import pointer_fault
from tasks.release.record import (
    FORCED,
    KEPT,
    PROMOTED,
    REFUSED,
    Candidate,
    append,
    as_champion,
    draft,
    follow,
    mended,
)
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import locked
from tasks.runtime.manifest import MANIFEST


@dataclass(frozen=True)
class Decision:
    """What the journal says about a candidate; `is_new` if it was written down just now."""

    event: str
    champion: Champion | None
    reason: str
    is_new: bool


# Holds a candidate against the champion, or against nobody where there is none that is intact.
Judge = Callable[[Champion | None], Judgement]


def candidate_of(dataset: str, version: str, competes: bool) -> Candidate:
    """A published version as a candidate; raises ReleaseError unless its bundle is intact."""
    manifest, damage = read_bundle(dataset, version)
    if manifest is None or damage:
        raise ReleaseError(
            f"{dataset}/{version}",
            found="; ".join(damage),
            expected="an intact bundle",
            remedy="Run the command that made it again: what is damaged is built again.",
        )
    metrics = json.loads((bundle_folder(dataset, version) / METRICS).read_bytes())
    return Candidate(
        version=version, recipe=manifest.recipe, accuracy=metrics["accuracy"], competes=competes
    )


def settle(dataset: str, candidate: Candidate, judge: Judge, why: str | None = None) -> Decision:
    """Judge `candidate`, write it down, then bring pointer and pages in line with the journal.

    `why` makes it champion whatever the judgement is, and is recorded beside it. Doing it again
    changes nothing; what a crash left undone is made good.
    """
    with locked(models_lock(dataset)):
        entries = mended(dataset)
        decision = standing(entries, candidate.version, why)
        if decision is None:
            entry = append(dataset, entries, _decided(dataset, entries, candidate, judge, why))
            entries.append(entry)
            decision = Decision(entry.event, entry.champion, entry.reason, is_new=True)
        follow(dataset, entries, candidate.version)
    return decision


def standing(entries: list[Entry], version: str, why: str | None) -> Decision | None:
    """What the journal says about a version already; None where it has to be judged.

    A version is judged once, so that reruns never trade places for ever, and what was rolled back
    stays so until somebody says why it should return.
    """
    champion = champion_of(entries)
    if champion is not None and champion.version == version:
        return Decision(PROMOTED, champion, "it is the champion already", is_new=False)
    known = [entry for entry in entries if entry.version == version]
    if why is not None or not known:
        return None
    last = known[-1]
    reason = f"decided before, in line {last.seq} of the journal: {last.event}, {last.reason}"
    return Decision(KEPT, champion, reason, is_new=False)


def _decided(
    dataset: str, entries: list[Entry], candidate: Candidate, judge: Judge, why: str | None
) -> Entry:
    """The entry of a candidate that is judged for the first time, or promoted by force."""
    champion = champion_of(entries)
    if not candidate.competes and why is None:
        reason = f"recipe {candidate.recipe} does not compete"
        return draft(entries, candidate, KEPT, champion, reason)
    damage = _unfit_to_judge(dataset, champion) if champion else []
    if champion and damage and why is None:
        raise ReleaseError(
            f"champion {dataset}/{champion.version}",
            found="; ".join(damage),
            expected=f"an intact bundle to hold {candidate.version} against",
            remedy="Run its recipe again, which builds it again, or `idxflow models rollback`; "
            "`idxflow models promote` and --force-promote overrule the gate.",
        )
    judgement = judge(None if damage else champion)
    reason = judgement.reason + ("; there was no champion" if champion is None else "")
    if why is not None:
        reason = f"by force: {why}; the gate said {'yes' if judgement.passed else 'no'}: {reason}"
    wins = judgement.passed or why is not None
    event = FORCED if why is not None else PROMOTED if wins else REFUSED
    after = as_champion(entries, candidate) if wins else champion
    return draft(entries, candidate, event, after, reason, why, judgement)


def _unfit_to_judge(dataset: str, champion: Champion) -> list[str]:
    """Damage to the champion's manifest, model or recipe; a figure of it judges nobody."""
    manifest, damage = read_bundle(dataset, champion.version)
    needed = (MANIFEST, ONNX, RECIPE)
    return [line for line in damage if manifest is None or line.partition(":")[0] in needed]


def is_current(dataset: str, version: str, why: str | None = None) -> list[str]:
    """Why publishing `version` once more would change something, in words; [] if it would not.

    Reads and hashes its bundle and its page, no other version's; takes no lock, writes nothing.
    """
    damage = read_bundle(dataset, version)[1]
    if damage:
        return [f"bundle {version}: {line}" for line in damage]
    entries = read_journal(dataset)
    if standing(entries, version, why) is None:
        return [f"the journal does not say yet what becomes of {version}"]
    fault = pointer_fault(dataset, entries)
    stale = [
        f"{path.name} does not say what the journal says"
        for path, _ in stale_pages(dataset, entries, [version])
    ]
    return [fault, *stale] if fault else stale
