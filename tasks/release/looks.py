"""The looks at the test rows: `looks.jsonl` has a line for each time that they were scored.

The more often that happens, the less the next figure on them proves. The caller of a function that
writes holds the data set's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from pipeline_config.datasets import FILES
from pipeline_config.settings import settings
from tasks.runtime.files import digest_of
from tasks.runtime.manifest import Line, append_line, read_chain


class Look(Line):
    """One scoring of networks on the test rows with the digest `rows`; a `key` is counted once."""

    may_lack_digest: ClassVar[bool] = True
    time: str
    by: str
    recipe: str
    version: str
    networks: int
    rows: str
    key: str


def looks_path(dataset: str) -> Path:
    """Return the path of a data set's list of looks."""
    return settings().models / dataset / "looks.jsonl"


def pinned_digest(digests: Mapping[str, str]) -> str:
    """Return the digest of a data set's test rows, from the digests of its raw files."""
    return digest_of({name: digests[name] for name in FILES[2:]})


def read_looks(dataset: str) -> list[Look]:
    """Return every look at the test rows, oldest first. A damaged line is skipped."""
    lines, _ = read_chain(looks_path(dataset), Look)
    return [look for look in lines if look is not None]


def count_look(
    dataset: str, by: str, recipe: str, version: str, networks: int, rows: str, key: str
) -> None:
    """Append a look, unless its key is there. The caller holds the data set's lock."""
    looks, facts = read_looks(dataset), {"recipe": recipe, "version": version, "rows": rows}
    if all(look.key != key for look in looks):
        time = datetime.now(UTC).isoformat(timespec="seconds")
        look = Look(time=time, by=by, key=key, networks=networks, **facts)
        append_line(looks_path(dataset), look, looks[-1] if looks else None)


def looks_in_words(dataset: str) -> str:
    """Return how often the test rows were scored so far, in a sentence."""
    looks = read_looks(dataset)
    versions, recipes = {look.version for look in looks}, {look.recipe for look in looks}
    words = f"{len(looks)}; versions: {len(versions)}; recipes: {len(recipes)}; networks scored"
    return f"Looks at the test rows: {words}: {sum(look.networks for look in looks)}."
