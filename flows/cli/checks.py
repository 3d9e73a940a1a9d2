"""`idxflow verify`, `reproduce`, `scrub` and `gc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from flows import console
from flows.cli.models import Version
from flows.cli.run import Json
from tasks.release import verify as checking
from tasks.release.garbage import collect
from tasks.release.registry import find_bundle
from tasks.runtime.errors import ReleaseError

app = Typer()
Bundles = Annotated[list[str] | None, Argument(help="Versions or folders; everything without.")]


@app.command(epilog="Example: idxflow verify champion")
def verify(bundles: Bundles = None, as_json: Json = False) -> None:
    """Check bundles and the journals of their data sets.

    Every digest, the recipe, the models' outputs, and champion.json. Works offline, and for a
    copied bundle. Exit code 1 if something is damaged.
    """
    folders = [find_bundle(text) for text in bundles or ()]
    checks = checking.verify_bundles(folders or None)
    damaged = [check for check in checks if check.verdict == "damaged"]
    content = {"intact": not damaged, "checks": checks}
    console.show(content, as_json, "subject what verdict detail", checks)
    if damaged:
        first = damaged[0]
        what = f"{first.subject}, {first.what}"
        raise ReleaseError(what, found=first.detail, expected="no damage", remedy=first.remedy)


@app.command(epilog="Example: idxflow reproduce champion")
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


@app.command(epilog="Example: idxflow scrub --json")
def scrub(as_json: Json = False) -> None:
    """Check everything under the root; exit code 1 for damage."""
    result = checking.scrub()
    console.show(result, as_json, "subject what detail remedy", result.damage)
    counts = ", ".join(f"{kind}: {count}" for kind, count in result.looked_at.items())
    console.say(f"checked {counts}; damaged: {len(result.damage) or 'nothing'}")
    if result.damage:
        raise Exit(1)


@app.command(epilog="Example: idxflow gc --keep 3 --dry-run")
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
