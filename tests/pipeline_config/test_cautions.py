"""Cautions: each classic mistake is said once, and a good recipe hears nothing."""

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
def test_a_recipe_without_mistakes_hears_nothing(name: str) -> None:
    assert cautions_of(load_recipe(name)) == ()


@pytest.mark.parametrize(("override", "caution"), MISTAKES.items())
def test_each_mistake_is_told_with_its_cost(override: str, caution: str) -> None:
    recipe = load_recipe("small", (override,))
    assert cautions_of(recipe) == (caution,)
    assert caution.endswith(".")
    assert "\n" not in caution


def test_all_mistakes_together_are_told_in_one_order() -> None:
    recipe = load_recipe("small", tuple(reversed(list(MISTAKES))))
    assert cautions_of(recipe) == tuple(MISTAKES.values())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("keras-blog", (RAW_INPUT,)),
        ("nnfwp", (RAW_INPUT, MSE, IN_ORDER, NO_VALIDATION)),
        ("selene", (RAW_INPUT, NO_VALIDATION)),
        ("digit-classifier", (NO_VALIDATION,)),
    ],
)
def test_tutorials_are_told_what_they_do(name: str, told: tuple[str, ...]) -> None:
    assert cautions_of(load_recipe(name)) == told


def test_the_command_line_says_them_beside_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["recipes", "selene"], ["recipes", "selene", "--json"]):
        app(words, standalone_mode=False)
        out, err = capsys.readouterr()
        assert "caution" not in out
        told = [line for line in err.splitlines() if line.startswith("caution ")]
        cautions = () if "--json" in words else (RAW_INPUT, NO_VALIDATION)
        assert told == [f"caution {caution}" for caution in cautions]
