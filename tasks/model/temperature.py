"""How sure a model should be: one number that its logits are divided by, fitted after training.

Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", section 4.2.

Axes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from tasks.runtime.errors import refuse_not_finite

# Twenty times as sure and twenty times as unsure: beyond them a fit says that something is broken.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float | None:
    """The T > 0 that minimises the mean negative log-likelihood of softmax(logits / T).

    In the inverse temperature that mean is convex, so its derivative has one root at most, which is
    found by bracketing: no start, no seed, the same bytes every time. Where the minimum lies beyond
    LOWEST or HIGHEST, that bound is returned.

    Where every label has the highest logit of its row there is no minimum: the surer, the better,
    for ever. Rows without an error say nothing about how often the model errs: None is returned.

    Raises TrainingError for no rows and for logits that are not numbers.
    """
    refuse_not_finite(
        logits_NC,
        "fitting the temperature on the validation rows",
        kind="logits",
        row="row",
        without_rows="Keep rows for validation: split.validation.",
    )
    exact_NC = logits_NC.astype(np.float64)
    true_N = exact_NC[np.arange(len(labels_N)), labels_N]
    if (true_N == exact_NC.max(axis=1)).all():
        return None

    def slope(inverse: float) -> float:
        """The derivative of the mean in 1/T: the expected logit less the true one's."""
        expected_N = (softmax(inverse * exact_NC, axis=1) * exact_NC).sum(axis=1)
        return float(np.mean(expected_N - true_N))

    if slope(1 / HIGHEST) >= 0:
        return HIGHEST
    if slope(1 / LOWEST) <= 0:
        return LOWEST
    return 1 / float(brentq(slope, 1 / HIGHEST, 1 / LOWEST, xtol=1e-9))
