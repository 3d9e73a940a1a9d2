"""The base of everything read from YAML: frozen sections, unknown keys refused, clear errors.

The root of the error tree is here too, below everything else. Its branches are in
`tasks/runtime/errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

HERE = Path(__file__).parent
# YAML takes a few hundred times its size in memory. Recipes and catalogues are far smaller.
MAX_YAML = 1 << 16
YAML = f"readable YAML without aliases, of at most {MAX_YAML:,} characters"

SectionT = TypeVar("SectionT", bound="Section")


class IdxflowError(Exception):
    """Bad input or a failing machine, in four parts: what, found, expected, what to do.

    A class of errors has defaults for the last two.
    """

    expected = ""
    remedy = ""

    def __init__(self, what: object, *, found: str, expected: str = "", remedy: str = "") -> None:
        super().__init__(str(what), found, expected, remedy)
        self.what, self.found = str(what), found
        self.expected, self.remedy = expected or self.expected, remedy or self.remedy

    def __str__(self) -> str:
        return f"{self.what}: found {self.found}, expected {self.expected}. {self.remedy}"


class ConfigError(IdxflowError):
    """A recipe, a data set's name or a setting that cannot be used."""

    remedy = "Correct it."


class Section(BaseModel):
    """A frozen group of choices. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Section):
    """A frozen group of facts that another version of this project may have written.

    An unknown key is ignored. A new field needs a default.
    """

    model_config = ConfigDict(extra="ignore")


def given_path(text: str | Path) -> Path:
    """Return a path as a person types it. Raises ConfigError for an unknown user's home."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            text,
            found="the home folder of an unknown user",
            expected="a path, or ~ for your own home",
            remedy="Write the whole path.",
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question after the closest known name, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


class _Loader(yaml.SafeLoader):
    """A safe loader without aliases: a few hundred bytes of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name)")
        return super().compose_node(parent, index)


def parsed_yaml(source: Path | str, what: str, expected: str = YAML) -> Any:
    """Return the content of a YAML file or text. Raises ConfigError about `what`."""
    try:
        size = len(source) if isinstance(source, str) else source.stat().st_size
        if size > MAX_YAML:
            raise ValueError(f"{size:,} characters")
        text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
        return yaml.load(text, _Loader)  # noqa: S506
    except Exception as error:  # PyYAML raises many kinds of errors, for example for deep nesting
        found = " ".join(str(error).split())
        raise ConfigError(what, found=found, expected=expected) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises ConfigError for anything else."""
    content = parsed_yaml(path, str(path))
    if isinstance(content, dict):
        return content
    raise ConfigError(
        path,
        found=f"a {type(content).__name__} at the top",
        expected="a mapping of keys to values",
        remedy="Compare it with a file in pipeline_config/recipes/.",
    )


def checked(cls: type[SectionT], content: dict[str, Any], where: str) -> SectionT:
    """Return `content` as a `cls`. Raises ConfigError that names every key that does not fit."""
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        raise ConfigError(
            where,
            found="; ".join(_in_words(fault) for fault in error.errors()),
            expected=f"the keys and bounds of {cls.__name__}",
            remedy="Correct the first key; the fields are explained in pipeline_config/.",
        ) from error


def _in_words(fault: Any) -> str:
    """Return where one value does not fit, and why. A whole section is never printed."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where} (an unknown key)"
    if fault["type"] == "missing":
        return f"{where} (missing)"
    if fault["type"] == "value_error":
        reason = str(fault["ctx"]["error"])
        return f"{where}: {reason}" if where else reason
    return f"{where} = {repr(fault['input'])[:100]} ({fault['msg']})"
