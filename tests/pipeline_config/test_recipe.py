"""Recipes: complete and within bounds, or refused with one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_config.recipe_files import RECIPES, load_recipe, recipe_names
from pipeline_config.sections import ConfigError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_opens_with_its_command(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.expected is not None
    header = (RECIPES / f"{name}.yaml").read_text().splitlines()[0]
    assert header.startswith("# idxflow run")


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("training.optimizer.learning_rate=-1", "learning_rate"),
        ("training.epochs=0", "epochs"),
        ("training.epochs=many", "epochs"),
        ("training.batch_size=1", "batch_norm needs a batch_size"),
        ("training.loss=nll", "nll and the output log_softmax"),
        ("training.loss=mse", "label_smoothing needs"),
        ("training.optimizer.nesterov=true", "nesterov needs a momentum"),
        ("model.output=activation", "needs the loss mse"),
        ("model.dropout=1.0", "dropout"),
        ("model.dropout=[0.1]", "one for each of the hidden layers"),
        ("model.hidden=[0]", "hidden"),
        (f"model.hidden={[1] * 101}", "hidden"),
        ("scaling=log", "scaling"),
        ("training.optimizer.learning_rate=.nan", "learning_rate"),
        ("split.validation={kind: last, rows: 0}", "validation"),
        ("training.epoch=3", "'training.epoch', which the recipe does not have"),
        ("training", "no '='"),
        ("=3", "does not have"),
        ("training.epochs.more=3", "does not have"),
        ("model.hidden=[1", "'\\[1'"),
    ],
)
def test_a_wrong_override_is_refused_by_its_name(override: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        load_recipe("fast", (override,))


def test_an_error_about_contradicting_choices_does_not_print_the_recipe() -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", ("training.loss=nll",))
    assert refused.value.found == "the loss nll and the output log_softmax belong together"
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", ("model.dropout=[0.1]",))
    assert refused.value.found.startswith("model: dropout is one number")


@pytest.mark.parametrize(
    ("override", "form"),
    [
        ("model.hidden=64,64", "model.hidden=[256,256]"),
        ("model.hidden=[0]", "model.hidden=[256,256]"),
        ("training.epochs=many", "training.epochs=5"),
        ("training.optimizer.learning_rate=fast", "training.optimizer.learning_rate=0.01"),
        ("training.schedule=cosine", 'training.schedule={"name":"one_cycle","warmup":0.2}'),
        ("split.validation.rows=none", "split.validation.rows=5000"),
        ("split.validation={kind: last, rows: 0}", 'split.validation={"kind":"last","rows":5000}'),
        ("training.loss=nll", 'training.loss="cross_entropy"'),
        ("model.dropout=[0.1]", "model.dropout=0.0"),
        ("model.batch_norm=2024-13-45", "model.batch_norm=true"),
        ("model.hidden=[1", "model.hidden=[256,256]"),
    ],
)
def test_an_error_names_the_override_and_shows_a_value_that_fits(override: str, form: str) -> None:
    # An error about the whole recipe names all overrides.
    others = () if override == "training.loss=nll" else ("training.seed=3",)
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", (*others, override))
    key, _, value = override.partition("=")
    assert refused.value.what in (f"--set {override}", f"--set {key}={value!r}")
    assert form in refused.value.expected
    # The value that is shown fits.
    assert load_recipe("fast", (form.replace("256,256", "64,64"),))


def _set_activation(content: dict[str, Any]) -> None:
    content["model"]["activation"] = "sigmoid"


def _misspell(content: dict[str, Any]) -> None:
    content["model"]["widht"] = 3


def _forget(content: dict[str, Any]) -> None:
    del content["training"]["seed"]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (_set_activation, "model.activation = 'sigmoid'"),
        (_misspell, "model.widht (an unknown key)"),
        (_forget, "training.seed (missing)"),
    ],
)
def test_a_fault_in_a_file_names_the_file_and_the_key(
    harm: Callable[[dict[str, Any]], None], found: str, tmp_path: Path
) -> None:
    content = yaml.safe_load((RECIPES / "fast.yaml").read_text())
    harm(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as refused:
        load_recipe(str(path), ("training.epochs=3",))
    assert refused.value.what == "recipe mine.yaml"
    assert found in refused.value.found


def laughs(levels: int) -> str:
    """Return a few hundred bytes of YAML that expand to 10 to the power of `levels` words."""
    lines = ["a0: &a0 [" + ", ".join(["laugh"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "aliases": (laughs(7), "an alias"),
    "an alias of itself": ("a: &a [*a]", "an alias"),
    "deep nesting": ("a: " + "[" * 3000 + "]" * 3000, "recursion"),
    "deep nesting by indentation": (
        "\n".join(" " * n + "a:" for n in range(350)) + " 1",
        "recursion",
    ),
    "a number without end": ("a: " + "9" * 5000, "4300 digits"),
    "an invalid number": ("a: !!int ''", "index out of range"),
    "an invalid date": ("a: 2024-13-45", "month"),
    "too large": ("a: " + "x" * (1 << 16), "65,539 characters"),
    "bytes that are not UTF-8": (b"a: \xff", "utf-8"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    content, found = HOSTILE[kind]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=found) as refused:
        load_recipe(str(path))
    if isinstance(content, str):
        with pytest.raises(ConfigError, match=found):
            load_recipe("fast", (f"training.epochs={content}",))
    assert refused.value.what == str(path)
    assert "without aliases" in refused.value.expected


def test_an_error_about_a_large_value_stays_short() -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", (f"training.epochs=[{'1, ' * 1000}]",))
    assert len(str(refused.value)) < 500


def test_overrides_apply_and_remove_the_expected_result() -> None:
    recipe = load_recipe("fast", ("training.epochs=3", "training.optimizer.learning_rate=1e-3"))
    assert recipe.training.epochs == 3
    assert recipe.training.optimizer.learning_rate == 0.001
    assert recipe.expected is None


@pytest.mark.parametrize(("dropout", "each"), [("0.2", (0.2, 0.2)), ("[0.2, 0]", (0.2, 0.0))])
def test_a_single_dropout_applies_to_all_hidden_layers(
    dropout: str, each: tuple[float, ...]
) -> None:
    assert load_recipe("fast", (f"model.dropout={dropout}",)).model.dropout == each


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00"])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fast"):
        load_recipe("quick")
