"""The error tree. Each message has four parts: what, found, expected, what to do.

IdxflowError
├── ConfigError            a recipe, a name, a setting            (pipeline_config/sections.py)
├── RawDataError           bytes that are not the file they claim to be
├── SourceError            a source that did not give a file
│   └── FetchError         no source gave all the files
├── ValidationError        rows that break a critical expectation
├── StorageError           a full disk, or a folder that cannot be written
├── DeviceError            a device that is not there
├── TrainingError          a loss that is not a number
├── InterruptedTraining    a training that was asked to stop and has saved its state
├── ServerError            a Prefect server that does not answer
├── ReleaseError           a bundle, journal or pointer that is damaged or missing
└── GateRefused            a candidate that the gate refused; the run ends with exit code 3
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_config.sections import ConfigError, IdxflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    """A device that is not there."""


class TrainingError(IdxflowError):
    """A loss that is not a number, or nothing to train or to score on."""

    expected = "a finite loss"
    remedy = "Lower training.optimizer.learning_rate or scale the input."


class InterruptedTraining(IdxflowError):
    """A training that was asked to stop and has saved its state."""


class ServerError(IdxflowError):
    """A Prefect server that does not answer."""


class ReleaseError(IdxflowError):
    """A bundle, a pointer or a journal that is damaged or missing."""

    expected = "what publish writes there"
    remedy = "`idxflow verify` says what is damaged; the command that made it repairs it."


class GateRefused(IdxflowError):
    """A candidate that the gate refused. `result` is the summary of the run."""

    def __init__(self, what: object, *, result: Any = None, **words: str) -> None:
        super().__init__(what, **words)
        self.result = result


__all__ = ["ConfigError", "IdxflowError"]  # for the rooms, beside all that is defined here


def refuse_not_finite(
    numbers_NC: NDArray[np.float32], what: str, *, kind: str, row: str, without_rows: str
) -> None:
    """Raise TrainingError for an empty array (N, C), and for NaN or infinity in it.

    `kind` and `row` name the numbers and the rows; `without_rows` is the remedy for no rows.
    """
    import numpy as np

    num_rows = len(numbers_NC)
    num_bad = num_rows - int(np.isfinite(numbers_NC).all(axis=1).sum())
    if num_rows == 0:
        raise TrainingError(
            what, found=f"no {row}s", expected=f"at least one {row}", remedy=without_rows
        )
    if num_bad:
        found = f"{kind} that are not numbers for {num_bad:,} of {num_rows:,} rows"
        raise TrainingError(what, found=found, expected=f"C finite {kind} for each {row}")
