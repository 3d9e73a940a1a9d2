"""The pages of a version: its report and model card, and the report with the decisions about it.

Report and card are in the bundle. They are made from manifests and the bundle alone, without times,
so that the same model gives the same bytes. The page with the decisions lies beside the bundle and
in no digest, since a decision comes after the version and may be taken back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_config.datasets import FILES
from pipeline_config.recipe_files import cautions_of
from pipeline_config.settings import settings
from tasks.release.bundle import CARD, METRICS, REPORT, BundleManifest, bundle_folder, evenly
from tasks.release.live import live_data
from tasks.runtime.files import digest_of, sha256_bytes
from tasks.runtime.manifest import MANIFEST, read_regular

if TYPE_CHECKING:
    from jinja2 import Environment

    from tasks.release.assemble import Lineage
    from tasks.release.journal import Entry

MAX_HISTORY_ROWS = 20
MAX_REPORT_BYTES = 256 * 2**20
# The place in a report where the page has the decisions.
MARK = b"<!-- decision -->"
# What is more than a letter in Markdown, also in an address without brackets.
MARKUP = re.compile(r"[\\`*_\[\]<>&|~$]|:(?=//)|(?<=www)\.", re.IGNORECASE)

View = dict[str, Any]


def write_report(lineage: Lineage, version: str, provenance: View, folder: Path) -> None:
    """Write `report.html` and `model_card.md` into a bundle that has everything else."""
    dataset, raw_digests = lineage.dataset, lineage.table.facts["sha256"]
    metrics = json.loads((folder / METRICS).read_bytes())
    curve = metrics["test_curve"]
    history = json.loads((lineage.trained.path / "history.json").read_bytes())
    validation = json.loads((folder / "validation" / "report.json").read_bytes())
    view = {
        # The title of a local folder is its path, which is not published.
        "title": dataset.title if dataset.content is None else f"Local data set {dataset.name}",
        "dataset": dataset.name,
        "version": version,
        "recipe": lineage.recipe,
        **{name: ref.facts for name, ref in lineage.refs.items()},
        "cautions": cautions_of(lineage.recipe),
        "metrics": metrics,
        "corrections_source": dataset.corrections.source if dataset.corrections else "",
        "test_curve": [curve[place] for place in evenly(len(curve), MAX_HISTORY_ROWS)],
        "digests": {name: raw_digests[name] for name in FILES},
        "findings": [row for row in validation["expectations"] if not row["success"]],
        "history": [history[place] for place in evenly(len(history), MAX_HISTORY_ROWS)],
        "num_epochs": len(history),
        "figures": {path.stem: path for path in sorted((folder / "figures").glob("*.png"))},
        "provenance": provenance,
        "recipe_text": lineage.recipe_text,
        "command": lineage.command,
        "live": live_data(lineage, folder),
        **_script_and_style(),
    }
    for name in (REPORT, CARD):
        (folder / name).write_text(_templates().get_template(name).render(view), encoding="utf-8")


def _script_and_style() -> View:
    """Return the script and the style of the report, and the policy that allows these two alone."""
    from markupsafe import Markup

    found: View = {}
    for kind, name in (("script", "report.js"), ("style", "report.css")):
        text = (Path(__file__).parent / name).read_text(encoding="utf-8").replace("</", r"<\/")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        # The files of this project hold no foreign text.
        found |= {kind: Markup(text), f"{kind}_source": f"'sha256-{digest}'"}  # noqa: S704
    return found


@cache
def _templates() -> Environment:
    """Return the reader of the templates. In HTML every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    style: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    style |= {"loader": FileSystemLoader(Path(__file__).parent), "undefined": StrictUndefined}
    environment = Environment(autoescape=select_autoescape(["html"]), **style)
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}\N{NO-BREAK SPACE}%"
    environment.filters["points"] = lambda share: f"{100 * share:.2f}"
    environment.filters |= {"count": "{:,}".format, "flat": _flat, "data_uri": _data_uri}
    return environment


def _flat(text: str) -> str:
    """Return foreign text as one line that is plain text in Markdown: no link, table or HTML."""
    return MARKUP.sub(r"\\\g<0>", " ".join(str(text).split())).replace(r"\<", "&lt;")


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def page_path(dataset: str, version: str) -> Path:
    """Return the path of the page with the decisions about a version."""
    return settings().models / dataset / f"{version}.html"


def stale_pages(
    dataset: str, entries: list[Entry], versions: Iterable[str]
) -> Iterator[tuple[Path, bytes, bool]]:
    """Yield (path, content, is_damaged) of each page that is not as it should be.

    The last line of a page is a digest of the rest, and of the report and the decisions in it, so a
    new template makes no page stale. Pages of an earlier version of this project lack that line:
    they are stale, but not damaged if they are the report around the decisions.
    """
    for version in versions:
        path, folder = page_path(dataset, version), bundle_folder(dataset, version)
        try:
            manifest = BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
            report = read_regular(folder / REPORT, MAX_REPORT_BYTES)
        except (OSError, ValueError):
            continue
        if REPORT not in manifest.files or sha256_bytes(report) != manifest.files[REPORT].sha256:
            continue
        view = _decisions(version, entries)
        digests = [entry and entry.digest for entry in (*view["entries"], view["successor"])]
        shown = [sha256_bytes(report), view["is_champion"], *digests]
        page = path.read_bytes() if path.is_file() else b""
        if not page.endswith(_seal(page[: page.rfind(b"<!-- ")], shown)):
            before, _, after = report.partition(MARK)
            decisions = _templates().get_template("decision.html").render(view)
            content = before + decisions.encode() + after
            is_damaged = not (page.startswith(before) and page.endswith(after))
            yield path, content + _seal(content, shown), is_damaged


def _seal(content: bytes, shown: list[Any]) -> bytes:
    """Return the last line of the page with this content, which shows what has these digests."""
    return f"<!-- {digest_of([sha256_bytes(content), *shown])} -->\n".encode()


def _decisions(version: str, entries: list[Entry]) -> View:
    """Return what a page shows of the journal: the entries about a version, and its standing."""
    about = [entry for entry in entries if entry.version == version]
    judged = [entry.gate for entry in about if entry.gate is not None]
    held = [bool(entry.champion and entry.champion.version == version) for entry in entries]
    is_champion = held[-1:] == [True]
    lost = [entries[place] for place in range(1, len(held)) if held[place - 1] > held[place]]
    return {
        "entries": about,
        "is_champion": is_champion,
        "successor": lost[-1] if lost and not is_champion else None,
        "gate": judged[-1] if judged else None,
    }
