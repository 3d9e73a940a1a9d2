"""The versions that a candidate is compared with: the reference and the champion."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from tasks.dataset.shards import retracted_shards
from tasks.release import bundle
from tasks.release.journal import Entry, reigns_of
from tasks.release.margins import paired_difference
from tasks.runtime.errors import ReleaseError


def rivals_of(dataset: str, entries: list[Entry]) -> tuple[str | None, str | None]:
    """Return the versions that a candidate is compared with: the reference and the champion.

    A version that was trained on a shard which was retracted later is neither: the last one before
    it takes its place.
    """
    reigns = [*reigns_of(entries)]
    pairs = ([each.reference for each in reigns], [each.champion.version for each in reigns])
    reference, champion = (
        next((name for name in names if not saw_retracted(dataset, name)), None) for names in pairs
    )
    return reference, champion


def saw_retracted(dataset: str, version: str) -> list[str]:
    """Return the times of the retractions of shards that a version was trained on."""
    retracted = retracted_shards(dataset)
    seen = bundle.shards_of(dataset, version) if retracted else set()
    return sorted(time for name, time in retracted.items() if name in seen)


def reference_after(dataset: str, entries: list[Entry], version: str) -> str | None:
    """Return the reference after a person promotes `version`.

    It is the version if that is better than the reference beyond doubt, by their answers for the
    test rows. A version that was trained on rows of the test set is never the reference.
    """
    present, _ = rivals_of(dataset, entries)
    if bundle.is_pooled(bundle.bundle_folder(dataset, version)):
        return present
    if present is None or bundle.is_pooled(bundle.bundle_folder(dataset, present)):
        return version
    folders = (bundle.bundle_folder(dataset, name) for name in (version, present))
    with suppress(ReleaseError):
        (rows, new_N), (others, old_N) = map(bundle.correct_rows, folders)
        if np.array_equal(rows, others) and paired_difference(new_N, old_N)[2][0] > 0:
            return version
    return present
