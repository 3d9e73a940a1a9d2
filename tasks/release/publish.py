"""Stage publish: everything about one model into a bundle, and the champion's pointer.

Never cached: what it makes is idempotent by content, what it decides stands in the journal.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline_config.sections import Section
from tasks.bundle.contents import METRICS, bundle_folder, models_lock
from tasks.bundle.lineage import Lineage
from tasks.release.decision_page import page_path
from tasks.release.journal import REFUSED, count_look, read_journal
from tasks.release.judging import judge, pinned_digest
from tasks.release.registry import candidate_of, settle
from tasks.runtime.files import locked
from tasks.runtime.outcomes import Outcome, record
from tasks.runtime.show import emit, show_image, show_markdown, show_table
from tasks.runtime.stages import PUBLISH


class Published(Section):
    """What became of a model: its bundle's version, who is champion, and why in words.

    `event` is the journal's word for it; `is_new` if it was decided just now.
    """

    dataset: str
    version: str
    champion: str | None
    event: str
    is_new: bool
    reason: str

    @property
    def path(self) -> Path:
        """The folder of the bundle."""
        return bundle_folder(self.dataset, self.version)

    @property
    def refused(self) -> bool:
        """Whether the gate refused it just now."""
        return self.is_new and self.event == REFUSED


def publish_model(lineage: Lineage, why: str | None = None) -> Published:
    """Bring the bundle, then the journal, then the pointer to what `lineage` calls for.

    `why` makes it champion whatever the gate says.
    """
    from tasks.bundle.assemble import ensure_bundle

    clock = time.perf_counter()
    manifest, done = ensure_bundle(lineage)
    dataset, version = manifest.dataset, manifest.version
    _count_evaluation(lineage, version)
    decision = settle(
        dataset,
        candidate_of(dataset, version, lineage.recipe.competes),
        lambda champion: judge(lineage, version, champion),
        why,
    )
    seconds = round(time.perf_counter() - clock, 3)
    reason = f"{done}; {decision.event}: {decision.reason}"
    folder = bundle_folder(dataset, version)
    record(Outcome(PUBLISH.name, "ran", seconds, version, str(folder), reason))
    return Published(
        dataset=dataset,
        version=version,
        champion=decision.champion.version if decision.champion else None,
        event=decision.event,
        is_new=decision.is_new,
        reason=decision.reason,
    )


def _count_evaluation(lineage: Lineage, version: str) -> None:
    """Write down the look that the evaluate stage took, whichever run it took it in.

    It scores the trained network, the untrained one, and those of kept epochs.
    """
    dataset, evaluated = lineage.dataset.name, lineage.evaluated
    curve = json.loads((evaluated.path / METRICS).read_bytes())["test_curve"]
    normalized = lineage.normalized
    rows = (
        normalized.digest
        if normalized.facts["pooled"]
        else pinned_digest(lineage.table.facts["sha256"])
    )
    key = f"evaluate {evaluated.key} {evaluated.manifest.clock.started}"
    with locked(models_lock(dataset)):
        count_look(dataset, "evaluate", lineage.recipe.name, version, 2 + len(curve), rows, key)


def headline(published: Published) -> str:
    """The headline figures and paths as Markdown, for the Prefect UI."""
    metrics = json.loads((published.path / METRICS).read_bytes())
    low, high = (100 * bound for bound in metrics["accuracy_interval_95"])
    standing = (
        "champion"
        if published.champion == published.version
        else (f"champion: `{published.champion}`")
    )
    return (
        f"# {published.dataset} `{published.version}`: {100 * metrics['accuracy']:.2f} %\n\n"
        f"| accuracy on the test split | 95 % interval | macro F1 | loss | before training |\n"
        f"|---|---|---|---|---|\n"
        f"| {100 * metrics['accuracy']:.2f} % | {low:.2f} to {high:.2f} % "
        f"| {metrics['macro_f1']:.4f} | {metrics['loss']:.4f} "
        f"| {100 * metrics['untrained_accuracy']:.2f} % |\n\n"
        f"- {standing}: {published.reason}\n"
        f"- report: `{page_path(published.dataset, published.version)}`\n"
        f"- model: `{published.path / 'model.onnx'}`\n"
    )


def show_decision(published: Published) -> None:
    """Attach what the gate looked at to the task run, and tell Prefect of a refusal."""
    entries = [
        entry
        for entry in read_journal(published.dataset)
        if entry.version == published.version and entry.gate is not None
    ]
    if not entries or entries[-1].gate is None:
        return
    judged = entries[-1]
    rows = [
        {**check.model_dump(), "passed": "yes" if check.passed else "no"}
        for check in entries[-1].gate.checks
    ]
    show_table("gate", rows, f"{judged.event}: {judged.reason}")
    if published.refused:
        emit(
            "idxflow.gate.refused",
            f"idxflow.model.{published.dataset}.{published.version}",
            judged.model_dump(mode="json"),
        )


@task(
    name=PUBLISH.name,
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=600,
    tags=[PUBLISH.name],
)
def publish(lineage: Lineage, why: str | None = None) -> Published:
    """Publish a model and settle whether it is the champion; `why` forces it."""
    published = publish_model(lineage, why)
    show_markdown("published", headline(published), f"{published.dataset} {published.version}")
    show_decision(published)
    matrix = published.path / "figures" / "confusion_matrix.png"
    if matrix.is_file():
        show_image("confusion-matrix-published", matrix, "Confusion matrix on the test split")
    return published
