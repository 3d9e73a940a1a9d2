"""What may be said of a model's confidence, for whoever prints its metrics: imports nothing."""

from __future__ import annotations

from typing import Any


def confidence_in_words(metrics: dict[str, Any]) -> str:
    """Whether the confidence is honest: its error beside what chance gives in 95 of 100 splits."""
    error, chance = metrics["ece"], metrics["ece_expected_95"][1]
    fitted = "not calibrated, though a temperature was fitted" if error > chance else "calibrated"
    kind = fitted if metrics["calibrated"] else "uncalibrated"
    told = f"calibration error {100 * error:.2f} points, where chance alone gives up to"
    return f"{kind}: {told} {100 * chance:.2f}"
