"""`idxflow verify`: is what was published still what it was?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.commands.options import JsonOption
from pipeline_config.sections import given_path
from tasks.release.versions import find_bundle
from tasks.runtime.errors import ReleaseError

if TYPE_CHECKING:
    from tasks.release.verify import Check


def verify(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Versions, 'champion', or bundles' folders.  [default: everything]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check bundles: every digest, the version, and recipe, weights and ONNX model by golden pairs.

    And of their data sets the journal's chain and the champion's pointer. Works offline, and for a
    copied bundle. Ends with 1 when something is damaged.
    """
    from tasks.release.verify import verify_bundles

    # A damaged line is a verdict here, and no warning besides.
    logging.getLogger("tasks").addHandler(logging.NullHandler())
    checks = verify_bundles([_folder(text) for text in bundles]) if bundles else verify_bundles()
    if as_json:
        rows = [check.model_dump() for check in checks]
        console.print_json({"intact": not _damaged(checks), "checks": rows})
    else:
        console.table(
            ("of", "what", "verdict", "detail"),
            [(check.subject, check.what, check.verdict, check.detail) for check in checks],
        )
    refuse_damage(checks)


def refuse_damage(checks: list[Check]) -> None:
    """Raise ReleaseError, which names the first damage, unless all is well."""
    damaged = _damaged(checks)
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


def _damaged(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.verdict == "damaged"]


def _folder(text: str) -> Path:
    """A folder as it is, also one that lost its manifest; anything else names a published one."""
    folder = given_path(text)
    return folder if folder.is_dir() else find_bundle(text)
