"""Stage audit: which labels of the training split are likely wrong, with a gallery of the first.

Each training row is scored by the network of the one fold that was not trained on it, as the
evaluate stage scores: on the CPU, in float32, on one thread. The temperature is applied, although
it was fitted on the same rows: one number cannot fit single labels, it changes no prediction, and
it makes the confidence of the folds' networks comparable.

Axes: N training rows, S suspects, P = H×W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.recipe import Model
from tasks.dataset.table import read_rows, read_split
from tasks.evaluation import confident_learning
from tasks.evaluation.confident_learning import GALLERY, NOISE, SUSPECTS
from tasks.evaluation.metrics import DECIMALS, Probabilities
from tasks.runtime.devices import one_thread
from tasks.runtime.files import canonical_json
from tasks.runtime.show import show_image, show_table
from tasks.runtime.stages import AUDIT
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

NUM_SHOWN = 30


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
    suspects = confident_learning.read_suspects(ref.path / SUSPECTS, NUM_SHOWN)
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
    errors = confident_learning.find_label_errors(probabilities_NC, labels_N)
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
