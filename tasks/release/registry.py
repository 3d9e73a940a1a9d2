"""The champion of a data set: a candidate is settled by the gate, or by a person's decision.

A decision is appended to the journal first. Pages and `champion.json` follow from it, so the next
command completes what a killed one left. Everything that writes holds the data set's lock. Neither
Prefect nor torch is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from pipeline_config.sections import Section
from tasks.bundle.contents import METRICS, ONNX, RECIPE, bundle_folder, models_lock, read_bundle
from tasks.release.decision_page import stale_pages
from tasks.release.gate import Judgement
from tasks.release.journal import (
    FORCED,
    KEPT,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    Champion,
    Entry,
    champion_of,
    pointer_fault,
    read_journal,
)
from tasks.release.record import Candidate, append, as_champion, follow, is_unfinished, repaired
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import locked
from tasks.runtime.manifest import MANIFEST


class Decision(Section):
    """What the journal says about a candidate; `is_new`: it was decided in this call."""

    event: str
    champion: Champion | None
    reason: str
    is_new: bool


# Judges the candidate against the champion, or by itself where there is no intact champion.
Judge = Callable[[Champion | None], Judgement]


def candidate_of(dataset: str, version: str, competes: bool) -> Candidate:
    """Return a published version as a candidate. Raises ReleaseError unless it is intact."""
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
    """Judge a candidate once and record the decision. `why` makes it champion in any case.

    Settling it again changes nothing and completes what a crash left.
    """
    with locked(models_lock(dataset)):
        entries = repaired(dataset)
        decision = decided(entries, candidate.version, why)
        if decision is None:
            _judge(dataset, entries, candidate, judge, why)
            last = entries[-1]
            decision = Decision(
                event=last.event, champion=last.champion, reason=last.reason, is_new=True
            )
        follow(dataset, entries, candidate.version)
    return decision


def decided(entries: list[Entry], version: str, why: str | None) -> Decision | None:
    """Return what was decided about a version before; None where it has to be judged.

    A version is judged once: reruns never alternate between two champions, and a rollback holds
    until a person gives a reason to undo it.
    """
    champion = champion_of(entries)
    if champion is not None and champion.version == version:
        reason = "it is the champion already"
        return Decision(event=PROMOTED, champion=champion, reason=reason, is_new=False)
    known = [entry for entry in entries if entry.version == version]
    if why is not None or not known:
        return None
    last = known[-1]
    reason = f"decided before, in line {last.seq} of the journal: {last.event}, {last.reason}"
    return Decision(event=KEPT, champion=champion, reason=reason, is_new=False)


def _judge(
    dataset: str, entries: list[Entry], candidate: Candidate, judge: Judge, why: str | None
) -> None:
    """Append the decision on a candidate that is judged for the first time or promoted by force."""
    champion = champion_of(entries)
    if not candidate.competes and why is None:
        reason = f"recipe {candidate.recipe} does not compete"
        return append(dataset, entries, candidate, KEPT, champion, reason)
    damage: list[str] = []
    if champion:
        manifest, lines = read_bundle(dataset, champion.version)
        # Damage to a figure of the champion does not matter to the comparison.
        needed = (MANIFEST, ONNX, RECIPE)
        damage = [line for line in lines if not manifest or line.partition(":")[0] in needed]
    if champion and damage and why is None:
        raise ReleaseError(
            f"champion {dataset}/{champion.version}",
            found="; ".join(damage),
            expected=f"an intact bundle to compare {candidate.version} with",
            remedy="Run its recipe again, which builds it again, or `idxflow models rollback`; "
            "`idxflow models promote` and --force-promote overrule the gate.",
        )
    judgement = judge(None if damage else champion)
    event = PROMOTED if judgement.passed else REFUSED
    reason = judgement.reason + ("; there was no champion" if champion is None else "")
    if why is not None:
        event = FORCED
        reason = f"by force: {why}; the gate said {'yes' if judgement.passed else 'no'}: {reason}"
    after = champion if event == REFUSED else as_champion(entries, candidate)
    return append(dataset, entries, candidate, event, after, reason, why, judgement)


def promote(dataset: str, candidate: Candidate, why: str) -> Entry | None:
    """Make a version champion in any case; None if it is champion already."""
    if not why.strip():
        raise ReleaseError(
            f"promoting {dataset}/{candidate.version}",
            found="an empty reason",
            expected="a few words for the journal",
            remedy='Say why: --why "…".',
        )
    with locked(models_lock(dataset)):
        entries = repaired(dataset)
        champion = champion_of(entries)
        is_new = champion is None or champion.version != candidate.version
        if is_new:
            after = as_champion(entries, candidate)
            append(dataset, entries, candidate, FORCED, after, f"by hand: {why}", why)
        follow(dataset, entries, candidate.version)
    return entries[-1] if is_new else None


def rollback(dataset: str, why: str | None = None, version: str | None = None) -> Entry | None:
    """Make the champion before this one champion again; returns the journal's entry.

    Called again it goes one champion further back, unless the earlier call was killed: then that
    one is completed. With `version`, nothing happens unless that version is the champion, so a
    script may call it again at any time; None is returned. Raises ReleaseError where there is no
    champion before, or where its bundle is not intact.
    """
    with locked(models_lock(dataset)):
        was_killed = is_unfinished(dataset, read_journal(dataset))
        entries = repaired(dataset)
        present = champion_of(entries)
        is_other = version is not None and (present is None or present.version != version)
        if is_other or (was_killed and version is None and entries[-1].event == ROLLED_BACK):
            follow(dataset, entries)
            return None if is_other else entries[-1]
        former = present and champion_of([each for each in entries if each.seq < present.since])
        if present is None or former is None:
            raise ReleaseError(
                f"the champion of {dataset}",
                found=f"none before {present.version}" if present else "none",
                expected="a champion with one before it",
                remedy="See `idxflow models history`; `idxflow models promote` takes any version.",
            )
        damage = read_bundle(dataset, former.version)[1]
        if damage:
            raise ReleaseError(
                f"the champion before, {dataset}/{former.version}",
                found="; ".join(damage),
                expected="an intact bundle",
                remedy="Publish it again, or choose another with `idxflow models promote`.",
            )
        reason = f"from {present.version} back to {former.version}" + (f": {why}" if why else "")
        append(dataset, entries, former, ROLLED_BACK, former, reason, why)
        follow(dataset, entries)
    return entries[-1]


def is_current(dataset: str, version: str, why: str | None = None) -> list[str]:
    """Return why publishing `version` again would change something, in words; [] if it would not.

    Reads and hashes this version's bundle and page. Takes no lock and writes nothing.
    """
    damage = read_bundle(dataset, version)[1]
    if damage:
        return [f"bundle {version}: {line}" for line in damage]
    entries = read_journal(dataset)
    if decided(entries, version, why) is None:
        return [f"the journal does not say yet what becomes of {version}"]
    fault = pointer_fault(dataset, entries)
    stale = [
        f"{path.name} does not say what the journal says"
        for path, _ in stale_pages(dataset, entries, [version])
    ]
    return [fault, *stale] if fault else stale
