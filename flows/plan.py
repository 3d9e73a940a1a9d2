"""A plan: what a user chose, resolved and checked before anything runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated

from pydantic import StringConstraints

from pipeline_config.datasets import Dataset, dataset_names, named_dataset
from pipeline_config.recipe import OfficialTest, Recipe, Split, StratifiedFold
from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import ConfigError, Section, given_path
from tasks.dataset.incoming import collect_incoming, waiting_files
from tasks.dataset.shards import Shard, training_shards
from tasks.runtime.devices import DeviceChoice, Machine, probe
from tasks.runtime.files import root_lock
from tasks.runtime.stages import STAGE_NAMES, StageName

# Means the recipe that the data set names.
DEFAULT = "default"
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Choice(Section):
    """What a user chose. The fields are explained in `flows/retrain.py`."""

    dataset: str = "mnist"
    recipe: str = DEFAULT
    device: DeviceChoice = "auto"
    overrides: tuple[str, ...] = ()
    source: str | None = None
    classes: int | None = None
    refresh_from: StageName | None = None
    force_promote: Reason | None = None


class Plan(Section):
    """A data set with its shards, a recipe and a machine, with the stages to run again."""

    dataset: Dataset
    recipe: Recipe
    machine: Machine
    source: str | None
    refreshed: tuple[str, ...]
    force_promote: str | None
    shards: tuple[Shard, ...] = ()


# The plan of the command line that runs a flow in this process: a choice is resolved once.
planned: ContextVar[Plan | None] = ContextVar("planned", default=None)


def make_plan(choice: Choice) -> Plan:
    """Return the plan of a choice. Raises an IdxflowError for whatever of it is not possible."""
    dataset = _dataset(choice.dataset, choice.classes)
    source = None if choice.source is None else given_path(choice.source).resolve()
    if source is not None and not source.exists():
        expected = "a folder (or .zip) with the data set's files"
        raise ConfigError(f"--source {choice.source}", found="no such folder", expected=expected)
    name = dataset.default_recipe if choice.recipe == DEFAULT else choice.recipe
    recipe = load_recipe(name, choice.overrides)
    first = STAGE_NAMES.index(choice.refresh_from) if choice.refresh_from else len(STAGE_NAMES)
    return Plan(
        dataset=dataset,
        recipe=recipe,
        machine=_machine(choice.device, recipe),
        source=None if source is None else str(source),
        refreshed=STAGE_NAMES[first:],
        force_promote=choice.force_promote,
        shards=training_shards(dataset.name),
    )


def take_in_waiting(choice: Choice) -> None:
    """Take in the new rows that wait for a named data set. The run then judges them."""
    if choice.dataset in dataset_names() and waiting_files(choice.dataset):
        with root_lock():
            collect_incoming(named_dataset(choice.dataset))


def _machine(device: DeviceChoice, recipe: Recipe) -> Machine:
    """Return the machine to train on. The NumPy engine needs the CPU, in float32."""
    if recipe.training.engine == "torch":
        return probe(device)
    if device not in ("auto", "cpu"):
        found = f"recipe {recipe.name}, whose engine is numpy"
        expected = "--device cpu, or --set training.engine=torch"
        raise ConfigError(f"--device {device}", found=found, expected=expected)
    return probe("cpu").model_copy(update={"precision": "float32"})


def _dataset(choice: str, classes: int | None) -> Dataset:
    """Return the named data set, or a folder as a data set. A name comes before a folder."""
    is_path = given_path(choice).exists() or "/" in choice
    if choice not in dataset_names() and is_path:
        from tasks.raw.folder import folder_dataset

        return folder_dataset(given_path(choice), classes or 10)
    dataset = named_dataset(choice)
    if classes not in (None, dataset.num_classes):
        found = f"{dataset.name}, which has {dataset.num_classes} classes"
        expected = "--classes only with a folder as data set"
        raise ConfigError(f"--classes {classes}", found=found, expected=expected)
    return dataset


def fold_plans(plan: Plan, num_folds: int) -> list[Plan]:
    """Return the plan with each fold of the training split in turn as its validation rows.

    Neither the test split nor shards are used. Raises ConfigError for a recipe that gives no
    probabilities.
    """
    recipe, training = plan.recipe, plan.recipe.training
    if not training.gives_logits:
        found = f"the loss {training.loss}, which gives no probabilities"
        expected = "a recipe with the loss cross_entropy or nll, such as fast"
        raise ConfigError(f"recipe {recipe.name}", found=found, expected=expected)
    training = training.model_copy(update={"keep_epochs": False})
    plans = []
    for fold in range(num_folds):
        rows = StratifiedFold(kind="fold", fold=fold, folds=num_folds, seed=training.seed)
        split = Split(test=OfficialTest(kind="official"), validation=rows)
        of_fold = recipe.model_copy(update={"split": split, "training": training})
        plans.append(plan.model_copy(update={"recipe": of_fold, "shards": ()}))
    return plans
