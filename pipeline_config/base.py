"""The base of everything that is read from YAML: frozen, extra keys refused, one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_config.errors import ConfigError

HERE = Path(__file__).parent
# More than a recipe or a catalogue has: read, YAML takes a few hundred times its size.
MAX_YAML = 1 << 16
YAML = f"readable YAML without aliases, of at most {MAX_YAML:,} characters"

SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """A frozen group of choices; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Section):
    """A frozen group of facts that another version of this project may have written.

    A key that this version does not know is ignored; a new field needs a default.
    """

    model_config = ConfigDict(extra="ignore")


def given_path(text: str | Path) -> Path:
    """A path as a person types it; raises ConfigError for the home of a user who is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            str(text),
            found="the home folder of an unknown user",
            expected="a path, or ~ for your own home",
            remedy="Write the whole path.",
        ) from error


class _Loader(yaml.SafeLoader):
    """Safe, and without aliases: a few hundred bytes of them stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name)")
        return super().compose_node(parent, index)


def parsed_yaml(source: Path | str, what: str, expected: str = YAML) -> Any:
    """What a file or a text in YAML says; raises ConfigError about `what` for anything else."""
    try:
        size = len(source) if isinstance(source, str) else source.stat().st_size
        if size > MAX_YAML:
            raise ValueError(f"{size:,} characters")
        text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
        return yaml.load(text, _Loader)  # noqa: S506
    except Exception as error:
        # PyYAML raises whatever it likes, for too deep a nesting or for a value beside its tag.
        found = " ".join(str(error).split())
        raise ConfigError(what, found=found, expected=expected, remedy="Mend it.") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises ConfigError for anything else."""
    content = parsed_yaml(path, str(path))
    if not isinstance(content, dict):
        raise ConfigError(
            str(path),
            found=f"a {type(content).__name__} at the top",
            expected="a mapping of keys to values",
            remedy="Compare it with a file in pipeline_config/recipes/.",
        )
    return content


def checked(cls: type[SectionT], content: dict[str, Any], where: str) -> SectionT:
    """`content` as a `cls`; raises ConfigError that names every key that does not fit."""
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        faults = [_told(fault) for fault in error.errors()]
        raise ConfigError(
            where,
            found="; ".join(faults),
            expected=f"the keys and bounds of {cls.__name__}",
            remedy="Mend the key named first; the fields are explained in pipeline_config/.",
        ) from error


def _told(fault: Any) -> str:
    """Where one thing does not fit, and how; a whole section is never printed."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where} (an unknown key)"
    if fault["type"] == "missing":
        return f"{where} (missing)"
    if fault["type"] == "value_error":
        reason = str(fault["ctx"]["error"])
        return f"{where}: {reason}" if where else reason
    return f"{where} = {repr(fault['input'])[:100]} ({fault['msg']})"
