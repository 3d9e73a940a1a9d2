"""`idxflow reproduce`: is a version what its manifest says it was made from?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.commands.options import JsonOption, SourceOption
from tasks.release.versions import find_bundle
from tasks.runtime.errors import ReleaseError


def reproduce(
    version: Annotated[
        str, typer.Argument(help="A version, 'champion', DATASET/VERSION or a bundle's folder.")
    ],
    source: SourceOption = None,
    keep: Annotated[
        Path | None, typer.Option(help="Build in this new or empty folder, and leave it there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version once more from its manifest, in a scratch folder, and compare the two.

    With the same code, libraries, CPU features and threads it is equal to the bit; what is not the
    same is named. Ends with 1 when it differs by more than another seed would. Takes a training.
    """
    from flows.reproduce import reproduce as rebuild

    result = rebuild(find_bundle(version), source, keep)
    if as_json:
        console.print_json(result.model_dump(mode="json"))
    else:
        console.table(
            ("what", "published", "rebuilt", "verdict"),
            [
                (row.what, row.published, row.rebuilt, "equal" if row.equal else "differs")
                for row in result.comparisons
            ],
        )
        out = console.console()
        for change in result.changes or ("code, libraries and machine are the same",):
            out.print(console.visible(change), markup=False)
        out.print(console.visible(f"{result.verdict}: {result.reason}"), markup=False)
    if result.verdict == "differs":
        raise ReleaseError(
            f"{result.dataset}/{result.version}, made once more",
            found=result.reason,
            expected="the same version, or one within the gate's margin",
            remedy="The changes of code, libraries and machine are listed above."
            if result.changes
            else "Nothing that decides bits has changed: look at `idxflow verify`.",
        )
