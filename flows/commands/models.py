"""`idxflow models`: the registry; what is published, and who is champion and why."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.catalogue import as_published, shown, versions_of
from flows.commands.models_output import (
    print_comparison,
    print_history,
    print_version,
    print_versions,
)
from flows.commands.options import JsonOption
from flows.comparison import compared
from tasks.release.journal import read_journal
from tasks.release.looks import looks_in_words
from tasks.release.registry import candidate_of
from tasks.release.registry import promote as promote_by_hand
from tasks.release.registry import rollback as roll_back
from tasks.release.versions import (
    DEFAULT_DATASET,
    find_bundle,
    known_dataset,
    published_datasets,
)
from tasks.runtime.files import root_lock

app = typer.Typer(help="The published versions, and who is champion and why.")

VersionArgument = Annotated[
    str, typer.Argument(help="A version or its beginning, DATASET/VERSION, or champion.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", "-d", help="Versions of this data set alone.")
]
OneDatasetOption = Annotated[str, typer.Option("--dataset", "-d", help="Whose champion.")]
WhyOption = Annotated[str | None, typer.Option("--why", help="The reason, for the journal.")]


@app.callback(invoke_without_command=True, epilog="Example: idxflow models --dataset mnist")
def models(
    context: typer.Context, dataset: DatasetOption = None, as_json: JsonOption = False
) -> None:
    """List the published versions: recipe, accuracy with its interval, size, age, standing."""
    if context.invoked_subcommand is not None:
        return
    console.log_to_console()
    datasets = [known_dataset(dataset)] if dataset else published_datasets()
    found = [version for name in datasets for version in versions_of(name)]
    if as_json:
        console.print_json([version.model_dump(mode="json") for version in found])
    else:
        print_versions(found)


@app.command(epilog="Example: idxflow models show champion")
def show(
    version: VersionArgument, dataset: DatasetOption = None, as_json: JsonOption = False
) -> None:
    """Show a version: figures, provenance, and what was decided about it."""
    folder = find_bundle(version, dataset)
    with as_published(folder):
        found = shown(folder)
        if as_json:
            console.print_json(found.model_dump(mode="json"))
        else:
            print_version(found)


@app.command(epilog="Example: idxflow models diff champion 3fa0")
def diff(
    first: VersionArgument,
    second: VersionArgument,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: figures, classes, test rows that changed sides, recipe, code, data."""
    folders = find_bundle(first, dataset), find_bundle(second, dataset)
    with as_published(*folders):
        found = compared(*folders)
        if as_json:
            console.print_json(found.model_dump(mode="json"))
        else:
            print_comparison(found)


@app.command(epilog='Example: idxflow models promote 3fa0 --why "fewer confused 4 and 9"')
def promote(
    version: VersionArgument,
    why: Annotated[str, typer.Option("--why", help="The reason, for the journal.")],
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion by hand, whatever the gate said; the reason is recorded."""
    folder = find_bundle(version, dataset)
    name = folder.parent.name
    with root_lock(), as_published(folder):
        entry = promote_by_hand(name, candidate_of(name, folder.name, competes=True), why)
    if as_json:
        console.print_json(entry.model_dump(mode="json") if entry else None)
    elif entry is None:
        console.say(f"{name}/{folder.name} is the champion already")
    else:
        console.say(
            f"{name}/{folder.name} is the champion now; `idxflow models rollback` undoes it"
        )


@app.command(epilog="Example: idxflow models rollback --why 'complaints about sevens'")
def rollback(
    dataset: OneDatasetOption = DEFAULT_DATASET,
    why: WhyOption = None,
    version: Annotated[
        str | None, typer.Option("--from", help="Only if this version is the champion.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give the title back to the champion before; said again, to the one before that.

    With --from it can be said again at any time: when that version is not the champion, nothing
    is done.
    """
    known_dataset(dataset)
    name = None if version is None else find_bundle(version, dataset).name
    with root_lock():
        entry = roll_back(dataset, why, name)
    if as_json:
        console.print_json(entry.model_dump(mode="json") if entry else None)
    elif entry is None:
        console.say(f"{dataset}: {name} is not the champion, nothing to do")
    else:
        console.say(f"{dataset}: {entry.reason}")


@app.command(epilog="Example: idxflow models history --dataset mnist")
def history(dataset: OneDatasetOption = DEFAULT_DATASET, as_json: JsonOption = False) -> None:
    """Tell every decision on a data set's models, and how often its test rows were looked at."""
    entries = read_journal(known_dataset(dataset))
    if as_json:
        console.print_json([entry.model_dump(mode="json") for entry in entries])
    else:
        print_history(entries)
        console.say(looks_in_words(dataset))
