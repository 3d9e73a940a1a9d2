"""What a person decides about the champion, with its reason: promotion and rollback."""

from __future__ import annotations

from tasks.bundle.contents import models_lock, read_bundle
from tasks.release.journal import Champion, Entry, champion_of, read_journal
from tasks.release.record import (
    FORCED,
    ROLLED_BACK,
    Candidate,
    append,
    as_champion,
    draft,
    follow,
    is_unfinished,
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
        follow(dataset, entries, candidate.version)
    return entry


def rollback(dataset: str, why: str | None = None, version: str | None = None) -> Entry | None:
    """Give the title back to the champion before this one; returns the journal's entry.

    Called again it goes one champion further back, unless the earlier call was killed: then that
    one is finished. With `version`, nothing is done unless that version is the champion, so a
    script may call it again at any time; None is returned. Raises ReleaseError where there is no
    champion before, or where its bundle is not intact.
    """
    with locked(models_lock(dataset)):
        was_killed = is_unfinished(dataset, read_journal(dataset))
        entries = mended(dataset)
        present, former = champion_of(entries), former_champion(entries)
        is_other = version is not None and (present is None or present.version != version)
        if is_other or (was_killed and version is None and entries[-1].event == ROLLED_BACK):
            follow(dataset, entries)
            return None if is_other else entries[-1]
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
