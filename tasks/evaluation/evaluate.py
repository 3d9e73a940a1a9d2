"""The evaluate stage: the one look at the test split.

Always on the CPU, in float32, on one thread: so sums are made in one order, whatever device trained
the model and however many cores there are.

Axes: N rows of a split, H×W pixels of an image, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.datasets import Corrections
from pipeline_config.recipe import Model
from tasks.runtime.files import canonical_json
from tasks.runtime.show import confidence_in_words, show_image, show_markdown, show_table
from tasks.runtime.stages import EVALUATE
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

if TYPE_CHECKING:
    from tasks.evaluation.predictions import Rows, Scored

METRICS = "metrics.json"
PROBABILITIES = "probabilities.parquet"
FIGURES = "figures"
# What is told of a network that is only compared with.
SCORES = ("accuracy", "macro_f1", "loss")


def _measured(
    scored: Scored, test: Rows, trained: StageRef, class_names: Sequence[str]
) -> dict[str, Any]:
    """The metrics of the trained network, its confidence among them."""
    from tasks.evaluation.calibration import confidence_metrics
    from tasks.evaluation.metrics import mean_loss, measure

    calibrated: bool = trained.facts["calibrated"]
    return {
        **measure(scored.probabilities_NC, test.labels_N, class_names),
        "loss_before": mean_loss(scored.before_NC, test.labels_N),
        **confidence_metrics(scored.probabilities_NC, scored.before_NC, test.labels_N),
        "temperature": scored.temperature,
        "calibrated": calibrated,
        "confidence": "calibrated" if calibrated else "uncalibrated",
        "validation_accuracy": trained.facts["validation_accuracy"],
    }


def _untrained(
    trained: StageRef, model: Model, test: Rows, class_names: Sequence[str]
) -> dict[str, Any]:
    """The same network before its first step: the baseline."""
    from tasks.evaluation.metrics import measure
    from tasks.evaluation.predictions import score

    scored = score(trained.path / "untrained.safetensors", model, test, len(class_names))
    found = measure(scored.probabilities_NC, test.labels_N, class_names)
    return {f"untrained_{name}": found[name] for name in SCORES}


def curve_of(
    trained: StageRef, model: Model, test: Rows, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The scores after each epoch whose weights were kept; nothing is ever chosen on them."""
    from tasks.evaluation.metrics import measure
    from tasks.evaluation.predictions import kept_epochs, score

    curve = []
    for epoch, weights in kept_epochs(trained):
        scored = score(weights, model, test, len(class_names))
        found = measure(scored.probabilities_NC, test.labels_N, class_names)
        curve.append({"epoch": epoch, **{name: found[name] for name in SCORES}})
    return curve


def write_probabilities(path: Path, test: Rows, probabilities_NC: NDArray[np.float32]) -> None:
    """A row a test row: index in the pooled table, label, prediction, p0 … p(C-1).

    Labels and predictions have the smallest unsigned type that holds C classes. The misclassified
    rows are those whose prediction is not their label.
    """
    num_classes = probabilities_NC.shape[1]
    class_type = np.min_scalar_type(num_classes - 1)
    columns = {
        "index": test.index_N,
        "label": test.labels_N.astype(class_type),
        "prediction": probabilities_NC.argmax(axis=1).astype(class_type),
        **{f"p{label}": probabilities_NC[:, label] for label in range(num_classes)},
    }
    arrays = [pa.array(np.ascontiguousarray(values)) for values in columns.values()]
    schema = pa.schema(
        [
            pa.field(name, array.type, nullable=False)
            for name, array in zip(columns, arrays, strict=True)
        ]
    )
    pq.write_table(pa.table(arrays, schema=schema), path, compression="zstd")


def headline(metrics: dict[str, Any]) -> str:
    """The figures that a person asks for first, as Markdown."""
    low, high = (100 * bound for bound in metrics["accuracy_interval_95"])
    validation = metrics["validation_accuracy"]
    validated = "no validation rows" if validation is None else f"{100 * validation:.2f} %"
    confused = ", ".join(
        f"{pair['first']} / {pair['second']} ({pair['count']})" for pair in metrics["top_pairs"][:3]
    )
    return (
        f"# {100 * metrics['accuracy']:.2f} % of {metrics['num_rows']:,} test images\n\n"
        "| accuracy, 95 % interval | macro F1 | loss (nats) | validation | before training |\n"
        "|---|---|---|---|---|\n"
        f"| {low:.2f} to {high:.2f} % | {metrics['macro_f1']:.4f} | {metrics['loss']:.4f} "
        f"| {validated} | {100 * metrics['untrained_accuracy']:.2f} % |\n\n"
        f"{metrics['num_wrong']:,} wrong. Most confused: {confused or 'none'}.\n\n"
        f"{_confidence(metrics)}\n"
    )


def _confidence(metrics: dict[str, Any]) -> str:
    """How sure the model is and, where labels were corrected, the second score."""
    told = f"Confidence: {confidence_in_words(metrics)}. T = {metrics['temperature']:.3f}."
    if "corrected_accuracy" in metrics:
        told += (
            f" On {metrics['corrected_rows']:,} rows with corrected labels: "
            f"{100 * metrics['corrected_accuracy']:.2f} %."
        )
    return told


def _show(ref: StageRef) -> None:
    """Attach metrics, the two figures of errors and the one of confidence to the task run."""
    metrics = json.loads((ref.path / METRICS).read_bytes())
    show_markdown("evaluation", headline(metrics), "Headline figures on the test split")
    show_table("per-class", metrics["per_class"], "Precision, recall and F1 of each class")
    for name, words in (
        ("confusion_matrix", "Confusion matrix on the test split"),
        ("misclassified", "Wrong answers: true vs. predicted, the surest first"),
        ("reliability", "Accuracy against confidence"),
    ):
        show_image(name.replace("_", "-"), ref.path / FIGURES / f"{name}.png", words)


@stage_task(EVALUATE, timeout_s=900, show=_show)
def evaluate(
    folder: Path,
    table: StageRef,
    normalized: StageRef,
    trained: StageRef,
    model: Model,
    class_names: Sequence[str],
    corrections: Corrections | None,
) -> Facts:
    """Score the test split; write metrics, probabilities and figures; return the scalars."""
    from tasks.evaluation.drawing import draw_figures
    from tasks.evaluation.metrics import corrected_score, rounded
    from tasks.evaluation.predictions import read_rows, score
    from tasks.runtime.devices import one_thread

    train, test = read_rows(table, normalized)
    with one_thread():
        scored = score(trained.path / "model.safetensors", model, test, len(class_names))
        metrics = {
            **_measured(scored, test, trained, class_names),
            **_untrained(trained, model, test, class_names),
            "test_curve": curve_of(trained, model, test, class_names),
        }
    if corrections:
        places_N = test.index_N - table.facts["rows"]["train"]
        predictions_N = scored.probabilities_NC.argmax(axis=1)
        metrics |= corrected_score(predictions_N, test.labels_N, places_N, corrections)
    metrics = rounded(metrics)
    (folder / METRICS).write_bytes(canonical_json(metrics))
    write_probabilities(folder / PROBABILITIES, test, scored.probabilities_NC)
    history = json.loads((trained.path / "history.json").read_bytes())
    draw_figures(
        folder / FIGURES, train, test, scored.probabilities_NC, metrics, history, class_names
    )
    return {name: value for name, value in metrics.items() if not isinstance(value, list)}
