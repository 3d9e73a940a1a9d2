"""What may be said of a model's confidence, for whoever prints its metrics: imports nothing."""

from __future__ import annotations

from typing import Any


def confidence_in_words(metrics: dict[str, Any]) -> str:
    """Whether the confidence is honest: its error beside what chance gives in 95 % of test splits.

    A temperature that was fitted on validation rows makes no model calibrated by itself.
    """
    is_within = metrics["ece"] <= metrics["ece_expected_95"][1]
    fitted = "calibrated" if is_within else "not calibrated, though a temperature was fitted"
    return (
        f"{fitted if metrics['calibrated'] else 'uncalibrated'}: calibration error "
        f"{100 * metrics['ece']:.2f} points, where chance alone gives up to "
        f"{100 * metrics['ece_expected_95'][1]:.2f}"
    )
