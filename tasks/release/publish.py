"""The publish stage: build a model's bundle, judge it against the champion, record the decision.

It is never cached. A bundle that is intact is kept, and a decision is in the journal.

Axes: N test rows, P pixels, C classes.
"""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from pipeline_config.gate import gate_for
from tasks.dataset.table import FILES_OF_TABLE, read_rows, row_ranges
from tasks.release.assemble import Lineage, ensure_bundle
from tasks.release.bundle import METRICS, ONNX, bundle_folder, is_pooled, models_lock
from tasks.release.gate import (
    Criterion,
    Judgement,
    Scores,
    above_floor,
    compare_scores,
    criterion,
    on_recent_rows,
    unseen,
)
from tasks.release.journal import EVENTS, REFUSED, WAITING, read_journal
from tasks.release.looks import count_look, pinned_digest, read_looks
from tasks.release.margins import paired_difference
from tasks.release.pages import page_path
from tasks.release.registry import Decision, candidate_of, settle
from tasks.runtime.files import locked
from tasks.runtime.show import Outcome, emit, link_to, record, show_image, show_markdown, show_table
from tasks.runtime.stages import PUBLISH

NUM_DECISIONS = 20


def _count_evaluation(lineage: Lineage, version: str) -> None:
    """Count the look of the evaluate stage, at a network, its untrained one and kept epochs."""
    dataset, evaluated, normalized = lineage.dataset.name, lineage.evaluated, lineage.normalized
    networks = 2 + len(json.loads((evaluated.path / METRICS).read_bytes())["test_curve"])
    pinned = pinned_digest(lineage.table.facts["sha256"])
    rows = normalized.digest if normalized.facts["pooled"] else pinned
    key = f"evaluate {evaluated.key} {evaluated.manifest.clock.started}"
    with locked(models_lock(dataset)):
        count_look(dataset, "evaluate", lineage.recipe.name, version, networks, rows, key)


def judge_version(
    lineage: Lineage, version: str, reference: str | None, champion: str | None
) -> Judgement:
    """Return the gate's judgement of a version: against the reference, or the recipe's floor alone.

    The models are scored here by their ONNX models, on the pinned test rows: the data set's own
    test split, complete and in order. The look at these rows is counted before it is taken. With
    shards, candidate and champion are also compared on the recent rows.
    """
    dataset, recipe, facts = lineage.dataset.name, lineage.recipe, lineage.table.facts
    pinned, num_rows, is_better = pinned_digest(facts["sha256"]), facts["rows"]["test"], False
    checks, rival = [unseen(is_pooled=lineage.normalized.facts["pooled"])], None
    if checks[0].passed:
        if reference is not None and not is_pooled(bundle_folder(dataset, reference)):
            rival = reference
        # After a kill it is the same look. Judged by force later, it is another one.
        key = f"gate {version} {rival} {len(read_journal(dataset))}"
        count_look(dataset, "gate", recipe.name, version, 2 if rival else 1, pinned, key)
        rows = facts["rows"]["train"] + np.arange(num_rows)
        on_pinned, is_better = _on_pinned_rows(lineage, version, rival, rows)
        checks = [*on_pinned, *checks]
        if rival != reference:
            words = f"version {reference} was trained on rows of the pinned test set"
            checks.append(criterion("reference", 1.0, 1.0, f"{words}: nothing to compare"))
        if lineage.shards and champion is not None:
            recent = recent_rows(lineage, gate_for(dataset).recent_shards)
            labels_N, new_NC = _answers(lineage, version, recent)
            old_NC = _answers(lineage, champion, recent)[1]
            right = (answers.argmax(axis=1) == labels_N for answers in (new_NC, old_NC))
            checks.append(on_recent_rows(*right))
    looks = len(read_looks(dataset))
    shown = {"test_rows": pinned, "num_rows": num_rows, "looks": looks, "champion": champion}
    return Judgement(checks=tuple(checks), reference=rival, is_better=is_better, **shown)


def _on_pinned_rows(
    lineage: Lineage, version: str, rival: str | None, rows: NDArray[np.int64]
) -> tuple[list[Criterion], bool]:
    """Return the criteria on the pinned rows, and whether `version` is better beyond doubt."""
    dataset, recipe = lineage.dataset.name, lineage.recipe
    labels_N, candidate_NC = _answers(lineage, version, rows)
    scores = _scores_of(candidate_NC, labels_N)
    floor = above_floor(scores.accuracy, recipe.floors.get(dataset))
    if rival is None:
        return [floor], True
    other = _scores_of(_answers(lineage, rival, rows)[1], labels_N)
    names = lineage.dataset.class_names
    checks = [*compare_scores(scores, other, labels_N, gate_for(dataset), names), floor]
    return checks, paired_difference(scores.right_N, other.right_N)[2][0] > 0


def recent_rows(lineage: Lineage, num_shards: int) -> NDArray[np.int64]:
    """Return the rows of the table that are recent rows of the last shards that were admitted."""
    files = dict(zip(FILES_OF_TABLE, row_ranges(lineage.table), strict=False))
    path, rows = files["recent"]
    digests = pq.read_table(path, columns=["sha256"])["sha256"]
    shards = [ref.path / "rows.parquet" for ref in lineage.shards[-num_shards:]]
    last = pa.concat_tables(pq.read_table(shard, columns=["sha256"]) for shard in shards)
    is_last = pc.is_in(digests, last["sha256"].combine_chunks())
    chosen: NDArray[np.int64] = np.array(rows, np.int64)[is_last.to_numpy()]
    return chosen


def _answers(
    lineage: Lineage, version: str, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the labels (N,) of some rows, and a version's probabilities for them (N, C)."""
    from tasks.release.onnx_model import read_model

    images_NP, labels_N = read_rows(lineage.table, rows)
    images_NHW = images_NP.reshape(-1, *lineage.table.facts["image_shape"])
    content = (bundle_folder(lineage.dataset.name, version) / ONNX).read_bytes()
    return labels_N, read_model(content, ONNX).probabilities(images_NHW)


def _scores_of(likely_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> Scores:
    """Return the scores of a version by its probabilities for the rows."""
    from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
    from tasks.evaluation.metrics import losses

    sure, right_N = sureness(likely_NC, labels_N), likely_NC.argmax(axis=1) == labels_N
    by_chance = error_by_chance(sure)[1][1]
    return Scores(right_N, losses(likely_NC, labels_N), calibration_error(sure), by_chance)


def decision_in_markdown(decision: Decision) -> str:
    """Return a version's accuracy and standing, and where its report and its model are."""
    accuracy = json.loads((decision.path / METRICS).read_bytes())["accuracy"]
    is_champion = decision.champion == decision.version
    standing = "champion" if is_champion else f"champion: `{decision.champion}`"
    if decision.event in (REFUSED, WAITING):
        standing = f"**{decision.event}**; {standing}"
    link = link_to(page_path(decision.dataset, decision.version))
    return (
        f"# {decision.dataset} `{decision.version}`: {accuracy:.2%}\n\n"
        f"- {standing}: {decision.reason}\n"
        f"- report: {link}\n"
        f"- model: `{decision.path / ONNX}`\n"
    )


def show_decision(decision: Decision) -> None:
    """Attach figures and criteria to the task run, and emit the event of a new decision."""
    dataset, version = decision.dataset, decision.version
    words = "refused: " if decision.refused else ""
    show_markdown("published", decision_in_markdown(decision), f"{words}{dataset} {version}")
    entries = read_journal(dataset)
    fields = {"time", "event", "version", "accuracy"}
    rows = [entry.model_dump(include=fields) for entry in reversed(entries[-NUM_DECISIONS:])]
    show_table("decisions", rows, f"The last decisions about {dataset}, the newest first")
    about = [entry for entry in entries if entry.version == version and entry.gate]
    for entry in about[-1:]:
        rows = [check.model_dump(mode="json") for check in entry.gate.checks] if entry.gate else []
        show_table("gate", rows, f"{entry.event}: {entry.reason}")
        if decision.is_new and entry.event in EVENTS:
            payload = entry.model_dump(mode="json")
            emit(EVENTS[entry.event], f"idxflow.model.{dataset}.{version}", payload)
    matrix = decision.path / "figures" / "confusion_matrix.png"
    show_image("confusion-matrix-published", matrix, "Confusion matrix on the test split")


@task(cache_policy=NO_CACHE, persist_result=False, timeout_seconds=600, tags=[PUBLISH.name])
def publish(lineage: Lineage, why: str | None = None) -> Decision:
    """Build the bundle, settle whether it is champion (with a reason `why` always), and show it."""
    since = time.perf_counter()
    manifest, done = ensure_bundle(lineage)
    dataset, version = manifest.dataset, manifest.version
    _count_evaluation(lineage, version)
    is_by_hand = gate_for(dataset).promote == "by-hand"
    candidate = candidate_of(dataset, version, lineage.recipe.competes, by_hand=is_by_hand)
    judge = partial(judge_version, lineage, version)
    decision = settle(dataset, candidate, judge, why)
    seconds = round(time.perf_counter() - since, 3)
    reason = f"{done}; {decision.event}: {decision.reason}"
    record(Outcome(PUBLISH.name, "ran", seconds, version, str(decision.path), reason))
    show_decision(decision)
    return decision
