"""`idxflow verify`, `reproduce`, `scrub` and `gc`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.cli.run import JsonOption
from pipeline_config.sections import given_path
from tasks.release.registry import find_bundle
from tasks.runtime.errors import ReleaseError

CHECKS = {"of": "{subject}", "what": "{what}", "verdict": "{verdict}", "detail": "{detail}"}
PARTS = {
    "what": "{what}",
    "published": "{published}",
    "rebuilt": "{rebuilt}",
    "equal": "{equal}",
}
DAMAGE = {"damaged": "{subject}, {what}", "found": "{detail}", "what repairs it": "{remedy}"}
ITEMS = {"what": "{kind}", "where": "{path}", "bytes": "{num_bytes:,}", "why": "{why}"}


def verify(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Versions, 'champion', or bundles' folders.  [default: everything]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check bundles and the journals of their data sets.

    Checks every digest, the version, the recipe, and weights and ONNX model against the golden
    pairs. Also the chain of their data sets' journals, and champion.json. Works offline, and for a
    copied bundle. Exit code 1 if something is damaged.
    """
    from tasks.release.verify import verify_bundles

    # A damaged line is a result here, and needs no warning besides.
    logging.getLogger("tasks").addHandler(logging.NullHandler())
    folders = [given_path(text) for text in bundles or ()]
    folders = [
        folder if folder.is_dir() else find_bundle(text)
        for folder, text in zip(folders, bundles or (), strict=True)
    ]
    checks = verify_bundles(folders or None)
    damaged = [check for check in checks if check.verdict == "damaged"]
    if as_json:
        console.print_json({"intact": not damaged, "checks": checks})
    else:
        console.table(CHECKS, checks)
    if damaged:
        first = damaged[0]
        raise ReleaseError(
            f"{first.subject}, {first.what}",
            found=first.detail + (f"; and {len(damaged) - 1} more" if len(damaged) > 1 else ""),
            expected=f"all of {len(checks)} checks passed",
            remedy=first.remedy,
        )
    if not checks:
        console.say("nothing is published yet")


def reproduce(
    version: Annotated[
        str, typer.Argument(help="A version, 'champion', DATASET/VERSION or a bundle's folder.")
    ],
    source: Annotated[
        str | None, typer.Option(help="A folder to try first for the data set's files.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Build in this new or empty folder, and keep it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a version again, and compare the two.

    It is built in a scratch folder from its manifest. With the same code, libraries, CPU features
    and threads it is equal to the bit; what is different is named. Exit code 1 if it differs by
    more than another seed would. Takes a training.
    """
    from flows.reproduce import reproduce as build_again

    console.log_to_console()
    result = build_again(find_bundle(version), source, keep)
    if as_json:
        console.print_json(result)
    else:
        console.table(PARTS, result.comparisons)
        for change in result.changes or ("code, libraries and machine are the same",):
            console.line(change)
        console.line(f"{result.verdict}: {result.reason}")
    if result.verdict == "differs":
        raise ReleaseError(
            f"{result.dataset}/{result.version}, built again",
            found=result.reason,
            expected="the same version, or one within the gate's margin",
            remedy="The changes of code, libraries and machine are listed above."
            if result.changes
            else "Nothing that decides bits has changed: see `idxflow verify`.",
        )


def scrub(as_json: JsonOption = False) -> None:
    """Check everything under the root for damage.

    Prints what is damaged and what repairs it. Exit code 1 if anything is damaged.
    """
    from tasks.release.verify import scrub as scrub_root

    found = scrub_root()
    if as_json:
        console.print_json(found)
    else:
        if found.damage:
            console.table(DAMAGE, found.damage)
        counts = ", ".join(f"{kind}: {count}" for kind, count in found.looked_at.items())
        console.say(f"checked {counts}; damaged: {len(found.damage) or 'nothing'}")
    if found.damage:
        raise typer.Exit(1)


def gc(
    keep: Annotated[int, typer.Option(min=0, help="Versions of each data set to keep.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what no kept version needs.

    That is old versions, stage outputs, and leftovers of killed runs. What is kept: the champion
    and the last ones before it, the latest versions and label audits, and what they were made from.
    A stage output that none of them needs is kept for a day.
    """
    from tasks.release.garbage import collect

    console.log_to_console()
    items = collect(keep, dry_run=dry_run)
    if as_json:
        return console.print_json(items)
    if items:
        console.table(ITEMS, items)
    total = sum(item.num_bytes for item in items) / 1e6
    return console.say(
        f"{'would free' if dry_run else 'freed'} {total:.1f} MB, {len(items)} things"
    )
