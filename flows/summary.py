"""The result of a run: its stages, the headline figures, and where report and model lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from pipeline_config.sections import Section
from tasks.bundle.contents import METRICS, bundle_folder
from tasks.release.decision_page import page_path
from tasks.release.journal import champion_of, read_journal
from tasks.runtime.errors import GateRefused
from tasks.runtime.outcomes import Outcome


class Summary(Section):
    """The result of a run, as `idxflow run --json` prints it. `champion` is a version or None.

    `event` and `decision` are the last event about the version in the journal, and its reason.
    """

    version: str
    bundle: str
    report: str
    champion: str | None
    metrics: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    event: str
    decision: str


def stages_of(outcomes: Iterable[Outcome]) -> tuple[dict[str, Any], ...]:
    """Return the stages' outcomes as mappings. What a look found is `cached` in a result."""
    return tuple(
        asdict(replace(each, state="cached") if each.state == "hit" else each) for each in outcomes
    )


def summarize(dataset: str, version: str, outcomes: Iterable[Outcome]) -> Summary:
    """Return the summary of a published version and of what each stage did."""
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
        stages=stages_of(outcomes),
        event=last.event if last else "unknown",
        decision=last.reason if last else "the journal's line about this version is damaged",
    )


def refusal(summary: Summary) -> GateRefused:
    """Return the error that ends the run in which the gate refused a model."""
    champion = summary.champion
    return GateRefused(
        f"version {summary.version}",
        found=summary.decision,
        expected=f"a model that is not worse than champion {champion}"
        if champion
        else "a model that meets its recipe's floor",
        remedy=("The champion stays. " if champion else "There is no champion yet. ")
        + "See the report; `idxflow models promote` overrules the gate.",
        result=summary,
    )
