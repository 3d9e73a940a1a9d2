"""`idxflow models`, and what checks or removes versions: `verify`, `reproduce`, `scrub`, `gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Exit, Option, Typer, launch

from flows import console
from flows.catalogue import as_published, describe, diff_in_markdown, diff_versions, list_versions
from flows.cli.run import Json
from tasks.release import registry
from tasks.release import verify as checking
from tasks.release.bundle import REPORT, is_published, published_datasets
from tasks.release.garbage import collect
from tasks.release.journal import Entry, read_journal
from tasks.release.looks import looks_in_words
from tasks.release.pages import page_path
from tasks.release.registry import CHAMPION, DEFAULT_DATASET, find_bundle, known_dataset
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import root_lock
from tasks.runtime.show import confidence_in_words

DECISIONS = "seq time version recipe event reason"
COMPARED = ("metrics", "recalls", "recipe", "origin")

app = Typer(help="The published versions, and which is champion and why.")
checks = Typer()
Bundles = Annotated[list[str] | None, Argument(help="Versions or folders; everything without.")]
Version = Annotated[str, Argument(help="[DATASET/]VERSION, its beginning, champion or a folder.")]
OfDataset = Annotated[str | None, Option("--dataset", "-d", help="Only of this data set.")]
Champions = Annotated[str, Option("--dataset", "-d", help="Whose champion.")]
Why = Annotated[str, Option("--why", help="The reason, for the journal.")]


@app.callback(invoke_without_command=True, epilog="Example: idxflow models --dataset mnist")
def models(context: Context, dataset: OfDataset = None, as_json: Json = False) -> None:
    """List the published versions: recipe, accuracy with its interval, date, standing."""
    if context.invoked_subcommand is None:
        names = [known_dataset(dataset)] if dataset else published_datasets()
        found = [version for name in names for version in list_versions(name)]
        columns = "dataset version recipe accuracy accuracy_interval_95 champion made"
        console.show(found, as_json, columns)


@app.command(epilog="Example: idxflow models show champion")
def show(version: Version, dataset: OfDataset = None, as_json: Json = False) -> None:
    """Show a version: figures, provenance, decisions."""
    folder = find_bundle(version, dataset)
    with as_published(folder):
        found = describe(folder)
        entries = [each for each in read_journal(found["dataset"]) if each.version == folder.name]
        if as_json:
            return console.print_json({**found, "history": entries})
        confidence = {"confidence": confidence_in_words(found["metrics"])}
        console.facts("dataset version champion recipe made accuracy accuracy_interval_95", found)
        console.facts("macro_f1 loss confidence", found["metrics"] | confidence)
        console.facts("seed device precision threads cpu code", found["provenance"])
        console.facts("num_bytes bundle report", found)
        return console.table(DECISIONS, entries)


@app.command(epilog="Example: idxflow models diff champion 3fa0")
def diff(
    first: Version,
    second: Version,
    dataset: OfDataset = None,
    markdown: Annotated[bool, Option("--markdown", help="As a pull request shows it.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two versions: figures, test rows, recipe, code, machine."""
    folders = find_bundle(first, dataset), find_bundle(second, dataset)
    with as_published(*folders):
        found = diff_versions(*folders)
    if as_json:
        return console.print_json(found)
    if markdown:
        for line in diff_in_markdown(found):
            console.line(line)
        return None
    rows = [(part, name, *pair) for part in COMPARED for name, pair in found[part].items()]
    console.table(f"part name {found['first']} {found['second']}", rows)
    low, high = (100 * bound for bound in found["difference_95"])
    console.line(f"accuracy differs by {low:+.2f} to {high:+.2f} points (Tango 1998, 95 %)")
    for name in ("gained", "lost"):
        some = ", ".join(map(str, found[name][:20]))
        console.line(f"{len(found[name])} test rows {name}; the first: {some or 'none'}")
    return console.line(f"code: {', '.join(found['code']) or 'the same'}")


@app.command(epilog='Example: idxflow models promote 3fa0 --why "fewer confused 4 and 9"')
def promote(version: Version, why: Why, dataset: OfDataset = None, as_json: Json = False) -> None:
    """Make a version champion in any case; the reason is recorded."""
    folder = find_bundle(version, dataset)
    name = folder.parent.name
    with root_lock(), as_published(folder):
        candidate = registry.candidate_of(name, folder.name, competes=True)
        entry = registry.promote(name, candidate, why)
    _tell(name, entry)
    if as_json:
        console.print_json(entry)
    state = "the champion; `idxflow models rollback` undoes it" if entry else "champion already"
    console.say(f"{name}/{folder.name} is {state}")


@app.command(epilog="Example: idxflow models rollback --why 'complaints about sevens'")
def rollback(
    dataset: Champions = DEFAULT_DATASET,
    why: Why = "",
    version: Annotated[str | None, Option("--from", help="Only if it is the champion.")] = None,
    as_json: Json = False,
) -> None:
    """Make the champion before this one champion again.

    Called again, it takes the one before that. With --from it may be called again at any time:
    unless that version is the champion, nothing is done.
    """
    known_dataset(dataset)
    name = None if version is None else find_bundle(version, dataset).name
    with root_lock():
        entry = registry.rollback(dataset, why or None, name)
    _tell(dataset, entry)
    if as_json:
        console.print_json(entry)
    reason = entry.reason if entry else f"{name} is not the champion, nothing to do"
    console.say(f"{dataset}: {reason}")


def _tell(dataset: str, entry: Entry | None) -> None:
    from flows.station import tell_decision

    if entry is not None:
        tell_decision(dataset, entry)


@app.command(epilog="Example: idxflow models history --dataset mnist")
def history(dataset: Champions = DEFAULT_DATASET, as_json: Json = False) -> None:
    """Print the decisions on models, and the looks at test rows."""
    entries = read_journal(known_dataset(dataset))
    console.show(entries, as_json, DECISIONS)
    console.say(looks_in_words(dataset))


@checks.command(epilog="Example: idxflow verify champion")
def verify(bundles: Bundles = None, as_json: Json = False) -> None:
    """Check bundles and the journals of their data sets.

    Every digest, the recipe, the models' outputs, and champion.json. Works offline, and for a
    copied bundle. Exit code 1 if something is damaged.
    """
    folders = [find_bundle(text) for text in bundles or ()]
    found = checking.verify_bundles(folders or None)
    damaged = [check for check in found if check.verdict == "damaged"]
    content = {"intact": not damaged, "checks": found}
    console.show(content, as_json, "subject what verdict detail", found)
    if damaged:
        first = damaged[0]
        what = f"{first.subject}, {first.what}"
        raise ReleaseError(what, found=first.detail, expected="no damage", remedy=first.remedy)


@checks.command(epilog="Example: idxflow report champion")
def report(
    version: Annotated[str, Argument(help="As for `models show`.")] = CHAMPION,
    dataset: OfDataset = None,
) -> None:
    """Print where a version's report is; in a terminal, open it."""
    folder = find_bundle(version, dataset)
    page = page_path(folder.parent.name, folder.name)
    path = page if is_published(folder) and page.is_file() else folder / REPORT
    console.line(str(path))
    if console.is_terminal():
        launch(path.resolve().as_uri())


@checks.command(epilog="Example: idxflow reproduce champion")
def reproduce(
    version: Version,
    source: Annotated[str | None, Option(help="Where to look first for the raw files.")] = None,
    keep: Annotated[Path | None, Option(help="Build in this empty folder, and keep it.")] = None,
    as_json: Json = False,
) -> None:
    """Build a version again, and compare the two.

    It is built from its manifest in a scratch folder, which takes a training. With the same code,
    libraries, CPU features and threads it is equal to the bit. Exit code 1 if it differs by more
    than another seed would.
    """
    from flows.reproduce import reproduce as build_again

    result = build_again(find_bundle(version), source, keep)
    console.show(result, as_json, "what published rebuilt equal", result.comparisons)
    if not as_json:
        for change in result.changes or ("code, libraries and machine are the same",):
            console.line(change)
        console.line(f"{result.verdict}: {result.reason}")
    if result.verdict == "differs":
        what = f"{result.dataset}/{result.version}, built again"
        expected = "the same version, or one within the gate's margin"
        raise ReleaseError(what, found=result.reason, expected=expected)


@checks.command(epilog="Example: idxflow scrub --json")
def scrub(as_json: Json = False) -> None:
    """Check everything under the root; exit code 1 for damage."""
    result = checking.scrub()
    console.show(result, as_json, "subject what detail remedy", result.damage)
    counts = ", ".join(f"{kind}: {count}" for kind, count in result.looked_at.items())
    console.say(f"checked {counts}; damaged: {len(result.damage) or 'nothing'}")
    if result.damage:
        raise Exit(1)


@checks.command(epilog="Example: idxflow gc --keep 3 --dry-run")
def gc(
    keep: Annotated[int, Option(min=0, help="Versions of each data set to keep.")] = 5,
    dry_run: Annotated[bool, Option("--dry-run", help="Only print what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what no kept version needs.

    Kept are the champion and those before it, the latest versions and label audits, and what they
    were made from. A stage output that none of them needs is kept for a day.
    """
    items = collect(keep, dry_run=dry_run)
    console.show(items, as_json, "kind path num_bytes why")
    verb, total = "would free" if dry_run else "freed", sum(item.num_bytes for item in items) / 1e6
    console.say(f"{verb} {total:.1f} MB, {len(items)} things")
