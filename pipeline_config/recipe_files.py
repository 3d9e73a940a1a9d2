"""Where recipes come from: the YAML files beside this module, or a person's own.

Apart from the types in `recipe.py`, so that a change here reaches no stage's key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_config.base import HERE, checked, given_path, parsed_yaml, read_yaml
from pipeline_config.errors import ConfigError
from pipeline_config.recipe import Recipe

RECIPES = HERE / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the project, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(choice: str) -> Path:
    """The YAML file of a recipe's name, or of its path; raises ConfigError where there is none."""
    if choice in recipe_names():
        return RECIPES / f"{choice}.yaml"
    path = given_path(choice)
    if path.is_file():
        return path
    raise ConfigError(
        f"recipe {choice!r}",
        found="neither a recipe's name nor a file",
        expected=f"one of {', '.join(recipe_names())}, or the path of a YAML file",
        remedy="See `idxflow recipes`.",
    )


def load_recipe(choice: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a name or a YAML file, with `a.b=value` overrides applied before the checks.

    Raises ConfigError, about the overrides if they are at fault, for an unknown name, an unknown
    key or a value out of bounds.
    """
    path = recipe_file(choice)
    content = {"name": path.stem, **read_yaml(path)}
    own = {override: _apply(content, override) for override in overrides}
    if overrides:
        content["expected"] = None
    try:
        return checked(Recipe, content, f"recipe {path.name}")
    except ConfigError as error:
        blamed = [override for override in own if _is_blamed(override, error.__cause__)]
        if blamed:
            error.what = " ".join(f"--set {override[:100]}" for override in blamed)
            fitting = " ".join(own[override] for override in blamed)
            error.expected = f"values that fit, such as {path.name} has: {fitting}"
        raise


def _is_blamed(override: str, error: BaseException | None) -> bool:
    """Whether pydantic's error is about the key of an override, or about a section around it."""
    assert isinstance(error, ValidationError)
    key = override.partition("=")[0].strip().split(".")
    # The kind of a section may stand in between: split.validation.last.rows.
    places = [[str(part) for part in fault["loc"]] for fault in error.errors()]
    return any(set(key) <= set(place) or place == key[: len(place)] for place in places)


def _apply(content: dict[str, Any], override: str) -> str:
    """Set one `a.b=value` in `content`, a value in YAML; returns the one before it in that form.

    Raises ConfigError.
    """
    dotted, equals, text = override.partition("=")
    *parents, leaf = dotted.strip().split(".")
    section: Any = content
    for part in parents:
        section = section.get(part) if isinstance(section, dict) else None
    if not equals or not leaf or not isinstance(section, dict) or leaf not in section:
        raise ConfigError(
            f"--set {override}",
            found=f"{dotted.strip()!r}, which the recipe does not have" if equals else "no '='",
            expected="key=value with a dotted key of the recipe, like training.epochs=3",
            remedy="`idxflow recipes NAME` prints the recipe with all its keys.",
        )
    own = f"{dotted}={json.dumps(section[leaf], default=str, separators=(',', ':'))}"
    section[leaf] = parsed_yaml(text, f"--set {dotted}={text[:100]!r}", f"YAML, such as {own}")
    return own
