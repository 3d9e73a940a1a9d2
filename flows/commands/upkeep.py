"""`idxflow scrub` and `gc`: keeping what is there sound and small."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.commands.options import JsonOption


def scrub(as_json: JsonOption = False) -> None:
    """Check everything under the root to the bit; name what is damaged and what becomes of it.

    Exit code 1 if anything is.
    """
    from tasks.release.verify import scrub as scrub_root

    found = scrub_root()
    if as_json:
        console.print_json(found.model_dump(mode="json"))
    else:
        if found.damage:
            rows = [
                (f"{check.subject}, {check.what}", check.detail, check.remedy)
                for check in found.damage
            ]
            console.table(("damaged", "found", "what becomes of it"), rows)
        counts = ", ".join(f"{kind}: {count}" for kind, count in found.looked_at.items())
        console.say(f"looked at {counts}; {len(found.damage) or 'nothing'} damaged")
    if found.damage:
        raise typer.Exit(1)


def gc(
    keep: Annotated[int, typer.Option(min=0, help="Versions of each data set to keep.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Clear away what no kept version needs: old versions, stage outputs, leftovers of kills.

    What stays: the champion and the last ones before it, the latest versions and label audits,
    and what they were made from. A stage output that none of them needs stays for a day.
    """
    from tasks.release.garbage import collect

    console.log_to_console()
    items = collect(keep, dry_run=dry_run)
    if as_json:
        console.print_json([item.model_dump(mode="json") for item in items])
        return
    rows = [(item.kind, item.path, f"{item.num_bytes / 1e6:.1f}", item.why) for item in items]
    if rows:
        console.table(("what", "where", "MB", "why"), rows)
    total = sum(item.num_bytes for item in items) / 1e6
    console.say(f"{'would free' if dry_run else 'freed'} {total:.1f} MB, {len(items)} things")
