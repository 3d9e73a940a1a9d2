"""Stage audit: which labels of the training split are likely wrong, with a gallery of the first.

Each training row is scored by the network of the one fold that was not trained on it, as the
evaluate stage scores: on the CPU, in float32, on one thread. The temperature is applied, although
it was fitted on the same rows: one number cannot fit single labels, it changes no prediction, and
it makes the confidence of the folds' networks comparable.

The labels are judged by confident learning: Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels", Journal of Artificial Intelligence Research 70:1373-1411.

Axes: N training rows, R rows of which the network is confident, S suspects, P = H×W pixels, C
classes. Rows of a C×C matrix are given labels, columns true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.recipe import Model
from tasks.dataset.table import read_rows, read_split
from tasks.evaluation.metrics import DECIMALS, Labels, Probabilities
from tasks.runtime.devices import one_thread
from tasks.runtime.files import canonical_json
from tasks.runtime.show import show_image, show_table
from tasks.runtime.stages import AUDIT
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

# `flows/summary.py` has these names too: it must not import Prefect, as this module does.
SUSPECTS, NOISE, GALLERY = "suspects.parquet", "noise.json", "gallery.png"
NUM_SHOWN = 30
# Equal margins are ordered by self-confidence, then by row.
ORDER = [("margin", "descending"), ("self_confidence", "ascending"), ("row", "ascending")]


@dataclass(frozen=True)
class LabelErrors:
    """The result of confident learning.

    `threshold_C` is the mean self-confidence of each class (eq. 2), infinite for one without rows.
    `joint_CC` counts the rows of each label that are confidently of each class (eq. 1), and
    `noise_CC` are its shares of each label. `num_errors` is the estimated number of wrong labels.
    `suspects` has a row for each label that is likely wrong, the likeliest first: its rank from 1,
    row, label, suggested label, the probabilities of both, and their difference, the margin.
    """

    threshold_C: NDArray[np.float64]
    joint_CC: NDArray[np.int64]
    noise_CC: NDArray[np.float64]
    num_errors: float
    suspects: pa.Table


def find_label_errors(probabilities_NC: Probabilities, labels_N: Labels) -> LabelErrors:
    """Return the label errors, from out-of-sample probabilities, rows summing to one, and labels.

    A row is confidently of the likeliest class that reaches its threshold. A class that the network
    is rarely confident of has a low threshold, so the probabilities need not be calibrated.
    """
    num_classes = probabilities_NC.shape[1]
    threshold_C = np.full(num_classes, np.inf)
    for label in np.unique(labels_N):
        of_class = probabilities_NC[labels_N == label, label].astype(np.float64)
        # A mean of equal numbers may be rounded up, and then no row would reach it.
        threshold_C[label] = min(of_class.mean(), of_class.max())
    reached_NC = probabilities_NC >= threshold_C
    row_R = np.flatnonzero(reached_NC.any(axis=1))
    class_R = np.where(reached_NC, probabilities_NC, -1.0)[row_R].argmax(axis=1)
    label_R = labels_N[row_R]
    joint_CC = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint_CC, (label_R, class_R), 1)
    noise_CC = joint_CC / np.maximum(joint_CC.sum(axis=1, keepdims=True), 1)
    # Eq. 3: rows that are not confident are distributed like the confident ones of their label.
    num_errors = np.bincount(labels_N, minlength=num_classes) @ (1 - noise_CC.diagonal())
    # The rows off the diagonal of the joint, ranked by margin ("prune by noise rate"). One whose
    # label is as likely as the suggestion has no margin, and is left out.
    given_R, suggested_R = (
        probabilities_NC[row_R, each_R].astype(np.float64) for each_R in (label_R, class_R)
    )
    columns = {"row": row_R, "label": label_R, "suggested": class_R, "self_confidence": given_R}
    columns |= {"confidence": suggested_R, "margin": suggested_R - given_R}
    ranked = pa.table(columns).filter(pc.field("margin") > 0).sort_by(ORDER)
    ranked = ranked.add_column(0, "rank", [np.arange(1, len(ranked) + 1)])
    return LabelErrors(threshold_C, joint_CC, noise_CC, float(num_errors), ranked)


def out_of_fold(
    images_NP: NDArray[np.uint8],
    normalized: Sequence[StageRef],
    trained: Sequence[StageRef],
    model: Model,
    num_classes: int,
) -> Probabilities:
    """Return the probabilities (N, C) of each row from the network that it validates."""
    from tasks.model.network import load_network, probabilities

    probabilities_NC = np.full((len(images_NP), num_classes), np.nan, np.float32)
    with one_thread():
        for fold, network_of in zip(normalized, trained, strict=True):
            rows = read_split(fold).validation
            weights = network_of.path / "model.safetensors"
            network = load_network(weights, model, images_NP.shape[1], num_classes)
            probabilities_NC[rows] = probabilities(network, images_NP[rows])
    return probabilities_NC


def _show(ref: StageRef) -> None:
    """Attach the first suspects and their gallery to the task run."""
    suspects = pq.read_table(ref.path / SUSPECTS).slice(0, NUM_SHOWN).to_pylist()
    title = f"The first of {ref.facts['num_suspects']} suspects among the training labels"
    show_table("label-suspects", suspects, title)
    show_image("label-gallery", ref.path / GALLERY, "The likeliest label errors")


@stage_task(AUDIT, timeout_s=900, show=_show)
def audit(
    folder: Path,
    table: StageRef,
    normalized: tuple[StageRef, ...],
    trained: tuple[StageRef, ...],
    model: Model,
    class_names: tuple[str, ...],
) -> Facts:
    """Score each fold with its network; write suspects, noise and gallery; return the scalars."""
    from tasks.evaluation.figures import draw_suspects

    num_rows = table.facts["rows"]["train"]
    images_NP, labels_N = read_rows(table, np.arange(num_rows))
    probabilities_NC = out_of_fold(images_NP, normalized, trained, model, len(class_names))
    errors = find_label_errors(probabilities_NC, labels_N)
    num_suspects = len(errors.suspects)
    pq.write_table(errors.suspects, folder / SUSPECTS, compression="zstd")
    thresholds = [round(mean, DECIMALS) for mean in errors.threshold_C.tolist()]
    noise = {
        "class_names": list(class_names),
        # None for a class without rows.
        "thresholds": [mean if np.isfinite(mean) else None for mean in thresholds],
        "confident_joint": errors.joint_CC.tolist(),
        "noise_matrix": errors.noise_CC.round(DECIMALS).tolist(),
    }
    (folder / NOISE).write_bytes(canonical_json(noise))
    shown = errors.suspects.slice(0, NUM_SHOWN).to_pylist()
    images_SHW = images_NP[[row["row"] for row in shown]].reshape(-1, *table.facts["image_shape"])
    title = (
        f"The first {len(shown)} of {num_suspects:,} suspect labels: given → suggested,\n"
        "how sure a network is that never saw the row, and the row"
        if shown
        else f"None of the {num_rows:,} labels is suspect"
    )
    draw_suspects(folder / GALLERY, images_SHW, shown, title, class_names)
    accuracy = float((probabilities_NC.argmax(axis=1) == labels_N).mean())
    return {
        "num_rows": num_rows,
        "num_folds": len(trained),
        "num_suspects": num_suspects,
        "estimated_errors": round(errors.num_errors, 1),
        "out_of_fold_accuracy": round(accuracy, DECIMALS),
    }
