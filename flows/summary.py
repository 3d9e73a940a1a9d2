"""What a run comes to: the stages, the headline figures and where report and model lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flows.explain import Verdict
from pipeline_config.base import Section
from tasks.release.bundle import METRICS, bundle_folder
from tasks.release.journal import champion_of, read_journal
from tasks.runtime.outcomes import Outcome


class Summary(Section):
    """The result of a run, as `idxflow run --json` prints it; `champion` is a version or None."""

    version: str
    bundle: str
    champion: str | None
    metrics: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    decision: str


def summarize(dataset: str, version: str, outcomes: Iterable[Outcome]) -> Summary:
    """The summary of a published version and of what each stage did."""
    folder = bundle_folder(dataset, version)
    entries = read_journal(dataset)
    champion = champion_of(entries)
    return Summary(
        version=version,
        bundle=str(folder),
        champion=champion.version if champion else None,
        metrics=json.loads((folder / METRICS).read_bytes()),
        stages=tuple(vars(outcome) for outcome in outcomes),
        decision=next(entry.reason for entry in reversed(entries) if entry.version == version),
    )


def cached_outcomes(verdicts: Iterable[Verdict]) -> list[Outcome]:
    """The outcomes of a run in which every stage was found intact."""
    return [
        Outcome(verdict.name, "cached", verdict.seconds, verdict.key, verdict.path, verdict.reason)
        for verdict in verdicts
        if verdict.key is not None and verdict.path is not None
    ]
