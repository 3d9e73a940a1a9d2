"""Candidate and champion on the pinned test rows: the data set's own test split, whole, in order.

Both are scored here, in one run, by the ONNX models that their bundles hold.

Axes: N test rows, H × W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import FILES
from pipeline_config.gate import gate_for
from pipeline_config.sections import read_yaml
from tasks.bundle.contents import ONNX, RECIPE, bundle_folder
from tasks.bundle.lineage import Lineage
from tasks.release.gate import Check, Judgement, Scores, above_floor, compare, not_compared, unseen
from tasks.release.journal import Champion, count_look, read_journal, read_looks
from tasks.runtime.files import digest_of
from tasks.runtime.store import StageRef


def pinned_digest(digests: Mapping[str, str]) -> str:
    """The digest that names a data set's test rows, from the digests of its raw files."""
    return digest_of({name: digests[name] for name in FILES[2:]})


def pinned_rows(table: StageRef) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images uint8 (N, H, W), labels int64 (N,)) of the test split that convert wrote."""
    from tasks.dataset.table import read_rows

    rows = table.facts["rows"]
    images_NP, labels_N = read_rows(table, np.arange(rows["train"], rows["train"] + rows["test"]))
    return images_NP.reshape(-1, *table.facts["image_shape"]), labels_N


def _scores_of(
    dataset: str, version: str, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]
) -> Scores:
    """The scores of a version's ONNX model on the rows."""
    from tasks.bundle.onnx_export import onnx_probabilities
    from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
    from tasks.evaluation.metrics import mean_loss

    model = (bundle_folder(dataset, version) / ONNX).read_bytes()
    probabilities_NC = onnx_probabilities(model, images_NHW)
    sure = sureness(probabilities_NC, labels_N)
    return Scores(
        right_N=probabilities_NC.argmax(axis=1) == labels_N,
        loss=mean_loss(probabilities_NC, labels_N),
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
    is_fair = champion is not None and not is_pooled(bundle_folder(dataset, champion.version))
    rival = champion.version if champion and is_fair else None
    digest, recipe = pinned_digest(table.facts["sha256"]), lineage.recipe
    networks = 1 if rival is None else 2
    # With the journal's length: judged again by force it is another look, after a kill it is not.
    key = f"gate {version} {rival} {len(read_journal(dataset))}"
    count_look(dataset, "gate", recipe.name, version, networks, digest, key)
    images_NHW, labels_N = pinned_rows(table)
    scores = _scores_of(dataset, version, images_NHW, labels_N)
    checks = [above_floor(scores.accuracy, recipe.floors.get(dataset)), unseen(False)]
    if rival is not None:
        other = _scores_of(dataset, rival, images_NHW, labels_N)
        names = lineage.dataset.class_names
        checks = [*compare(scores, other, labels_N, gate_for(dataset), names), *checks]
    elif champion is not None:
        checks.append(not_compared(champion.version))
    return _judgement(lineage, rival, checks)


def _judgement(lineage: Lineage, rival: str | None, checks: list[Check]) -> Judgement:
    return Judgement(
        test_rows=pinned_digest(lineage.table.facts["sha256"]),
        num_rows=lineage.table.facts["rows"]["test"],
        looks=len(read_looks(lineage.dataset.name)),
        champion=rival,
        checks=tuple(checks),
    )


def is_pooled(bundle: Path) -> bool:
    """Whether a bundle's model was trained on rows of the pinned test set."""
    kind: str = read_yaml(bundle / RECIPE)["split"]["test"]["kind"]
    return kind == "pooled"
