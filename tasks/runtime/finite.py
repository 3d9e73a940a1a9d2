"""The one refusal of numbers that are none: what a training that diverged leaves behind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.errors import TrainingError


def refuse_not_finite(
    numbers_NC: NDArray[np.float32], what: str, *, kind: str, row: str, without_rows: str
) -> None:
    """Raise TrainingError about `what` for no rows, and for rows (N, C) that are not all finite.

    `kind` and `row` say what the numbers and the rows are; `without_rows` is the remedy for none.
    """
    num_rows = len(numbers_NC)
    num_bad = num_rows - int(np.isfinite(numbers_NC).all(axis=1).sum())
    if num_rows == 0 or num_bad:
        raise TrainingError(
            what,
            found=f"{kind} that are not numbers for {num_bad:,} of {num_rows:,} rows"
            if num_rows
            else f"no {row}s",
            expected=f"at least one {row}, and C finite {kind} for each",
            remedy="Lower training.optimizer.learning_rate or scale the input."
            if num_rows
            else without_rows,
        )
