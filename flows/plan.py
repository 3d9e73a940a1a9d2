"""A plan: what was asked for, resolved and checked, before anything runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from pipeline_config.datasets import Dataset, named_dataset, named_datasets
from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import ConfigError, Section, given_path
from tasks.runtime.devices import DeviceChoice, Machine, probe
from tasks.runtime.stages import STAGE_NAMES, StageName

# The recipe that stands for "the one that the data set names".
DEFAULT = "default"


# Why the gate is overruled; an empty reason is none.
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Choice(Section):
    """What was asked for, as it was asked; the fields are explained in `flows/retrain.py`."""

    dataset: str = "mnist"
    recipe: str = DEFAULT
    device: DeviceChoice = "auto"
    overrides: tuple[str, ...] = ()
    source: str | None = None
    classes: int | None = None
    refresh_from: StageName | None = None
    force_promote: Reason | None = None


class Plan(Section):
    """A data set, a recipe and a machine, with what is to be done again."""

    dataset: Dataset
    recipe: Recipe
    machine: Machine
    source: str | None
    refreshed: tuple[str, ...]
    force_promote: str | None


def make_plan(choice: Choice) -> Plan:
    """The plan of a choice; raises an IdxflowError for whatever of it cannot be."""
    dataset = _dataset(choice.dataset, choice.classes)
    source = None if choice.source is None else given_path(choice.source).resolve()
    if source is not None and not source.exists():
        raise ConfigError(
            f"--source {choice.source}",
            found="no such folder",
            expected="a folder (or .zip) with the data set's files",
            remedy="Check the path.",
        )
    name = dataset.default_recipe if choice.recipe == DEFAULT else choice.recipe
    recipe = load_recipe(name, choice.overrides)
    machine = _machine(choice.device, recipe)
    return Plan(
        dataset=dataset,
        recipe=recipe,
        machine=machine,
        source=None if source is None else str(source),
        refreshed=_from(choice.refresh_from),
        force_promote=choice.force_promote,
    )


def _machine(device: DeviceChoice, recipe: Recipe) -> Machine:
    """The machine to train on; the NumPy engine takes the CPU, in float32, and nothing else."""
    if recipe.training.engine == "torch":
        return probe(device)
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"--device {device}",
            found=f"recipe {recipe.name}, whose engine is numpy",
            expected="--device cpu, where NumPy computes",
            remedy="Leave it out, or add --set training.engine=torch.",
        )
    return probe("cpu").model_copy(update={"precision": "float32"})


def _dataset(choice: str, classes: int | None) -> Dataset:
    """The named data set, or the folder as a data set: a name wins over a folder called so."""
    is_path = given_path(choice).exists() or "/" in choice
    if choice in named_datasets() or not is_path:
        dataset = named_dataset(choice)
        if classes not in (None, dataset.num_classes):
            raise ConfigError(
                f"--classes {classes}",
                found=f"{dataset.name}, which has {dataset.num_classes} classes",
                expected="--classes only with a folder as data set",
                remedy="Leave it out.",
            )
        return dataset
    from tasks.raw.folder import folder_dataset

    return folder_dataset(given_path(choice), classes or 10)


def _from(stage: StageName | None) -> tuple[str, ...]:
    """The stage and those behind it."""
    return () if stage is None else STAGE_NAMES[STAGE_NAMES.index(stage) :]
