"""The root of the error tree: every error that a person can cause is an `IdxflowError`.

It stands here, below everything else, so that a recipe that cannot be read and a file that cannot
be downloaded end in the same way: one message, no traceback. The other branches are in
`tasks/runtime/errors.py`.
"""

from __future__ import annotations


class IdxflowError(Exception):
    """Bad input or a failing machine, said in four parts: what, found, expected, what to do."""

    def __init__(self, what: str, *, found: str, expected: str, remedy: str) -> None:
        self.what, self.found, self.expected, self.remedy = what, found, expected, remedy
        super().__init__(what, found, expected, remedy)

    def __str__(self) -> str:
        return f"{self.what}: found {self.found}, expected {self.expected}. {self.remedy}"


class ConfigError(IdxflowError):
    """A recipe, a data set's name or a setting that cannot be used."""
