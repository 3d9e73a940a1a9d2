"""The results of a run and of a label audit. Neither Prefect nor torch is imported."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from flows.plan import Plan
from pipeline_config.datasets import dataset_names
from pipeline_config.sections import Section
from tasks.release.bundle import METRICS, bundle_folder
from tasks.release.journal import champion_of, read_journal
from tasks.release.pages import page_path
from tasks.runtime.show import Outcome
from tasks.runtime.stages import PUBLISH
from tasks.runtime.store import StageRef

ADVICE = "nothing was new. Labels would help: `idxflow predict FILES -d {} --to-label 200 DIR`"


class Summary(Section):
    """The result of a run. `event` and `decision` are the journal's last about the version.

    `advice` says what would help where nothing was new.
    """

    version: str
    bundle: str
    report: str
    champion: str | None
    metrics: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    event: str
    decision: str
    advice: str | None = None


class LabelAudit(Section):
    """The result of an audit. The suspects, `num_suspects` rows, are in a Parquet file.

    `estimated_errors` is how many labels confident learning estimates to be wrong.
    """

    dataset: str
    recipe: str
    num_folds: int
    num_rows: int
    num_suspects: int
    estimated_errors: float
    out_of_fold_accuracy: float
    suspects: str
    noise: str
    gallery: str
    stages: tuple[dict[str, Any], ...]


def summarize(dataset: str, version: str, outcomes: Iterable[Outcome]) -> Summary:
    """Return the summary of a published version and of what each stage did."""
    folder, entries = bundle_folder(dataset, version), read_journal(dataset)
    champion = champion_of(entries)
    decisions = [(each.event, each.reason) for each in entries if each.version == version]
    damaged = ("unknown", "the journal's line about this version is damaged")
    event, decision = decisions[-1] if decisions else damaged
    stages = _stages_of(outcomes)
    is_same = all(each["state"] == "cached" for each in stages if each["name"] != PUBLISH.name)
    return Summary(
        version=version,
        bundle=str(folder),
        report=str(page_path(dataset, version)),
        champion=champion.version if champion else None,
        metrics=json.loads((folder / METRICS).read_bytes()),
        stages=stages,
        event=event,
        decision=decision,
        advice=ADVICE.format(dataset) if is_same and dataset in dataset_names() else None,
    )


def audited(plan: Plan, ref: StageRef, outcomes: Iterable[Outcome]) -> LabelAudit:
    """Return the result of an audit and of what each stage did."""
    return LabelAudit(
        dataset=plan.dataset.name,
        recipe=plan.recipe.name,
        **ref.facts,
        suspects=str(ref.path / "suspects.parquet"),
        noise=str(ref.path / "noise.json"),
        gallery=str(ref.path / "gallery.png"),
        stages=_stages_of(outcomes),
    )


def named_suspects(plan: Plan, audit: LabelAudit, limit: int) -> list[dict[str, Any]]:
    """Return the first `limit` suspects, with the names of their classes."""
    import pyarrow.parquet as pq

    names = plan.dataset.class_names
    return [
        {**row, "label": names[row["label"]], "suggested": names[row["suggested"]]}
        for row in pq.read_table(audit.suspects).slice(0, limit).to_pylist()
    ]


def _stages_of(outcomes: Iterable[Outcome]) -> tuple[dict[str, Any], ...]:
    """Return the outcomes as mappings. What a look found is `cached` in a result."""
    return tuple(
        asdict(replace(each, state="cached") if each.state == "hit" else each) for each in outcomes
    )
