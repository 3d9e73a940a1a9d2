"""Stage publish: everything about one model into a bundle, and the champion's pointer.

Never cached: what it makes is idempotent by content, what it decides stands in the journal.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline_config.base import Section
from pipeline_config.datasets import Dataset
from pipeline_config.recipe import Recipe
from tasks.release.bundle import METRICS, bundle_folder
from tasks.release.lineage import Lineage
from tasks.release.registry import Candidate, settle
from tasks.runtime.artifacts import show_image, show_markdown
from tasks.runtime.devices import Machine
from tasks.runtime.manifest import StageRef
from tasks.runtime.outcomes import Outcome, record
from tasks.runtime.stages import PUBLISH


class Published(Section):
    """What became of a model: its bundle's version, whether it is champion, and why in words."""

    dataset: str
    version: str
    champion: bool
    champion_version: str | None
    reason: str

    @property
    def path(self) -> Path:
        """The folder of the bundle."""
        return bundle_folder(self.dataset, self.version)


def publish_model(lineage: Lineage) -> Published:
    """Bring the bundle, then the journal, then the pointer to what `lineage` calls for."""
    from tasks.release.assemble import ensure_bundle

    clock = time.perf_counter()
    manifest, done = ensure_bundle(lineage)
    dataset, version = manifest.dataset, manifest.version
    folder = bundle_folder(dataset, version)
    candidate = Candidate(
        version=version,
        recipe=lineage.recipe.name,
        accuracy=json.loads((folder / METRICS).read_bytes())["accuracy"],
        competes=lineage.recipe.competes,
    )
    decision = settle(dataset, candidate)
    seconds = round(time.perf_counter() - clock, 3)
    reason = f"{done}; {decision.event}: {decision.reason}"
    record(Outcome(PUBLISH, "ran", seconds, version, str(folder), reason))
    champion = decision.champion.version if decision.champion else None
    return Published(
        dataset=dataset,
        version=version,
        champion=champion == version,
        champion_version=champion,
        reason=decision.reason,
    )


def headline(published: Published) -> str:
    """The headline figures and paths as Markdown, for the Prefect UI."""
    metrics = json.loads((published.path / METRICS).read_bytes())
    low, high = (100 * bound for bound in metrics["accuracy_interval_95"])
    standing = "champion" if published.champion else f"champion: `{published.champion_version}`"
    return (
        f"# {published.dataset} `{published.version}`: {100 * metrics['accuracy']:.2f} %\n\n"
        f"| accuracy on the test split | 95 % interval | macro F1 | loss | before training |\n"
        f"|---|---|---|---|---|\n"
        f"| {100 * metrics['accuracy']:.2f} % | {low:.2f} to {high:.2f} % "
        f"| {metrics['macro_f1']:.4f} | {metrics['loss']:.4f} "
        f"| {100 * metrics['untrained_accuracy']:.2f} % |\n\n"
        f"- {standing}: {published.reason}\n"
        f"- report: `{published.path / 'report.html'}`\n"
        f"- model: `{published.path / 'model.onnx'}`\n"
    )


@task(
    name=PUBLISH,
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=600,
    tags=[PUBLISH],
)
def publish(
    recipe: Recipe,
    dataset: Dataset,
    machine: Machine,
    raw: StageRef,
    checked: StageRef,
    table: StageRef,
    normalized: StageRef,
    trained: StageRef,
    evaluated: StageRef,
) -> Published:
    """Publish a model and settle whether it is the champion."""
    lineage = Lineage(recipe, dataset, machine, raw, checked, table, normalized, trained, evaluated)
    published = publish_model(lineage)
    show_markdown("published", headline(published), f"{published.dataset} {published.version}")
    matrix = published.path / "figures" / "confusion_matrix.png"
    if matrix.is_file():
        show_image("confusion-matrix-published", matrix, "Confusion matrix on the test split")
    return published
