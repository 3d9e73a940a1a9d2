"""The base classes of everything that is read from YAML, and of all errors.

The other errors are in `tasks/runtime/errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

HERE = Path(__file__).parent
# Parsed YAML takes a few hundred times its size in memory. Recipes are far smaller than this.
MAX_YAML = 1 << 16
YAML = f"readable YAML without aliases, of at most {MAX_YAML:,} characters"

SectionT = TypeVar("SectionT", bound="Section")


class IdxflowError(Exception):
    """Bad input or a failing machine. A subclass may have defaults for `expected` and `remedy`."""

    expected = ""
    remedy = ""

    def __init__(self, what: object, *, found: str, expected: str = "", remedy: str = "") -> None:
        super().__init__(str(what), found, expected, remedy)
        self.what, self.found = str(what), found
        self.expected, self.remedy = expected or self.expected, remedy or self.remedy

    def __str__(self) -> str:
        return f"{self.what}: found {self.found}, expected {self.expected}. {self.remedy}"


class ConfigError(IdxflowError):
    """A recipe, a name or a setting that cannot be used."""

    expected = "a value that can be used"
    remedy = "Correct it or leave it out."


class Section(BaseModel):
    """A frozen group of choices. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Section):
    """A frozen group of facts, perhaps written by another version of this project.

    An unknown key is ignored. A new field needs a default.
    """

    model_config = ConfigDict(extra="ignore")


def given_path(text: str | Path) -> Path:
    """Return the path for a text that may begin with ~. Raises ConfigError for an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(text, found="the home folder of an unknown user") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean …?" with the closest known name, or an empty text."""
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


class _Loader(yaml.SafeLoader):
    """A safe loader without aliases: a few hundred bytes of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name)")
        return super().compose_node(parent, index)


def parsed_yaml(source: Path | str, what: str, expected: str, kind: type[Any] = object) -> Any:
    """Return the content of a YAML file or text, a `kind`. Raises ConfigError about `what`."""
    try:
        size = len(source) if isinstance(source, str) else source.stat().st_size
        if size > MAX_YAML:
            raise ValueError(f"{size:,} characters")
        text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)  # noqa: S506
        if not isinstance(content, kind):
            raise ValueError(f"a {type(content).__name__} at the top")
        return content
    except Exception as error:  # PyYAML raises many kinds, such as RecursionError
        found = " ".join(str(error).split())
        raise ConfigError(what, found=found, expected=expected) from error


def read_yaml(path: Path) -> Any:
    """Return the mapping in a YAML file. Raises ConfigError for anything else."""
    return parsed_yaml(path, str(path), f"a mapping in {YAML}", dict)


def checked(cls: type[SectionT], content: dict[str, Any], where: str) -> SectionT:
    """Return `content` as a `cls`. Raises ConfigError that names every key that does not fit."""
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        found = "; ".join(_in_words(fault) for fault in error.errors())
        expected = f"the keys and bounds of {cls.__name__} in pipeline_config/"
        raise ConfigError(where, found=found, expected=expected) from error


def _in_words(fault: Any) -> str:
    """Return which value does not fit, and why. The content of a section is not printed."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "value_error":
        return f"{where}: {fault['ctx']['error']}".removeprefix(": ")
    known = {"extra_forbidden": "an unknown key", "missing": "missing"}
    if fault["type"] in known:
        return f"{where} ({known[fault['type']]})"
    return f"{where} = {repr(fault['input'])[:100]} ({fault['msg']})"
