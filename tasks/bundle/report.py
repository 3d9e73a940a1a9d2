"""The two pages of a bundle: a report for a person and a model card, from one view of the facts.

Both are pure functions of what lies in the manifests and the bundle: no time of day, no durations,
so that the same model gives the same bytes.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline_config.datasets import FILES, Dataset
from pipeline_config.recipe import NoValidation, Recipe
from pipeline_config.recipe_files import cautions_of
from tasks.bundle.contents import METRICS
from tasks.bundle.lineage import Lineage, again, recipe_text

HERE = Path(__file__).parent
MAX_HISTORY_ROWS = 20
# What Markdown takes for more than a letter, also in an address that stands bare.
MARKS = re.compile(r"[\\`*_\[\]<>&|~$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
# The coverage that the card speaks of.
ANSWERED = 0.95

View = dict[str, Any]


def view_of(lineage: Lineage, version: str, provenance: dict[str, Any], folder: Path) -> View:
    """Everything that the templates speak of; `folder` is the bundle as far as it is filled."""
    trained, normalized = lineage.trained.facts, lineage.normalized.facts
    table = lineage.table.facts
    figures = sorted((folder / "figures").glob("*.png"))
    metrics = json.loads((folder / METRICS).read_bytes())
    history = json.loads((lineage.trained.path / "history.json").read_bytes())
    corrections = lineage.dataset.corrections
    return {
        "title": title_of(lineage.dataset),
        "dataset": lineage.dataset.name,
        "version": version,
        "recipe": lineage.recipe,
        "cautions": cautions_of(lineage.recipe),
        "metrics": metrics,
        "verdict": verdict_of(metrics),
        "uncalibrated": uncalibrated(lineage.recipe),
        "answered": next(row for row in metrics["coverage"] if row["coverage"] == ANSWERED),
        "corrections_source": corrections.source if corrections else "",
        "test_curve": thinned(metrics["test_curve"]),
        "validation_use": validation_use(lineage.recipe, metrics),
        "rows": normalized["rows"],
        "normalized": normalized,
        "table": table,
        "digests": {name: table["sha256"][name] for name in FILES},
        "num_pixels": table["image_shape"][0] * table["image_shape"][1],
        "checked": lineage.checked.facts,
        "findings": findings_of(folder / "validation" / "report.json"),
        "layers": trained["layers"],
        "num_parameters": trained["num_parameters"],
        "history": thinned(history),
        "num_epochs": len(history),
        "best_epoch": trained["best_epoch"],
        "figures": {path.stem.replace("-", "_"): path for path in figures},
        "provenance": provenance,
        "recipe_text": recipe_text(lineage),
        "command": again(lineage),
    }


def title_of(dataset: Dataset) -> str:
    """The data set's title; a folder's own says where it lies, which is nobody's business here."""
    return dataset.title if dataset.content is None else f"Local data set {dataset.name}"


def verdict_of(metrics: dict[str, Any]) -> str:
    """What the measured calibration error says beside its noise floor, in a sentence."""
    low, high = metrics["ece_expected_95"]
    measured = f"The measured {points(metrics['ece'])} points lie"
    if metrics["ece"] > high:
        return f"{measured} above it: confidence and accuracy do differ."
    place = "below" if metrics["ece"] < low else "within"
    return f"{measured} {place} it: no sign of false confidence."


def uncalibrated(recipe: Recipe) -> str:
    """Why a model of this recipe has no fitted temperature, in a sentence."""
    if not recipe.training.gives_logits:
        return (
            "It was trained with the mean square error, so its outputs are no logits and their "
            "softmax, though it lies between 0 and 1, is no probability."
        )
    if not isinstance(recipe.split.validation, NoValidation):
        return (
            "Every validation row is answered rightly, and rows without an error say nothing about "
            "how often it errs."
        )
    return "No rows were held back for validation, so there was nothing to calibrate it on."


def validation_use(recipe: Recipe, metrics: dict[str, Any]) -> str:
    """What the validation rows were used for; a dash where there are none."""
    if metrics["validation_accuracy"] is None:
        return "–"
    uses = ["watching the training"]
    uses += ["choosing the epoch"] if recipe.training.patience else []
    uses += ["fitting the temperature"] if metrics["calibrated"] else []
    return ", ".join(uses)


def thinned(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MAX_HISTORY_ROWS epochs, evenly spaced, the first and the last among them."""
    if len(history) <= MAX_HISTORY_ROWS:
        return history
    last = len(history) - 1
    steps = MAX_HISTORY_ROWS - 1
    return [history[round(step * last / steps)] for step in range(steps + 1)]


def findings_of(path: Path) -> list[dict[str, str]]:
    """The warnings of validation: what was expected, what was observed, what to do."""
    report = json.loads(path.read_bytes())
    return [finding for finding in report["expectations"] if not finding["success"]]


def render_report(view: View) -> str:
    """The report: one HTML page that loads nothing from anywhere."""
    return html_template(HERE / "report.html").render(view)


def html_template(path: Path) -> Template:
    """A template whose values are escaped."""
    return _environment(path.parent, autoescape=True).get_template(path.name)


def render_card(view: View) -> str:
    """The model card in Markdown, in the sections of Mitchell et al. 2019."""
    return _environment(HERE, autoescape=False).get_template("model_card.md").render(view)


def _environment(folder: Path, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=autoescape,  # noqa: S701 – off for Markdown alone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (percent, points, count, data_uri, flat)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def percent(share: float) -> str:
    """0.9866 → "98.66 %", with a space that does not break."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """0.0031 → "0.31": percentage points, without a unit."""
    return f"{100 * share:.2f}"


def count(number: int) -> str:
    """60000 → "60,000"."""
    return f"{number:,}"


def flat(text: str) -> str:
    """Somebody's words as one line that Markdown takes for text: no link, table, accent or HTML."""
    return MARKS.sub(r"\\\g<0>", " ".join(str(text).split())).replace(r"\<", "&lt;")


def data_uri(path: Path) -> Markup:
    """A PNG as an address that needs no file."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return Markup(f"data:image/png;base64,{encoded}")  # noqa: S704 – base64 has nothing to escape
