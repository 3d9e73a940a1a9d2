"""Where recipes come from: the YAML files beside this module, or a person's own.

Apart from the types in `recipe.py`, so that a change here reaches no stage's key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline_config.base import HERE, checked, given_path, read_yaml
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

    Raises ConfigError for an unknown name, an unknown key or a value out of bounds.
    """
    path = recipe_file(choice)
    content = {"name": path.stem, **read_yaml(path)}
    for override in overrides:
        _apply(content, override)
    if overrides:
        content["expected"] = None
    return checked(Recipe, content, f"recipe {path.name}")


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in `content`; the value is read as YAML. Raises ConfigError."""
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
    try:
        section[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}", found=repr(text), expected="a YAML value", remedy="Quote it."
        ) from error
