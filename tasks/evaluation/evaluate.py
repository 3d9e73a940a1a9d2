"""Stage evaluate: metrics, probabilities and figures of a trained network on the test split.

Always on the CPU, in float32, on one thread, so that sums are made in one order, whatever device
trained the model and however many cores there are.

Axes: N rows of a split, H×W pixels of an image, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.datasets import Corrections
from pipeline_config.recipe import Model
from tasks.dataset.table import first_of_each_class, read_labels, read_rows, read_split
from tasks.evaluation.calibration import confidence_metrics, sureness
from tasks.evaluation.metrics import Metrics, Probabilities, corrected_score, measure, rounded
from tasks.evaluation.robustness import NUM_ROWS
from tasks.runtime.devices import one_thread
from tasks.runtime.files import canonical_json
from tasks.runtime.show import confidence_in_words, show_image, show_markdown, show_table
from tasks.runtime.stages import EVALUATE
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

METRICS, PROBABILITIES, FIGURES = "metrics.json", "probabilities.parquet", "figures"
# The scores of the untrained network and of those after each kept epoch.
SCORES = ("accuracy", "macro_f1", "loss")
NUM_SAMPLES = 15
MARKED_COVERAGE = 0.95


class Examples(NamedTuple):
    """Rows of one split: their places in the pooled table, their images and their labels."""

    index_N: NDArray[np.int64]
    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


def read_examples(table: StageRef, index_N: NDArray[np.int64]) -> Examples:
    """Return some rows of the pooled table."""
    images_NP, labels_N = read_rows(table, index_N)
    return Examples(index_N, images_NP.reshape(-1, *table.facts["image_shape"]), labels_N)


def _measured(
    trained: StageRef, model: Model, test: Examples, class_names: Sequence[str]
) -> tuple[Metrics, Probabilities]:
    """Return metrics and probabilities of the trained network.

    The untrained network is the baseline. The curve has the scores after each epoch whose weights
    were kept; nothing is chosen on it.
    """
    import torch

    from tasks.model.network import load_network, logits_of

    images_NP, labels_N = torch.from_numpy(test.images_NHW).flatten(1), test.labels_N

    def scored(weights: Path) -> tuple[torch.Tensor, float]:
        network = load_network(weights, model, images_NP.shape[1], len(class_names))
        return logits_of(network, images_NP), network[-1].get_buffer("temperature").item()

    def scores_of(weights: Path) -> Metrics:
        probabilities_NC = scored(weights)[0].softmax(dim=1).numpy()
        found = measure(probabilities_NC, labels_N, class_names)
        return {name: found[name] for name in SCORES}

    logits_NC, temperature = scored(trained.path / "model.safetensors")
    after_NC, before_NC = (
        logits.softmax(dim=1).numpy() for logits in (logits_NC, logits_NC * temperature)
    )
    untrained = scores_of(trained.path / "untrained.safetensors")
    kept = sorted((trained.path / "epochs").glob("*.safetensors"))
    calibrated: bool = trained.facts["calibrated"]
    metrics = {
        **measure(after_NC, labels_N, class_names),
        **confidence_metrics(after_NC, before_NC, labels_N),
        "temperature": temperature,
        "calibrated": calibrated,
        "confidence": "calibrated" if calibrated else "uncalibrated",
        "validation_accuracy": trained.facts["validation_accuracy"],
        **{f"untrained_{name}": score for name, score in untrained.items()},
        "test_curve": [{"epoch": int(file.stem), **scores_of(file)} for file in kept],
    }
    return metrics, after_NC


def _robust(trained: StageRef, model: Model, rows: Examples, num_classes: int) -> list[Metrics]:
    """Return the accuracy on changed validation rows; [] without any."""
    import torch

    from tasks.evaluation.robustness import robustness
    from tasks.model.network import load_network, logits_of

    if not len(rows.labels_N):
        return []
    num_pixels = rows.images_NHW[0].size
    network = load_network(trained.path / "model.safetensors", model, num_pixels, num_classes)

    def predict(images_NHW: NDArray[np.uint8]) -> NDArray[np.int64]:
        logits_NC = logits_of(network, torch.from_numpy(images_NHW).flatten(1))
        return np.asarray(logits_NC.argmax(dim=1).numpy())

    return robustness(predict, rows.images_NHW, rows.labels_N)


def write_probabilities(path: Path, test: Examples, probabilities_NC: Probabilities) -> None:
    """Write index, label, prediction and p0 … p(C-1) of each test row.

    The index counts from the first test row, as `idxflow show --split test --index` does, or from
    the first training row where the splits were pooled. Labels and predictions have the smallest
    unsigned type that holds C classes.
    """
    class_type = np.min_scalar_type(probabilities_NC.shape[1] - 1)
    columns = {
        "index": test.index_N,
        "label": test.labels_N.astype(class_type),
        "prediction": probabilities_NC.argmax(axis=1).astype(class_type),
        **{f"p{label}": column for label, column in enumerate(probabilities_NC.T)},
    }
    types = ((name, pa.from_numpy_dtype(column.dtype)) for name, column in columns.items())
    schema = pa.schema([pa.field(*each, nullable=False) for each in types])
    pq.write_table(pa.table(columns, schema), path, compression="zstd")


def draw_figures(
    folder: Path,
    samples: Examples,
    test: Examples,
    probabilities_NC: Probabilities,
    metrics: Metrics,
    history: list[Metrics],
    names: Sequence[str],
) -> None:
    """Write the figures into a new folder; a test curve only where epochs were kept."""
    from tasks.evaluation import confidence_figures, figures

    folder.mkdir()
    _, images_NHW, labels_N = test
    figures.draw_samples(folder / "samples.png", samples.images_NHW, samples.labels_N, names)
    figures.draw_history(folder / "history.png", history)
    if metrics["test_curve"]:
        figures.draw_test_curve(folder / "test_curve.png", metrics["test_curve"])
    figures.draw_per_class(folder / "per_class.png", metrics["per_class"])
    figures.draw_confusion(folder / "confusion_matrix.png", metrics["confusion_matrix"], names)
    path = folder / "misclassified.png"
    figures.draw_misclassified(path, images_NHW, labels_N, probabilities_NC, names)
    confidence_figures.draw_reliability(folder / "reliability.png", metrics)
    marked = next(row for row in metrics["coverage"] if row["coverage"] == MARKED_COVERAGE)
    sure = sureness(probabilities_NC, labels_N)
    confidence_figures.draw_coverage(folder / "coverage.png", sure, marked)
    if metrics["robustness"]:
        confidence_figures.draw_robustness(folder / "robustness.png", metrics["robustness"])


def scores_markdown(metrics: Metrics) -> str:
    """Return the scores, the most confused classes and the confidence as Markdown."""
    low, high = metrics["accuracy_interval_95"]
    validation, pairs = metrics["validation_accuracy"], metrics["top_pairs"][:3]
    confused = [f"{pair['first']} / {pair['second']} ({pair['count']})" for pair in pairs]
    lines = [
        f"# {metrics['accuracy']:.2%} of {metrics['num_rows']:,} test images",
        f"95 % interval {low:.2%} to {high:.2%}; {metrics['untrained_accuracy']:.2%} untrained",
        f"macro F1 {metrics['macro_f1']:.4f}, loss {metrics['loss']:.4f} nats",
        "no validation rows" if validation is None else f"validation {validation:.2%}",
        f"{metrics['num_wrong']:,} wrong. Most confused: {', '.join(confused) or 'none'}.",
        f"Confidence: {confidence_in_words(metrics)}. T = {metrics['temperature']:.3f}.",
    ]
    if "corrected_accuracy" in metrics:
        corrected, num_rows = metrics["corrected_accuracy"], metrics["corrected_rows"]
        lines.append(f"On {num_rows:,} rows with corrected labels: {corrected:.2%}.")
    return "\n\n".join(lines) + "\n"


def _show(ref: StageRef) -> None:
    """Attach metrics and three figures to the task run."""
    metrics = json.loads((ref.path / METRICS).read_bytes())
    show_markdown("evaluation", scores_markdown(metrics), "Scores on the test split")
    show_table("per-class", metrics["per_class"], "Precision, recall and F1 of each class")
    figures = ref.path / FIGURES
    show_image("confusion-matrix", figures / "confusion_matrix.png", "Confusion matrix")
    show_image("misclassified", figures / "misclassified.png", "The most confident errors")
    show_image("reliability", figures / "reliability.png", "Accuracy against confidence")


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
    split = read_split(normalized)
    first = first_of_each_class(read_labels(table)[split.train], NUM_SAMPLES)
    samples, test = (read_examples(table, rows) for rows in (split.train[first], split.test))
    held = read_examples(table, split.validation[:NUM_ROWS])
    with one_thread():
        metrics, probabilities_NC = _measured(trained, model, test, class_names)
        metrics["robustness"] = _robust(trained, model, held, len(class_names))
    places_N = test.index_N - table.facts["rows"]["train"]
    if corrections:
        predictions_N = probabilities_NC.argmax(axis=1)
        metrics |= corrected_score(predictions_N, test.labels_N, places_N, corrections)
    metrics = rounded(metrics)
    (folder / METRICS).write_bytes(canonical_json(metrics))
    numbered = test if normalized.facts["pooled"] else test._replace(index_N=places_N)
    write_probabilities(folder / PROBABILITIES, numbered, probabilities_NC)
    history = json.loads((trained.path / "history.json").read_bytes())
    draw_figures(folder / FIGURES, samples, test, probabilities_NC, metrics, history, class_names)
    return {name: value for name, value in metrics.items() if not isinstance(value, list)}
