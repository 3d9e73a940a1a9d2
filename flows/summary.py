"""What a run comes to: the stages, the headline figures and where report and model lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flows.explain import StageStatus
from pipeline_config.sections import Section
from tasks.release.bundle import METRICS, bundle_folder
from tasks.release.journal import champion_of, read_journal
from tasks.release.pages import page_path
from tasks.runtime.errors import GateRefused
from tasks.runtime.outcomes import Outcome


class Summary(Section):
    """The result of a run, as `idxflow run --json` prints it; `champion` is a version or None.

    `decision` is the journal's last word on the version, its `event` and its reason.
    """

    version: str
    bundle: str
    report: str
    champion: str | None
    metrics: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    event: str
    decision: str


def summarize(dataset: str, version: str, outcomes: Iterable[Outcome]) -> Summary:
    """The summary of a published version and of what each stage did."""
    folder = bundle_folder(dataset, version)
    entries = read_journal(dataset)
    champion = champion_of(entries)
    last = next((entry for entry in reversed(entries) if entry.version == version), None)
    return Summary(
        version=version,
        bundle=str(folder),
        report=str(page_path(dataset, version)),
        champion=champion.version if champion else None,
        metrics=json.loads((folder / METRICS).read_bytes()),
        stages=tuple(vars(outcome) for outcome in outcomes),
        event=last.event if last else "unknown",
        decision=last.reason if last else "the journal's line about this version is damaged",
    )


def refusal(summary: Summary) -> GateRefused:
    """The error that ends the run in which the gate refused a model."""
    return GateRefused(
        f"version {summary.version}",
        found=summary.decision,
        expected=f"a model that is not worse than champion {summary.champion}"
        if summary.champion
        else "a model that meets its recipe's floor",
        remedy=("The champion stays. " if summary.champion else "There is no champion yet. ")
        + "See the report; `idxflow models promote` overrules the gate.",
        result=summary,
    )


def cached_outcomes(statuses: Iterable[StageStatus]) -> list[Outcome]:
    """The outcomes of a run in which every stage was found intact."""
    return [
        Outcome(status.name, "cached", status.seconds, status.key, status.path, status.reason)
        for status in statuses
        if status.key is not None and status.path is not None
    ]
