"""A recipe: everything that a person chooses about a model, and nothing about the machine.

A recipe is whole: no field that changes a result has a default, so what a file does not say does
not happen. The sections follow the stages that read them, so that a changed learning rate reaches
the train stage's key and leaves the normalize stage's alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from pipeline_config.base import HERE, Section, checked, read_yaml
from pipeline_config.errors import ConfigError

RECIPES = HERE / "recipes"

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class OfficialTest(Section):
    """The test rows are the ones that the data set calls so."""

    kind: Literal["official"]


class PooledTest(Section):
    """Train and test rows are pooled, shuffled and divided anew: for tutorials that do it."""

    kind: Literal["pooled"]
    share: Share
    seed: Seed


class NoValidation(Section):
    """Every training row is trained on; nothing can be chosen or calibrated."""

    kind: Literal["none"]


class LastRows(Section):
    """The last `rows` training rows are kept for validation."""

    kind: Literal["last"]
    rows: Annotated[int, Field(ge=1)]


class StratifiedShare(Section):
    """A share of the training rows, drawn class by class, is kept for validation."""

    kind: Literal["stratified"]
    share: Share
    seed: Seed


class Split(Section):
    """Which rows train, which validate and which test."""

    test: Annotated[OfficialTest | PooledTest, Field(discriminator="kind")]
    validation: Annotated[NoValidation | LastRows | StratifiedShare, Field(discriminator="kind")]


class Model(Section):
    """The network between the normalized pixels and the logits.

    `hidden` are the widths of the hidden layers; `dropout` is the probability of zeroing a unit
    after each of them; `negative_slope` belongs to `leaky_relu` alone. Initialisations: `torch`
    is PyTorch's own; `he_normal` is He 2015, eq. 10; `glorot_uniform` is Glorot and Bengio 2010,
    eq. 16, with zero biases in both.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...]
    activation: Literal["relu", "leaky_relu", "tanh", "gelu"]
    negative_slope: Annotated[float, Field(ge=0, lt=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    batch_norm: bool
    initialization: Literal["torch", "he_normal", "glorot_uniform"]


class Optimizer(Section):
    """An optimiser and its numbers, in the units of its paper.

    `momentum` belongs to `sgd`; `betas` and `epsilon` to the Adam family. `weight_decay` is
    decoupled for `adamw` (Loshchilov and Hutter 2019) and L2 for the others, and spares biases
    and batch norm.
    """

    name: Literal["sgd", "adam", "adamw", "adamax"]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class Schedule(Section):
    """How the learning rate moves: `warmup` is the share of all steps that it rises for.

    `one_cycle` rises linearly from a tenth of the learning rate and falls along a cosine to a
    thousandth of it (Smith and Topin 2018); `cosine` is the same fall without the rise's tenth.
    """

    name: Literal["constant", "cosine", "one_cycle"]
    warmup: Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    """How the model learns: loss, optimiser, schedule, batches and the seed of it all."""

    loss: Literal["cross_entropy", "mse"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    optimizer: Optimizer
    schedule: Schedule
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    shuffle: bool
    seed: Seed


class Expectation(Section):
    """What a run of this recipe gave: shown by `idxflow recipes`, read by no stage."""

    dataset: str
    accuracy: Annotated[float, Field(ge=0, le=1)]
    seconds: Annotated[float, Field(gt=0)]


class Recipe(Section):
    """A whole model in one file; `competes` says whether it may become champion."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    description: str
    expected: Expectation | None = None
    competes: bool
    split: Split
    scaling: Literal["none", "unit", "standard"]
    model: Model
    training: Training


def recipe_names() -> list[str]:
    """The names of the recipes that come with the project, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(choice: str) -> Path:
    """The YAML file of a recipe's name, or of its path; raises ConfigError where there is none."""
    if choice in recipe_names():
        return RECIPES / f"{choice}.yaml"
    path = Path(choice).expanduser()
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
