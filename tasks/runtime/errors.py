"""The errors that reach a person, and the signals that a training turns into one of them.

A message has four parts: what, found, expected, what to do. Some classes have a default for the
last two. `IdxflowError`, the base class, and `ConfigError` are in `pipeline_config/sections.py`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline_config.sections import ConfigError, IdxflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ConfigError", "IdxflowError"]  # for the rooms, beside all that is defined here


class RawDataError(IdxflowError):
    """Bytes that are not the file they claim to be: wrong magic number, truncated, wrong digest."""

    expected = "a readable, intact file"
    remedy = "Replace or leave out this file."


class SourceError(IdxflowError):
    """A source that did not give a file. `transient`: the network may be to blame."""

    expected = "the file"
    remedy = "Check the network or name another source."

    def __init__(self, what: object, *, transient: bool = False, **words: str) -> None:
        super().__init__(what, **words)
        self.transient = transient


class FetchError(SourceError):
    """No source gave all four files. `transient`: the network kept one of them from answering."""

    expected = "the four files with the right digests"


class ValidationError(IdxflowError):
    """Rows that break an expectation whose severity is critical."""


class StorageError(IdxflowError):
    """A full disk, or a folder that cannot be written."""

    expected = "free disk, in a folder that this user may write to"
    remedy = "Free some space or choose another folder, and run the same command again."


class DeviceError(IdxflowError):
    """A device that does not exist on this machine."""

    remedy = "Leave --device out to take what is there."


class TrainingError(IdxflowError):
    """A loss that is not a number, or nothing to train or to score on."""

    expected = "a finite loss"
    remedy = "Lower training.optimizer.learning_rate or scale the input."


class InterruptedTraining(IdxflowError):
    """A training that was interrupted and has saved its state."""


class ServerError(IdxflowError):
    """A Prefect server that does not answer."""


class ReleaseError(IdxflowError):
    """A bundle, a pointer or a journal that is damaged or missing."""

    expected = "what publish writes there"
    remedy = "`idxflow verify` names damage and its repair; `idxflow models` lists the versions."


class GateRefused(IdxflowError):
    """A candidate that the gate refused; exit code 3. `result` is the summary of the run."""

    expected = "a model that passes the gate"
    remedy = "See the report; `idxflow models promote` overrules the gate."

    def __init__(self, what: object, *, result: Any = None, **words: str) -> None:
        super().__init__(what, **words)
        self.result = result


def refuse_not_finite(probabilities_NC: NDArray[np.float32]) -> None:
    """Raise TrainingError for no test rows, and for probabilities that are NaN or infinite."""
    import numpy as np

    what, expected = "scoring the test split", "finite probabilities for at least one test row"
    if not len(probabilities_NC):
        remedy = "Choose a split with test rows."
        raise TrainingError(what, found="no test rows", expected=expected, remedy=remedy)
    if num_bad := np.count_nonzero(~np.isfinite(probabilities_NC).all(axis=1)):
        rows = f"{num_bad:,} of {len(probabilities_NC):,} rows"
        found = f"probabilities that are not numbers for {rows}"
        raise TrainingError(what, found=found, expected=expected)


@contextmanager
def signals_deferred() -> Iterator[Callable[[], str | None]]:
    """Defer the first SIGINT or SIGTERM until the block ends; yields what returns its name or None.

    The block should check often and end soon. At its end the deferred signal goes to its earlier
    handler; a second signal goes there at once. Only in the main thread can a signal be deferred.
    """
    deferred: list[int] = []
    earlier: dict[int, Any] = {}

    def restore() -> None:
        while earlier:
            signal.signal(*earlier.popitem())

    def defer(number: int, frame: FrameType | None) -> None:
        deferred.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # Ignored signals stay ignored; None is a handler that Python cannot restore.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                earlier[number] = signal.signal(number, defer)
    try:
        yield lambda: signal.Signals(deferred[0]).name if deferred else None
    finally:
        restore()
        if deferred:
            signal.raise_signal(deferred[0])
