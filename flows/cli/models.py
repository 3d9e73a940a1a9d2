"""`idxflow models`: the published versions, and which is champion and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from flows import console
from flows.catalogue import as_published, describe, diff_versions, list_versions
from flows.cli.run import JsonOption
from tasks.release import registry
from tasks.release.bundle import published_datasets
from tasks.release.journal import Entry, looks_in_words, read_journal
from tasks.release.registry import DEFAULT_DATASET, find_bundle, known_dataset
from tasks.runtime.files import root_lock
from tasks.runtime.show import confidence_in_words

INTERVAL = "{accuracy_interval_95[0]:.2%} to {accuracy_interval_95[1]:.2%}"
HISTORY = {
    "line": "{seq}",
    "when (UTC)": "{time:.16}",
    "version": "{version}",
    "recipe": "{recipe}",
    "what": "{event}",
    "why": "{reason}",
    "champion after": "{champion}",
}
# The number of rows that `diff` names; `--json` has all of them.
MAX_ROWS = 20

app = typer.Typer(help="The published versions, and which is champion and why.")

VersionArgument = Annotated[
    str, typer.Argument(help="A version or its beginning, DATASET/VERSION, or champion.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", "-d", help="Only versions of this data set.")
]
OneDatasetOption = Annotated[str, typer.Option("--dataset", "-d", help="Whose champion.")]
WhyOption = Annotated[str | None, typer.Option("--why", help="The reason, for the journal.")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Only if this version is the champion.")
]


@app.callback(invoke_without_command=True, epilog="Example: idxflow models --dataset mnist")
def models(
    context: typer.Context, dataset: DatasetOption = None, as_json: JsonOption = False
) -> None:
    """List the published versions: recipe, accuracy with its interval, date, standing."""
    if context.invoked_subcommand is not None:
        return None
    console.log_to_console()
    names = [known_dataset(dataset)] if dataset else published_datasets()
    found = [version for name in names for version in list_versions(name)]
    if as_json:
        return console.print_json(found)
    standings = ("", "champion")
    rows = [
        {**each, "standing": standings[each["champion"]], "made": each["made"] or ""}
        for each in found
    ]
    columns = {"data set": "{dataset}", "version": "{version}", "recipe": "{recipe}"}
    columns |= {"accuracy": "{accuracy:.2%}", "95 % interval": INTERVAL, "standing": "{standing}"}
    return console.table({**columns, "made (UTC)": "{made:.10}"}, rows)


@app.command(epilog="Example: idxflow models show champion")
def show(
    version: VersionArgument, dataset: DatasetOption = None, as_json: JsonOption = False
) -> None:
    """Show a version: figures, provenance, decisions."""
    folder = find_bundle(version, dataset)
    with as_published(folder):
        found = describe(folder)
        metrics, made = found["metrics"], found["provenance"]
        entries = [each for each in read_journal(found["dataset"]) if each.version == folder.name]
        if as_json:
            return console.print_json({**found, "history": entries})
        machine = ("device", "precision", "threads", "cpu")
        rows = {
            "version": f"{found['dataset']}/{found['version']}",
            "champion": "yes" if found["champion"] else "no",
            "recipe": f"{found['recipe']}, seed {made['seed']}",
            "accuracy": f"{found['accuracy']:.2%}, 95 % interval {INTERVAL.format(**found)}",
            "macro F1": f"{metrics['macro_f1']:.4f}",
            "loss": f"{metrics['loss']:.4f} nats",
            "confidence": confidence_in_words(metrics),
            "machine": ", ".join(f"{made[name]}" for name in machine),
            "code": made["code"],
            "size": f"{found['num_bytes'] / 1e6:.1f} MB",
            "bundle": found["bundle"],
            "report": found["report"],
        }
        console.table({"": "{0}", " ": "{1}"}, rows.items())
        console.line()
        return print_history(entries)


@app.command(epilog="Example: idxflow models diff champion 3fa0")
def diff(
    first: VersionArgument,
    second: VersionArgument,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions.

    Figures, recalls, test rows that changed sides, recipe, code, libraries, machine, data.
    """
    folders = find_bundle(first, dataset), find_bundle(second, dataset)
    with as_published(*folders):
        found = diff_versions(*folders)
        if as_json:
            return console.print_json(found)
        names = found["first"], found["second"]
        tables = {"figure": found["metrics"], "recall of": found["recalls"]}
        tables |= {title: found[title] for title in ("recipe", "machine", "libraries", "data")}
        for title, pairs in tables.items():
            form = ("{1[0]}", "{1[1]}") if title in found else ("{1[0]:.4f}", "{1[1]:.4f}")
            if pairs:
                columns = {title: "{0}", **dict(zip(names, form, strict=True))}
                known = [(name, pair) for name, pair in pairs.items() if None not in pair]
                console.table(columns, known if title == "figure" else pairs.items())
                console.line()
        low, high = (100 * bound for bound in found["difference_95"])
        console.line(f"accuracy differs by {low:+.2f} to {high:+.2f} points (Tango 1998, 95 %)")
        for name in ("gained", "lost"):
            rows, more = found[name], len(found[name]) - MAX_ROWS
            some = ", ".join(map(str, rows[:MAX_ROWS])) + (f" and {more} more" if more > 0 else "")
            console.line(f"{len(rows)} test rows {name}: {some or 'none'}")
        return console.line(f"code: {', '.join(found['code']) or 'the same'}")


@app.command(epilog='Example: idxflow models promote 3fa0 --why "fewer confused 4 and 9"')
def promote(
    version: VersionArgument,
    why: Annotated[str, typer.Option("--why", help="The reason, for the journal.")],
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version champion in any case; the reason is recorded."""
    folder = find_bundle(version, dataset)
    name = folder.parent.name
    with root_lock(), as_published(folder):
        candidate = registry.candidate_of(name, folder.name, competes=True)
        entry = registry.promote(name, candidate, why)
    if as_json:
        console.print_json(entry)
    elif entry is None:
        console.say(f"{name}/{folder.name} is the champion already")
    else:
        console.say(f"{name}/{folder.name} is the champion; `idxflow models rollback` undoes it")


@app.command(epilog="Example: idxflow models rollback --why 'complaints about sevens'")
def rollback(
    dataset: OneDatasetOption = DEFAULT_DATASET,
    why: WhyOption = None,
    version: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the champion before this one champion again.

    Called again, it takes the one before that. With --from it may be called again at any time:
    unless that version is the champion, nothing is done.
    """
    known_dataset(dataset)
    name = None if version is None else find_bundle(version, dataset).name
    with root_lock():
        entry = registry.rollback(dataset, why, name)
    if as_json:
        console.print_json(entry)
    else:
        is_other = f"{name} is not the champion, nothing to do"
        console.say(f"{dataset}: {entry.reason if entry else is_other}")


@app.command(epilog="Example: idxflow models history --dataset mnist")
def history(dataset: OneDatasetOption = DEFAULT_DATASET, as_json: JsonOption = False) -> None:
    """Print every decision on a data set's models.

    And how often its test rows were scored.
    """
    entries = read_journal(known_dataset(dataset))
    if as_json:
        console.print_json(entries)
    else:
        print_history(entries)
        console.say(looks_in_words(dataset))


def print_history(entries: Iterable[Entry]) -> None:
    """Print a line for each decision, oldest first."""
    console.table(
        HISTORY,
        [
            {**vars(each), "champion": each.champion.version if each.champion else "none"}
            for each in entries
        ],
    )
