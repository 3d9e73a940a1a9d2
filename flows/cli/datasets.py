"""`idxflow data`: the data sets, created ones among them, and their shards of new rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option, Typer

from flows import console
from flows.cli.run import Json
from pipeline_config.datasets import Dataset, dataset_names, named_dataset
from pipeline_config.sections import ConfigError, given_path
from tasks.dataset import shards
from tasks.dataset.incoming import take_in
from tasks.raw.create import create_dataset
from tasks.raw.parts import class_list
from tasks.release.bundle import published_versions, shards_of
from tasks.release.journal import champion_age_days, champion_of, read_journal
from tasks.runtime.files import root_lock

app = Typer(help="The data sets, and the shards of new rows that they got.")
Name = Annotated[str, Argument(metavar="NAME", help="A data set's name.")]
Digest = Annotated[str, Argument(metavar="DIGEST", help="A shard's digest, or its beginning.")]
Because = Annotated[str, Option("--why", help="The reason, for the journal.")]


@app.callback(invoke_without_command=True, epilog="Example: idxflow data --json")
def data(context: Context, as_json: Json = False) -> None:
    """List the data sets: size, shards, champion and its age in days."""
    if context.invoked_subcommand is None:
        rows = list(_rows())
        console.show(rows, as_json, "name num_classes num_bytes shards champion age_days", rows)
        console.say("Any folder with IDX, CSV or NPZ files is one, too: --dataset FOLDER")


def _rows() -> Iterator[dict[str, Any]]:
    """Yield what is known of each data set. One that cannot be used is named, and left out."""
    for name in dataset_names():
        try:
            yield _row(named_dataset(name))
        except ConfigError as error:
            console.print_error(error)


def _row(dataset: Dataset) -> dict[str, Any]:
    """Return what is known of a data set."""
    champion = champion_of(entries := read_journal(dataset.name))
    return {
        **dataset.model_dump(mode="json"),
        "num_bytes": dataset.num_bytes,
        "shards": len(shards.training_shards(dataset.name)),
        "champion": champion.version if champion else None,
        "age_days": champion_age_days(entries),
    }


@app.command(epilog="Example: idxflow data show mnist")
def show(name: Name, as_json: Json = False) -> None:
    """Show a data set: form, classes, champion."""
    found = _row(named_dataset(name))
    if as_json:
        return console.print_json(found)
    console.facts("name title num_classes image_shape default_recipe num_bytes", found)
    console.facts("shards champion age_days", found)
    return console.table("class_names", [(each,) for each in found["class_names"]])


@app.command(epilog="Example: idxflow data create letters emnist-letters.zip")
def create(
    name: Annotated[str, Argument(metavar="NAME", help="A new name.")],
    path: Annotated[str, Argument(help="Labelled images, in any form.")],
    classes_file: Annotated[str | None, Option(help="A text file, a class name a line.")] = None,
    recipe: Annotated[str, Option("-r", "--recipe", help="The default one.")] = "",
    size: Annotated[str, Option(metavar="HxW", help="Scale pictures to this size.")] = "",
    as_json: Json = False,
) -> None:
    """Make a data set with a name of its own.

    PATH may be IDX files (also EMNIST's), CSV, NPZ, a folder of pictures for each class, a Parquet
    file of Hugging Face's datasets, or a zip with any of these. Without test rows in it, a sixth of
    each class is set aside for ever.
    """
    names = class_list(given_path(classes_file)) if classes_file else ()
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    if size and match is None:
        raise ConfigError(f"--size {size}", found="no size", expected="such as 28x28")
    shape = (int(match[1]), int(match[2])) if match else None
    with root_lock():
        made = create_dataset(name, given_path(path), names, recipe, shape)
    if as_json:
        return console.print_json(made)
    return console.say(f"{name} is created; `idxflow run --dataset {name}` trains on it")


@app.command(epilog="Example: idxflow data add mnist new-digits/")
def add(
    name: Name,
    path: Annotated[str, Argument(help="Labelled images: a folder, zip, IDX, CSV or NPZ.")],
    as_json: Json = False,
) -> None:
    """Add new labelled rows. The next run judges them, and trains on them if they pass.

    The same rows added twice change nothing.
    """
    with root_lock():
        shard = take_in(named_dataset(name), given_path(path))
    if as_json:
        return console.print_json(shard)
    return console.say(f"shard {shard.digest} of {name}; `idxflow run --dataset {name}` judges it")


@app.command(epilog='Example: idxflow data retract mnist 3fa0 --why "labelled by mistake"')
def retract(name: Name, digest: Digest, why: Because, as_json: Json = False) -> None:
    """Stop training on a shard. Its rows are kept."""
    _decide(name, digest, shards.RETRACTED, why, as_json=as_json)


@app.command(epilog='Example: idxflow data release mnist 3fa0 --why "rare, but right"')
def release(name: Name, digest: Digest, why: Because, as_json: Json = False) -> None:
    """Let a quarantined shard train.

    Test rows are left out in any case.
    """
    _decide(name, digest, shards.RELEASED, why, as_json=as_json)


@app.command(epilog="Example: idxflow data history mnist")
def history(name: Name, as_json: Json = False) -> None:
    """Print what was decided on shards.

    And which published versions were trained on each.
    """
    events = shards.read_events(named_dataset(name).name)
    seen = {version: shards_of(name, version) for version in published_versions(name)}
    rows = [
        {
            **event.model_dump(exclude={"digest", "previous"}),
            "versions": ", ".join(name for name, known in seen.items() if event.shard in known),
        }
        for event in events
    ]
    console.show(rows, as_json, "time event shard rows versions reason", rows)


def _decide(name: str, digest: str, event: str, why: str, *, as_json: bool) -> None:
    shard = shards.find_shard(named_dataset(name).name, digest)
    if not why.strip():
        raise ConfigError(f"shard {shard.digest}", found="an empty reason", expected='--why "…"')
    if not any(Path(folder, shards.IMAGES).exists() for folder in (shard.path, shard.quarantine)):
        expected = "rows that could be read"
        raise ConfigError(shard.quarantine, found="no rows", expected=expected)
    with root_lock():
        is_new = shards.decide(shard, event, why)
    if as_json:
        console.print_json(shards.standing(name)[shard.digest])
    console.say(f"shard {shard.digest} of {name} is {event}{'' if is_new else ' already'}")
