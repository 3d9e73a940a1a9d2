"""Recipes: whole, bounded, and refused in one clear sentence otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline_config.datasets import FILES, named_dataset, named_datasets
from pipeline_config.errors import ConfigError
from pipeline_config.recipe_files import RECIPES, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_opens_with_its_command(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.expected is not None
    header = (RECIPES / f"{name}.yaml").read_text().splitlines()[0]
    assert header.startswith("# idxflow run")


@pytest.mark.parametrize("dataset", named_datasets().values(), ids=lambda dataset: dataset.name)
def test_every_dataset_is_whole(dataset: object) -> None:
    assert dataset == named_dataset(dataset.name)  # type: ignore[attr-defined]
    assert tuple(dataset.files) == FILES  # type: ignore[attr-defined]
    assert len(dataset.class_names) == dataset.num_classes  # type: ignore[attr-defined]
    assert dataset.default_recipe in recipe_names()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "told"),
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
def test_nonsense_is_refused_by_name(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_recipe("fast", (override,))


def test_choices_that_contradict_each_other_are_told_without_the_whole_recipe() -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", ("training.loss=nll",))
    assert refused.value.found == "the loss nll and the output log_softmax belong together"
    with pytest.raises(ConfigError) as refused:
        load_recipe("fast", ("model.dropout=[0.1]",))
    assert refused.value.found.startswith("model: dropout is one number")


def test_overrides_apply_and_drop_the_expectation() -> None:
    recipe = load_recipe("fast", ("training.epochs=3", "training.optimizer.learning_rate=1e-3"))
    assert recipe.training.epochs == 3
    assert recipe.training.optimizer.learning_rate == 0.001
    assert recipe.expected is None


@pytest.mark.parametrize(("dropout", "each"), [("0.2", (0.2, 0.2)), ("[0.2, 0]", (0.2, 0.0))])
def test_one_dropout_stands_for_all_hidden_layers(dropout: str, each: tuple[float, ...]) -> None:
    assert load_recipe("fast", (f"model.dropout={dropout}",)).model.dropout == each


def test_an_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES / "fast.yaml").read_text())
    content["model"]["widht"] = 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"model.widht \(an unknown key\)"):
        load_recipe(str(path))


def test_a_missing_key_in_a_file_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES / "fast.yaml").read_text())
    del content["training"]["seed"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"training.seed \(missing\)"):
        load_recipe(str(path))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="fast"):
        load_recipe("quick")
    with pytest.raises(ConfigError, match="mnist"):
        named_dataset("mnits")
