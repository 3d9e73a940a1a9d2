"""The page a person opens: a bundle's report with what was decided about the version.

It lies beside the bundle, outside every digest, and can be made again at any time from the bundle
and the journal: a decision comes after the version, and may be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline_config.settings import settings
from tasks.bundle.contents import REPORT, BundleManifest, bundle_folder
from tasks.release.journal import Entry, champion_of
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import MANIFEST, read_regular

TEMPLATE = Path(__file__).with_name("decision.html")
MAX_REPORT_BYTES = 256 * 2**20
# Where a report has room for the decision.
MARK = b"<!-- decision -->"


def page_path(dataset: str, version: str) -> Path:
    """The page of a version."""
    return settings().models / dataset / f"{version}.html"


def page_content(dataset: str, version: str, entries: list[Entry]) -> bytes:
    """The report of a bundle with the decisions of the journal in it.

    Raises OSError or ValueError for a report that is not the one of the bundle's manifest.
    """
    folder = bundle_folder(dataset, version)
    manifest = BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
    report = read_regular(folder / REPORT, MAX_REPORT_BYTES)
    if REPORT not in manifest.files or sha256_bytes(report) != manifest.files[REPORT].sha256:
        raise ValueError("a damaged report")
    return report.replace(MARK, _section(version, entries).encode(), 1)


def _section(version: str, entries: list[Entry]) -> str:
    from tasks.bundle.report import html_template

    about = [entry for entry in entries if entry.version == version]
    champion = champion_of(entries)
    is_champion = champion is not None and champion.version == version
    judged = [entry.gate for entry in about if entry.gate is not None]
    return html_template(TEMPLATE).render(
        entries=about,
        is_champion=is_champion,
        successor=None if is_champion else _successor(version, entries),
        gate=judged[-1] if judged else None,
    )


def _successor(version: str, entries: list[Entry]) -> Entry | None:
    """The entry that last took the title from a version, if one did."""
    holders = [entry.champion.version if entry.champion else None for entry in entries]
    lost = [
        entry
        for entry, before, after in zip(entries[1:], holders, holders[1:], strict=False)
        if before == version != after
    ]
    return lost[-1] if lost else None


def stale_pages(
    dataset: str, entries: list[Entry], versions: Iterable[str]
) -> Iterator[tuple[Path, bytes]]:
    """Each page of `versions` that differs from bundle and journal, with the right content.

    A bundle without an intact report has no page to be wrong.
    """
    for version in versions:
        path = page_path(dataset, version)
        try:
            wanted = page_content(dataset, version, entries)
        except (OSError, ValueError):
            continue
        if not path.is_file() or path.read_bytes() != wanted:
            yield path, wanted
