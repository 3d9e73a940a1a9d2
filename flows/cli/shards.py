"""`idxflow data`: the shards of new rows of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from flows import console
from flows.cli.run import Json
from pipeline_config.datasets import named_dataset
from pipeline_config.sections import ConfigError, given_path
from tasks.dataset import shards
from tasks.dataset.incoming import take_in
from tasks.release.bundle import published_versions, shards_of
from tasks.runtime.files import root_lock

app = Typer(help="Data sets, and the shards of new rows that they got.", no_args_is_help=True)
Name = Annotated[str, Argument(metavar="NAME", help="A data set's name.")]
Digest = Annotated[str, Argument(metavar="DIGEST", help="A shard's digest, or its beginning.")]
Because = Annotated[str, Option("--why", help="The reason, for the journal.")]


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
def retract(name: Name, digest: Digest, why: Because) -> None:
    """Train without a shard from the next run on. Its rows are kept."""
    _decide(name, digest, shards.RETRACTED, why)


@app.command(epilog='Example: idxflow data release mnist 3fa0 --why "rare, but right"')
def release(name: Name, digest: Digest, why: Because) -> None:
    """Let a quarantined shard train, whatever was found. Test rows are left out in any case."""
    _decide(name, digest, shards.RELEASED, why)


@app.command(epilog="Example: idxflow data history mnist")
def history(name: Name, as_json: Json = False) -> None:
    """Print what was decided on shards, and which published versions were trained on each."""
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


def _decide(name: str, digest: str, event: str, why: str) -> None:
    shard = shards.find_shard(named_dataset(name).name, digest)
    if not why.strip():
        raise ConfigError(f"shard {shard.digest}", found="an empty reason", expected='--why "…"')
    if not any(Path(folder, shards.IMAGES).exists() for folder in (shard.path, shard.quarantine)):
        expected = "rows that could be read"
        raise ConfigError(shard.quarantine, found="no rows", expected=expected)
    with root_lock():
        is_new = shards.decide(shard, event, why)
    console.say(f"shard {shard.digest} of {name} is {event}{'' if is_new else ' already'}")
