"""The error tree: what may go wrong, each said in four parts (see `IdxflowError`).

IdxflowError
├── ConfigError        a recipe, a name, a setting            (pipeline_config/errors.py)
├── RawDataError       bytes that are not what they claim to be
├── SourceError        one place that did not give a file
│   └── FetchError     no place gave all the files
├── ValidationError    rows that break a critical expectation
├── StorageError       a disk that is full or a folder that cannot be written
├── DeviceError        a device that is not there
├── TrainingError      a loss that stops being a number
├── InterruptedTraining  a training that was asked to stop and has saved where it stood
├── ServerError        a Prefect server that does not answer
├── ReleaseError       a bundle that does not hold what it promises
└── GateRefused        a candidate that may not become champion; its run ends with exit code 3
"""

from __future__ import annotations

from typing import Any

from pipeline_config.errors import ConfigError, IdxflowError


class RawDataError(IdxflowError):
    """Bytes that are not the file they claim to be: wrong magic, truncated, wrong digest …"""


class SourceError(IdxflowError):
    """One source that did not give a file; `transient` if only the network is to blame."""

    def __init__(
        self, what: str, *, found: str, expected: str, remedy: str, transient: bool = False
    ) -> None:
        super().__init__(what, found=found, expected=expected, remedy=remedy)
        self.transient = transient


class FetchError(SourceError):
    """No source gave all four files; `transient` if the network kept one from it."""


class ValidationError(IdxflowError):
    """Rows that break an expectation whose severity is critical."""


class StorageError(IdxflowError):
    """A disk that is full or a folder that cannot be written."""


class DeviceError(IdxflowError):
    """A device that was asked for and is not there."""


class TrainingError(IdxflowError):
    """A training whose loss stops being a number."""


class InterruptedTraining(IdxflowError):
    """A training that was asked to stop and has saved where it stood."""


class ServerError(IdxflowError):
    """A Prefect server that does not answer."""


class ReleaseError(IdxflowError):
    """A bundle, a pointer or a journal that does not hold what it promises."""


class GateRefused(IdxflowError):
    """A candidate that the gate refused; `result` is what the run came to all the same."""

    def __init__(
        self, what: str, *, found: str, expected: str, remedy: str, result: Any = None
    ) -> None:
        super().__init__(what, found=found, expected=expected, remedy=remedy)
        self.result = result


# What is imported here to be imported from here.
__all__ = ["ConfigError", "IdxflowError"]
