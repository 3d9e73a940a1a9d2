"""What a person decides about the champion, with its reason: promotion and rollback."""

from __future__ import annotations

from tasks.bundle.contents import models_lock, read_bundle
from tasks.release.journal import Champion, Entry, champion_of
from tasks.release.record import (
    FORCED,
    ROLLED_BACK,
    Candidate,
    append,
    as_champion,
    draft,
    follow,
    mended,
)
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import locked


def promote(dataset: str, candidate: Candidate, why: str) -> Entry | None:
    """Make a version champion whatever the gate said; None if it is that already.

    Raises ReleaseError for an empty reason.
    """
    if not why.strip():
        raise ReleaseError(
            f"promoting {dataset}/{candidate.version}",
            found="an empty reason",
            expected="a few words for the journal",
            remedy='Say why: --why "…".',
        )
    with locked(models_lock(dataset)):
        entries = mended(dataset)
        champion = champion_of(entries)
        entry = None
        if champion is None or champion.version != candidate.version:
            after = as_champion(entries, candidate)
            forced = draft(entries, candidate, FORCED, after, f"by hand: {why}", why)
            entry = append(dataset, entries, forced)
            entries.append(entry)
        follow(dataset, entries)
    return entry


def rollback(dataset: str, why: str | None = None) -> Entry:
    """Give the title back to the champion before this one; said again, to the one before that.

    Raises ReleaseError where there is none, or where its bundle is not intact.
    """
    with locked(models_lock(dataset)):
        entries = mended(dataset)
        present, former = champion_of(entries), former_champion(entries)
        if present is None or former is None:
            raise ReleaseError(
                f"the champion of {dataset}",
                found=f"none before {present.version}" if present else "none",
                expected="a champion with one before it, to go back to",
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
        back = draft(entries, former, ROLLED_BACK, former, reason, why)
        entry = append(dataset, entries, back)
        follow(dataset, [*entries, entry])
    return entry


def former_champion(entries: list[Entry]) -> Champion | None:
    """Who held the title when the present champion first took it."""
    champion = champion_of(entries)
    if champion is None:
        return None
    return champion_of([entry for entry in entries if entry.seq < champion.since])
