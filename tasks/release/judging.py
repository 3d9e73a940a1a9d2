"""Candidate and champion on the pinned test rows: the data set's own test split, whole, in order.

Both are scored here, in one run, by the ONNX models that their bundles hold.

Axes: N test rows, H × W pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline_config.base import read_yaml
from pipeline_config.datasets import FILES
from pipeline_config.gate import gate_for
from tasks.bundle.contents import ONNX, RECIPE, bundle_folder
from tasks.bundle.lineage import Lineage
from tasks.release.gate import Check, Judgement, Scores, above_floor, compare, unseen
from tasks.release.journal import Champion
from tasks.release.ledger import count_look, read_ledger
from tasks.runtime.files import digest_of
from tasks.runtime.manifest import StageRef


@dataclass(frozen=True)
class PinnedRows:
    """Images uint8 (N, H, W), labels int64 (N,), and the digest of the raw files they are from."""

    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    digest: str


def pinned_digest(table: StageRef) -> str:
    """The digest that names a data set's test rows: over the raw test files' own digests."""
    digests = table.facts["sha256"]
    return digest_of({name: digests[name] for name in FILES[2:]})


def pinned_rows(table: StageRef) -> PinnedRows:
    """The test split of a convert stage's output."""
    from tasks.dataset.table import read_images

    images_NP, labels_N = read_images(table)
    start = table.facts["rows"]["train"]
    shape = table.facts["image_shape"]
    return PinnedRows(images_NP[start:].reshape(-1, *shape), labels_N[start:], pinned_digest(table))


def _scores_of(dataset: str, version: str, rows: PinnedRows) -> Scores:
    """The scores of a version's ONNX model on the rows."""
    from tasks.bundle.onnx_export import onnx_probabilities
    from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
    from tasks.evaluation.metrics import mean_loss

    model = (bundle_folder(dataset, version) / ONNX).read_bytes()
    probabilities_NC = onnx_probabilities(model, rows.images_NHW)
    sure = sureness(probabilities_NC, rows.labels_N)
    return Scores(
        right_N=probabilities_NC.argmax(axis=1) == rows.labels_N,
        loss=mean_loss(probabilities_NC, rows.labels_N),
        ece=calibration_error(sure),
        ece_by_chance=error_by_chance(sure)[1][1],
    )


def judge(lineage: Lineage, version: str, champion: Champion | None) -> Judgement:
    """Hold a published version against the champion; with none, against the recipe's floor alone.

    Every look at the test rows is counted before it is made.
    """
    dataset, table = lineage.dataset.name, lineage.table
    if lineage.normalized.facts["pooled"]:
        return _judgement(lineage, None, [unseen(is_pooled=True)])
    comparable = champion is not None and not is_pooled(bundle_folder(dataset, champion.version))
    rival = champion.version if champion and comparable else None
    key = f"gate {version} {rival}"
    networks = 1 if rival is None else 2
    count_look(dataset, "gate", lineage.recipe.name, version, networks, pinned_digest(table), key)
    rows = pinned_rows(table)
    scores = _scores_of(dataset, version, rows)
    checks = [above_floor(scores.accuracy, lineage.recipe.floors.get(dataset)), unseen(False)]
    if rival is not None:
        compared = compare(
            scores,
            _scores_of(dataset, rival, rows),
            rows.labels_N,
            gate_for(dataset),
            lineage.dataset.class_names,
        )
        checks = [*compared, *checks]
    return _judgement(lineage, rival, checks)


def _judgement(lineage: Lineage, rival: str | None, checks: list[Check]) -> Judgement:
    return Judgement(
        test_rows=pinned_digest(lineage.table),
        num_rows=lineage.table.facts["rows"]["test"],
        looks=len(read_ledger(lineage.dataset.name)),
        champion=rival,
        checks=tuple(checks),
    )


def is_pooled(bundle: Path) -> bool:
    """Whether a bundle's model was trained on rows of the pinned test set."""
    kind: str = read_yaml(bundle / RECIPE)["split"]["test"]["kind"]
    return kind == "pooled"
