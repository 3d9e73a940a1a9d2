"""The evaluate stage: the one look at the test split.

Always on the CPU, in float32, on one thread: so sums are made in one order, whatever device trained
the model and however many cores there are.

Axes: N rows of a split, H×W pixels of an image, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task

from pipeline_config.recipe import Model
from tasks.runtime.artifacts import show_image, show_markdown, show_table
from tasks.runtime.cache import StagePolicy
from tasks.runtime.devices import prepared, probe
from tasks.runtime.files import canonical_json
from tasks.runtime.manifest import Facts, StageRef
from tasks.runtime.stages import EVALUATE
from tasks.runtime.store import build

METRICS = "metrics.json"
PROBABILITIES = "probabilities.parquet"
FIGURES = "figures"


@dataclass(frozen=True)
class Rows:
    """Rows of one split: their places in the pooled table, their images and their labels."""

    index_N: NDArray[np.int64]
    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


def write_evaluation(
    folder: Path,
    table: StageRef,
    normalized: StageRef,
    trained: StageRef,
    model: Model,
    class_names: Sequence[str],
) -> Facts:
    """Score the test split; write metrics, probabilities and figures; return the scalars."""
    from tasks.evaluation.metrics import measure

    train, test = _read_rows(table, normalized)
    with prepared(probe("cpu").model_copy(update={"threads": 1})):
        probabilities_NC, untrained_NC = (
            _score(trained.path / name, model, test, len(class_names))
            for name in ("model.safetensors", "untrained.safetensors")
        )
    untrained = measure(untrained_NC, test.labels_N, class_names)
    metrics = {
        **measure(probabilities_NC, test.labels_N, class_names),
        **{f"untrained_{name}": untrained[name] for name in ("accuracy", "macro_f1", "loss")},
        "validation_accuracy": trained.facts["validation_accuracy"],
    }
    (folder / METRICS).write_bytes(canonical_json(metrics))
    write_probabilities(folder / PROBABILITIES, test, probabilities_NC)
    history = json.loads((trained.path / "history.json").read_bytes())
    _draw(folder / FIGURES, train, test, probabilities_NC, metrics, history, class_names)
    return {name: value for name, value in metrics.items() if not isinstance(value, list)}


def _read_rows(table: StageRef, normalized: StageRef) -> tuple[Rows, Rows]:
    """The training rows, of which only samples are shown, and the test rows."""
    from tasks.dataset.splits import read_split
    from tasks.dataset.table import read_images

    images_MP, labels_M = read_images(table)
    split, shape = read_split(normalized), table.facts["image_shape"]
    train, test = (
        Rows(index_N, images_MP[index_N].reshape(-1, *shape), labels_M[index_N])
        for index_N in (split.train, split.test)
    )
    return train, test


def _score(weights: Path, model: Model, test: Rows, num_classes: int) -> NDArray[np.float32]:
    """The probabilities (N, C) that the network with these weights gives the test rows."""
    from tasks.model.network import load_network, probabilities

    images_NP = test.images_NHW.reshape(len(test.images_NHW), -1)
    network = load_network(weights, model, images_NP.shape[1], num_classes)
    return probabilities(network, images_NP)


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


def _draw(
    folder: Path,
    train: Rows,
    test: Rows,
    probabilities_NC: NDArray[np.float32],
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    names: Sequence[str],
) -> None:
    """Write the five figures."""
    from tasks.evaluation import figures

    folder.mkdir()
    figures.draw_samples(folder / "samples.png", train.images_NHW, train.labels_N, names)
    figures.draw_history(folder / "history.png", history)
    figures.draw_per_class(folder / "per_class.png", metrics["per_class"])
    figures.draw_confusion(folder / "confusion_matrix.png", metrics["confusion_matrix"], names)
    figures.draw_misclassified(
        folder / "misclassified.png", test.images_NHW, test.labels_N, probabilities_NC, names
    )


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
        f"{metrics['num_wrong']:,} wrong. Most confused: {confused or 'none'}.\n"
    )


def _show(ref: StageRef) -> None:
    """Attach metrics and the two figures of errors to the task run."""
    metrics = json.loads((ref.path / METRICS).read_bytes())
    show_markdown("evaluation", headline(metrics), "Headline figures on the test split")
    show_table("per-class", metrics["per_class"], "Precision, recall and F1 of each class")
    for name, words in (
        ("confusion_matrix", "Confusion matrix on the test split"),
        ("misclassified", "Wrong answers: true vs. predicted, the surest first"),
    ):
        show_image(name.replace("_", "-"), ref.path / FIGURES / f"{name}.png", words)


@task(
    name="evaluate",
    cache_policy=StagePolicy(stage=EVALUATE),
    result_serializer="json",
    persist_result=True,
    cache_result_in_memory=False,
    retries=0,
    timeout_seconds=900,
    tags=["evaluate"],
)
def evaluate(
    table: StageRef,
    normalized: StageRef,
    trained: StageRef,
    model: Model,
    class_names: tuple[str, ...],
    refresh: bool = False,
) -> StageRef:
    """Score the test split; returns the reference to metrics, probabilities and figures."""
    inputs = {
        "table": table,
        "normalized": normalized,
        "trained": trained,
        "model": model,
        "class_names": class_names,
    }
    ref = build(
        EVALUATE,
        inputs,
        lambda folder: write_evaluation(folder, table, normalized, trained, model, class_names),
        refresh=refresh,
    )
    _show(ref)
    return ref
