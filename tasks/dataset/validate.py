"""The validate stage: structure, profile, expectations, and a report as JSON and as a page.

Axes: N images of H×W pixels, by split (`train`, `test`). A data set that fails a critical
expectation leaves no output of the stage, but its report is kept under `rejected/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.settings import settings
from tasks.dataset.profile import frame_of, picture_of, profile
from tasks.dataset.splits import Differences, compare_splits, with_differences
from tasks.raw.idx import read_splits
from tasks.runtime.errors import ValidationError
from tasks.runtime.files import built_aside, canonical_json
from tasks.runtime.show import show_table
from tasks.runtime.stages import VALIDATE
from tasks.runtime.store import Facts, StageRef, output_name
from tasks.runtime.task import stage_task

REPORT, PAGE = "report.json", "report.html"
TEMPLATE = Path(__file__).with_name("validation.html")

# Rows that an error message names; the report names them all.
NAMED_ROWS = 5
# Rows of each expectation that the page shows with their image.
MAX_PICTURES = 12

Outcomes = list[dict[str, Any]]
Report = dict[str, Any]


def check_expectations(
    train: pa.Table, test: pa.Table, num_classes: int, differences: Differences
) -> Outcomes:
    """Return the outcome of each expectation on two profiles and their differences, as JSON."""
    # Great Expectations takes seconds to import.
    from tasks.dataset.expectations import run_expectations

    frame = with_differences(frame_of(train, test, differences.agreement), differences)
    return run_expectations(frame, num_classes)


def report_of(profiles: Mapping[str, pa.Table], outcomes: Outcomes, **facts: Any) -> Report:
    """Return the report as JSON, with `facts`; the failed expectations come first."""
    failed: dict[str, list[str]] = {"critical": [], "warning": []}
    for outcome in outcomes:
        if not outcome["success"]:
            failed[outcome["severity"]].append(outcome["name"])
    return {
        **facts,
        "verdict": "rejected" if failed["critical"] else "passed",
        "critical": failed["critical"],
        "warnings": failed["warning"],
        "rows": {split: len(table) for split, table in profiles.items()},
        "classes": {
            split: np.bincount(table["label"], minlength=facts["num_classes"]).tolist()
            for split, table in profiles.items()
        },
        "profile": {
            split: {name: _summary(table[name]) for name in ("mean", "std", "ink")}
            for split, table in profiles.items()
        },
        # Critical ones come before warnings, as in the alphabet.
        "expectations": sorted(outcomes, key=lambda each: (each["success"], each["severity"])),
    }


def _summary(column: pa.ChunkedArray) -> dict[str, float]:
    return dict(zip(("min", "median", "max"), np.quantile(column, (0, 0.5, 1)), strict=True))


def page_of(report: Report, images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return a report as a self-contained HTML page; `images` are (N, H, W) by split."""
    from jinja2 import StrictUndefined, Template

    template = Template(
        TEMPLATE.read_text(encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        outcome["name"]: [(name, _picture(name, images)) for name in outcome["rows"][:MAX_PICTURES]]
        for outcome in report["expectations"]
    }
    page: str = template.render(report=report, pictures=pictures)
    return page


def _picture(name: str, images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return a data: URL of the image of a row named like `train[17]` or `test[3] = train[17]`."""
    split, index = re.split(r"[\[\]]", name)[:2]
    return picture_of(images[split][int(index)])


def _write_report(folder: Path, report: Report, page: str) -> None:
    (folder / REPORT).write_bytes(canonical_json(report))
    (folder / PAGE).write_text(page, encoding="utf-8")


def _rejection(report: Report, page: Path) -> ValidationError:
    """Return the error with the words of the first critical expectation that failed."""
    first = report["expectations"][0]
    rows = ", ".join(first["rows"][:NAMED_ROWS])
    return ValidationError(
        f"the data set, expectation {' and '.join(report['critical'])}",
        found=f"{first['observed']} ({rows})" if rows else first["observed"],
        expected=f"that {first['description'][0].lower()}{first['description'][1:].rstrip('.')}",
        remedy=f"{first['remedy']} The whole report is in {page}",
    )


def _show(folder: Path) -> None:
    """Attach the table of the expectations to the task run, the failed ones first."""
    report = json.loads((folder / REPORT).read_bytes())
    rows = [
        {**outcome, "rows": ", ".join(outcome["rows"][:NAMED_ROWS])}
        for outcome in report["expectations"]
    ]
    num_met = sum(outcome["success"] for outcome in rows)
    words = f"**{report['verdict']}**: {num_met} of {len(rows)} expectations met"
    show_table("expectations", rows, f"{words}. The page: `{folder / PAGE}`")


@stage_task(VALIDATE, timeout_s=600, show=lambda ref: _show(ref.path))
def validate(folder: Path, raw: StageRef, num_classes: int, title: str = "") -> Facts:
    """Write the report, its page and the profiles of the raw files.

    `title` names the files in errors. Raises RawDataError for files that are not one data set, and
    ValidationError where a critical expectation fails; then the report is kept under `rejected/`.
    """
    splits = read_splits(raw.path, num_classes, title)
    images = {split: images for split, (images, _) in splits.items()}
    profiles = {split: profile(*pair) for split, pair in splits.items()}
    for split, table in profiles.items():
        path = folder / f"{split}.profile.parquet"
        pq.write_table(table, path, compression="zstd", use_dictionary=["label"])
    differences = compare_splits(splits["train"], splits["test"])
    outcomes = check_expectations(profiles["train"], profiles["test"], num_classes, differences)
    facts: Facts = {"num_classes": num_classes, "image_shape": list(images["train"].shape[1:])}
    report = report_of(profiles, outcomes, **facts, sha256=raw.facts["sha256"])
    page = page_of(report, images)
    if report["verdict"] == "rejected":
        rejected = settings().root / "rejected" / output_name(folder)
        with built_aside(rejected) as aside:
            _write_report(aside, report, page)
        _show(rejected)
        raise _rejection(report, rejected / PAGE)
    _write_report(folder, report, page)
    numbers = {"expectations": len(outcomes), "warnings": len(report["warnings"])}
    return {**facts, **numbers, "rows": report["rows"]}
