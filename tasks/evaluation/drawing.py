"""Every figure of an evaluation, a file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.calibration import sureness
from tasks.evaluation.class_figures import draw_confusion, draw_per_class
from tasks.evaluation.confidence_figures import draw_coverage, draw_reliability
from tasks.evaluation.curve_figures import draw_history, draw_test_curve
from tasks.evaluation.image_figures import draw_misclassified, draw_samples
from tasks.evaluation.predictions import Rows

MARKED_COVERAGE = 0.95


def draw_figures(
    folder: Path,
    train: Rows,
    test: Rows,
    probabilities_NC: NDArray[np.float32],
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    names: Sequence[str],
) -> None:
    """Write the figures into a new folder; a test curve only where the epochs were kept."""
    folder.mkdir()
    draw_samples(folder / "samples.png", train.images_NHW, train.labels_N, names)
    draw_history(folder / "history.png", history)
    if metrics["test_curve"]:
        draw_test_curve(folder / "test_curve.png", metrics["test_curve"])
    draw_per_class(folder / "per_class.png", metrics["per_class"])
    draw_confusion(folder / "confusion_matrix.png", metrics["confusion_matrix"], names)
    draw_reliability(folder / "reliability.png", metrics)
    marked = next(row for row in metrics["coverage"] if row["coverage"] == MARKED_COVERAGE)
    draw_coverage(folder / "coverage.png", sureness(probabilities_NC, test.labels_N), marked)
    draw_misclassified(
        folder / "misclassified.png", test.images_NHW, test.labels_N, probabilities_NC, names
    )
