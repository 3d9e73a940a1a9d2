"""Reads recipes from YAML, with overrides, and lists the cautions about a recipe.

This is not in `recipe.py`, so that a change here changes no stage's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_config.recipe import Recipe
from pipeline_config.sections import (
    HERE,
    ConfigError,
    checked,
    did_you_mean,
    given_path,
    parsed_yaml,
    read_yaml,
)

RECIPES = HERE / "recipes"

# Classic mistakes of training, which a recipe may make on purpose. The figures are mean accuracies
# on MNIST's test split with and without that one choice, over five seeds of digit-classifier and
# three of keras-blog.
RAW_INPUT = (
    "The pixels enter raw, 0 to 255, so the first layer's gradients are hundreds of times larger "
    "than with inputs near 1: digit-classifier reaches 11 % instead of 97 %, and keras-blog 94 % "
    "instead of 97 %."
)
MSE = (
    "The loss is the mean square error, whose gradient is small where the network is confident and "
    "wrong: digit-classifier reaches 93 % instead of 97 %, and the outputs are not probabilities."
)
IN_ORDER = (
    "The rows are not shuffled. MNIST's rows are well mixed, which hides the cost: on rows sorted "
    "by class digit-classifier falls from 97 % to 18 %, since each class overwrites the last one."
)
NO_VALIDATION = (
    "There are no validation rows: nothing can be chosen, and the confidence stays uncalibrated."
)


def recipe_names() -> list[str]:
    """Return the sorted names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(choice: str) -> Path:
    """Return the YAML file of a recipe's name or path. Raises ConfigError where there is none."""
    names = recipe_names()
    path = RECIPES / f"{choice}.yaml" if choice in names else given_path(choice)
    if not path.is_file():
        expected = f"one of {', '.join(names)}, or the path of a YAML file"
        remedy = did_you_mean(choice, names) + "See `idxflow recipes`."
        raise ConfigError(choice, found="no such recipe or file", expected=expected, remedy=remedy)
    return path


def cautions_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the cautions about the classic mistakes that a recipe makes."""
    made = {
        RAW_INPUT: recipe.scaling == "none",
        MSE: recipe.training.loss == "mse",
        IN_ORDER: not recipe.training.shuffle,
        NO_VALIDATION: recipe.split.validation.kind == "none",
    }
    return tuple(caution for caution, is_made in made.items() if is_made)


def load_recipe(choice: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe of a name or a YAML file, with `a.b=value` overrides applied.

    Raises ConfigError for an unknown name, an unknown key or a value out of bounds; it names the
    overrides that caused it.
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
    """Return whether pydantic's error is about an override's key, or about a section around it."""
    assert isinstance(error, ValidationError)
    key = override.partition("=")[0].strip().split(".")
    # pydantic adds the kind of a section: split.validation.last.rows.
    places = [[str(part) for part in fault["loc"]] for fault in error.errors()]
    return any(set(key) <= set(place) or place == key[: len(place)] for place in places)


def _apply(content: dict[str, Any], override: str) -> str:
    """Set one `a.b=value` (the value in YAML) in `content`, and return `a.b=` with the old value.

    Raises ConfigError for a key that `content` does not have and for broken YAML.
    """
    dotted, equals, text = override.partition("=")
    *parents, leaf = dotted.strip().split(".")
    section: Any = content
    for part in parents:
        section = section.get(part) if isinstance(section, dict) else None
    if not equals or not isinstance(section, dict) or leaf not in section:
        found = f"{dotted.strip()!r}, which the recipe does not have" if equals else "no '='"
        expected = "key=value with a dotted key of the recipe, like training.epochs=3"
        remedy = did_you_mean(dotted.strip(), _dotted(content)) + "See `idxflow recipes NAME`."
        raise ConfigError(f"--set {override}", found=found, expected=expected, remedy=remedy)
    own = f"{dotted}={json.dumps(section[leaf], default=str, separators=(',', ':'))}"
    section[leaf] = parsed_yaml(text, f"--set {dotted}={text[:100]!r}", f"YAML, such as {own}")
    return own


def _dotted(content: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{key}.")
