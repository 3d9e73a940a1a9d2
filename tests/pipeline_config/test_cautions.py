"""Cautions: one for each classic mistake, and none for a recipe without mistakes."""

from __future__ import annotations

import pytest

from flows.cli import app
from pipeline_config.recipe_files import (
    IN_ORDER,
    MSE,
    NO_VALIDATION,
    RAW_INPUT,
    cautions_of,
    load_recipe,
)

MISTAKES = {
    "scaling=none": RAW_INPUT,
    "training.loss=mse": MSE,
    "training.shuffle=false": IN_ORDER,
    "split.validation={kind: none}": NO_VALIDATION,
}


@pytest.mark.parametrize("name", ["fast", "small", "dense512", "challenge-985"])
def test_a_recipe_without_mistakes_has_no_cautions(name: str) -> None:
    assert cautions_of(load_recipe(name)) == ()


@pytest.mark.parametrize(("override", "caution"), MISTAKES.items())
def test_each_mistake_has_one_caution(override: str, caution: str) -> None:
    recipe = load_recipe("small", (override,))
    assert cautions_of(recipe) == (caution,)
    assert caution.endswith(".")
    assert "\n" not in caution


def test_several_cautions_are_in_a_fixed_order() -> None:
    recipe = load_recipe("small", tuple(reversed(list(MISTAKES))))
    assert cautions_of(recipe) == tuple(MISTAKES.values())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("keras-blog", (RAW_INPUT,)),
        ("nnfwp", (RAW_INPUT, MSE, IN_ORDER, NO_VALIDATION)),
        ("selene", (RAW_INPUT, NO_VALIDATION)),
        ("digit-classifier", (NO_VALIDATION,)),
    ],
)
def test_the_tutorials_cautions_are_of_their_mistakes(name: str, found: tuple[str, ...]) -> None:
    assert cautions_of(load_recipe(name)) == found


def test_the_command_line_prints_cautions_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["recipes", "selene"], ["recipes", "selene", "--json"]):
        app(words, standalone_mode=False)
        out, err = capsys.readouterr()
        assert "caution" not in out
        found = [line for line in err.splitlines() if line.startswith("caution ")]
        cautions = () if "--json" in words else (RAW_INPUT, NO_VALIDATION)
        assert found == [f"caution {caution}" for caution in cautions]
