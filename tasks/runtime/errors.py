"""The errors that reach a person, and the signals that a training turns into one of them.

Each message has four parts: what, found, expected, what to do. `IdxflowError`, the base class, and
`ConfigError` are defined in `pipeline_config/sections.py`.
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
    remedy = "Replace the file by an intact copy."


class SourceError(IdxflowError):
    """A source that did not give a file. `transient`: the network may be to blame."""

    expected = "the file"
    remedy = "Check the network or name another source."

    def __init__(self, what: object, *, transient: bool = False, **words: str) -> None:
        super().__init__(what, **words)
        self.transient = transient


class FetchError(SourceError):
    """No source gave all four files. `transient`: the network kept one of them from answering."""


class ValidationError(IdxflowError):
    """Rows that break an expectation whose severity is critical."""


class StorageError(IdxflowError):
    """A full disk, or a folder that cannot be written."""


class DeviceError(IdxflowError):
    """A device that does not exist on this machine."""


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
    remedy = "`idxflow verify` says what is damaged; the command that made it repairs it."


class GateRefused(IdxflowError):
    """A candidate that the gate refused; exit code 3. `result` is the summary of the run."""

    def __init__(self, what: object, *, result: Any = None, **words: str) -> None:
        super().__init__(what, **words)
        self.result = result


def refuse_not_finite(
    numbers_NC: NDArray[np.float32], what: str, *, kind: str, row: str, without_rows: str
) -> None:
    """Raise TrainingError for an empty array (N, C), and for NaN or infinity in it.

    `kind` and `row` name the numbers and the rows; `without_rows` is the remedy for no rows.
    """
    import numpy as np

    if not len(numbers_NC):
        found, expected = f"no {row}s", f"at least one {row}"
        raise TrainingError(what, found=found, expected=expected, remedy=without_rows)
    num_bad = np.count_nonzero(~np.isfinite(numbers_NC).all(axis=1))
    if num_bad:
        found = f"{kind} that are not numbers for {num_bad:,} of {len(numbers_NC):,} rows"
        raise TrainingError(what, found=found, expected=f"C finite {kind} for each {row}")


@contextmanager
def signals_deferred() -> Iterator[Callable[[], str | None]]:
    """Defer the first SIGINT or SIGTERM until the block ends; yields what returns its name or None.

    SIGINT is Ctrl-C; a cancelled Prefect run gets SIGTERM. The block should check often and end
    soon. At its end the deferred signal goes to its earlier handler; a second signal goes there at
    once. Outside the main thread nothing is deferred, since only that one can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    deferred: list[int] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # Ignored signals stay ignored; None is a handler that Python cannot restore.
    earlier = {each: old for each, old in handlers.items() if old not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def defer(number: int, frame: FrameType | None) -> None:
        deferred.append(number)
        restore()

    for number in earlier:
        signal.signal(number, defer)
    try:
        yield lambda: signal.Signals(deferred[0]).name if deferred else None
    finally:
        restore()
        if deferred:
            signal.raise_signal(deferred[0])
