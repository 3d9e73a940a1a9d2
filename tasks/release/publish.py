"""The publish stage: build a model's bundle, judge it against the champion, record the decision.

It is never cached. A bundle that is intact is kept, and a decision is in the journal.

Axes: N test rows, P pixels, C classes.
"""

from __future__ import annotations

import json
import time

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline_config.gate import gate_for
from pipeline_config.sections import read_yaml
from pipeline_config.settings import settings
from tasks.dataset.table import read_rows
from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import METRICS, ONNX, RECIPE, bundle_folder, models_lock
from tasks.release.gate import Judgement, Scores, above_floor, compare_scores, criterion, unseen
from tasks.release.journal import Champion, count_look, pinned_digest, read_journal, read_looks
from tasks.release.pages import page_path
from tasks.release.registry import Decision, candidate_of, settle
from tasks.runtime.files import locked
from tasks.runtime.show import emit, show_image, show_markdown, show_table
from tasks.runtime.stages import PUBLISH, Outcome, record


def _count_evaluation(lineage: Lineage, version: str) -> None:
    """Count the look of the evaluate stage, at a network, its untrained one and kept epochs."""
    dataset, evaluated, normalized = lineage.dataset.name, lineage.evaluated, lineage.normalized
    networks = 2 + len(json.loads((evaluated.path / METRICS).read_bytes())["test_curve"])
    pinned = pinned_digest(lineage.table.facts["sha256"])
    rows = normalized.digest if normalized.facts["pooled"] else pinned
    key = f"evaluate {evaluated.key} {evaluated.manifest.clock.started}"
    with locked(models_lock(dataset)):
        count_look(dataset, "evaluate", lineage.recipe.name, version, networks, rows, key)


def judge_version(lineage: Lineage, version: str, champion: Champion | None) -> Judgement:
    """Return the gate's judgement of a version: against the champion, or the recipe's floor alone.

    Both models are scored here by their ONNX models, on the pinned test rows: the data set's own
    test split, complete and in order. The look at these rows is counted before it is taken.
    """
    dataset, recipe, facts = lineage.dataset.name, lineage.recipe, lineage.table.facts
    pinned, num_rows, rival = pinned_digest(facts["sha256"]), facts["rows"]["test"], None
    checks = [unseen(is_pooled=lineage.normalized.facts["pooled"])]
    if checks[0].passed:
        if champion is not None:
            made_with = read_yaml(bundle_folder(dataset, champion.version) / RECIPE)
            is_pooled = made_with["split"]["test"]["kind"] == "pooled"
            rival = None if is_pooled else champion.version
        # After a kill it is the same look. Judged by force later, it is another one.
        key = f"gate {version} {rival} {len(read_journal(dataset))}"
        count_look(dataset, "gate", recipe.name, version, 2 if rival else 1, pinned, key)
        rows = facts["rows"]["train"] + np.arange(num_rows)
        images_NP, labels_N = read_rows(lineage.table, rows)
        images_NHW = images_NP.reshape(-1, *facts["image_shape"])
        scores = _scores_of(dataset, version, images_NHW, labels_N)
        checks = [above_floor(scores.accuracy, recipe.floors.get(dataset)), *checks]
        if rival is not None:
            other = _scores_of(dataset, rival, images_NHW, labels_N)
            names = lineage.dataset.class_names
            checks = [*compare_scores(scores, other, labels_N, gate_for(dataset), names), *checks]
        elif champion is not None:
            words = f"champion {champion.version} was trained on rows of the pinned test set"
            checks.append(criterion("champion", 1.0, 1.0, f"{words}: nothing to compare"))
    looks = len(read_looks(dataset))
    shown = {"test_rows": pinned, "num_rows": num_rows, "looks": looks, "champion": rival}
    return Judgement(checks=tuple(checks), **shown)


def _scores_of(
    dataset: str, version: str, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]
) -> Scores:
    """Return the scores of a version's ONNX model on the rows."""
    from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
    from tasks.evaluation.metrics import mean_loss
    from tasks.release.onnx_model import read_model

    content = (bundle_folder(dataset, version) / ONNX).read_bytes()
    likely_NC = read_model(content, ONNX).probabilities(images_NHW)
    sure, right_N = sureness(likely_NC, labels_N), likely_NC.argmax(axis=1) == labels_N
    by_chance = error_by_chance(sure)[1][1]
    return Scores(right_N, mean_loss(likely_NC, labels_N), calibration_error(sure), by_chance)


def decision_in_markdown(decision: Decision) -> str:
    """Return a version's accuracy and standing, and where its report and its model are."""
    accuracy = json.loads((decision.path / METRICS).read_bytes())["accuracy"]
    is_champion = decision.champion == decision.version
    standing = "champion" if is_champion else f"champion: `{decision.champion}`"
    page, url = page_path(decision.dataset, decision.version), settings().pages_url
    link = f"[{page.name}]({url}/{page.relative_to(settings().root)})" if url else f"`{page}`"
    return (
        f"# {decision.dataset} `{decision.version}`: {accuracy:.2%}\n\n"
        f"- {standing}: {decision.reason}\n"
        f"- report: {link}\n"
        f"- model: `{decision.path / ONNX}`\n"
    )


def show_decision(decision: Decision) -> None:
    """Attach figures and criteria to the task run, and emit an event if the gate refused it."""
    dataset, version = decision.dataset, decision.version
    show_markdown("published", decision_in_markdown(decision), f"{dataset} {version}")
    entries = [entry for entry in read_journal(dataset) if entry.version == version and entry.gate]
    for entry in entries[-1:]:
        rows = [check.model_dump(mode="json") for check in entry.gate.checks] if entry.gate else []
        show_table("gate", rows, f"{entry.event}: {entry.reason}")
        if decision.refused:
            payload = entry.model_dump(mode="json")
            emit("idxflow.gate.refused", f"idxflow.model.{dataset}.{version}", payload)
    matrix = decision.path / "figures" / "confusion_matrix.png"
    show_image("confusion-matrix-published", matrix, "Confusion matrix on the test split")


@task(cache_policy=NO_CACHE, persist_result=False, timeout_seconds=600, tags=[PUBLISH.name])
def publish(lineage: Lineage, why: str | None = None) -> Decision:
    """Build the bundle, settle whether it is champion (with a reason `why` always), and show it."""
    since = time.perf_counter()
    manifest, done = ensure_bundle(lineage)
    dataset, version = manifest.dataset, manifest.version
    _count_evaluation(lineage, version)
    candidate = candidate_of(dataset, version, lineage.recipe.competes)
    decision = settle(dataset, candidate, lambda rival: judge_version(lineage, version, rival), why)
    seconds = round(time.perf_counter() - since, 3)
    reason = f"{done}; {decision.event}: {decision.reason}"
    record(Outcome(PUBLISH.name, "ran", seconds, version, str(decision.path), reason))
    show_decision(decision)
    return decision
