"""Recipes read from YAML, with overrides, and the cautions about what a recipe chooses.

Not in `recipe.py`, so that a change here is in no stage's key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_config.recipe import NoValidation, Recipe
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

# The classic mistakes of training, which a recipe may make on purpose. The figures are mean
# accuracies on MNIST's test split, with and without the one choice that the sentence is about: five
# seeds of digit-classifier, three of keras-blog.
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
        remedy=did_you_mean(choice, recipe_names()) + "See `idxflow recipes`.",
    )


def cautions_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the cautions about the classic mistakes that a recipe makes, with what they cost."""
    made = {
        RAW_INPUT: recipe.scaling == "none",
        MSE: recipe.training.loss == "mse",
        IN_ORDER: not recipe.training.shuffle,
        NO_VALIDATION: isinstance(recipe.split.validation, NoValidation),
    }
    return tuple(caution for caution, is_made in made.items() if is_made)


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


def _dotted(content: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted keys of a recipe."""
    for key, value in content.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{key}.")


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
            remedy=did_you_mean(dotted.strip(), _dotted(content))
            + "`idxflow recipes NAME` prints the recipe with all its keys.",
        )
    own = f"{dotted}={json.dumps(section[leaf], default=str, separators=(',', ':'))}"
    section[leaf] = parsed_yaml(text, f"--set {dotted}={text[:100]!r}", f"YAML, such as {own}")
    return own
