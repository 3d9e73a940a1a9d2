"""The validate stage: structure, profile, expectations; then a report for machines and for people.

Axes: N images of H×W pixels, by split (`train`, `test`). A data set that breaks a critical
expectation leaves no output of the stage, but its report is kept under `rejected/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.settings import settings
from tasks.dataset.agreement import agreements
from tasks.dataset.profile import SCHEMA, profile_batches
from tasks.raw.idx import read_idx
from tasks.raw.structure import SPLITS, Structure, check_structure
from tasks.runtime.errors import ValidationError
from tasks.runtime.files import built_aside, canonical_json
from tasks.runtime.show import show_markdown, show_table
from tasks.runtime.stages import VALIDATE
from tasks.runtime.store import Facts, StageRef, output_name
from tasks.runtime.task import stage_task

if TYPE_CHECKING:
    from tasks.dataset.findings import Finding

REPORT, PAGE = "report.json", "report.html"
SUMMARIZED = ("mean", "std", "ink")

# Rows that an error message names; the report names them all.
NAMED_ROWS = 5


def write_profiles(folder: Path, raw: Path) -> dict[str, pa.Table]:
    """Write `<split>.profile.parquet` a batch of images at a time; returns the profiles."""
    profiles = {}
    for split, (images, labels) in SPLITS.items():
        path = folder / f"{split}.profile.parquet"
        batches = profile_batches(read_idx(raw / images), read_idx(raw / labels))
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=["label"]) as writer:
            for batch in batches:
                writer.write_batch(batch)
        profiles[split] = pq.read_table(path)
    return profiles


def report_of(
    structure: Structure,
    profiles: dict[str, pa.Table],
    findings: Sequence[Finding],
    sha256: dict[str, str],
    num_classes: int,
) -> dict[str, Any]:
    """The report: JSON throughout, the findings under `expectations`, the failed ones first."""
    failed = [finding for finding in findings if not finding.success]
    critical = [finding.name for finding in failed if finding.severity == "critical"]
    # By the alphabet, critical comes before warning.
    order = sorted(findings, key=lambda finding: (finding.success, finding.severity))
    return {
        "verdict": "rejected" if critical else "passed",
        "critical": critical,
        "warnings": [finding.name for finding in failed if finding.severity == "warning"],
        "num_classes": num_classes,
        "image_shape": list(structure.image_shape),
        "rows": structure.rows,
        "sha256": sha256,
        "classes": {
            split: np.bincount(table["label"].to_numpy(), minlength=num_classes).tolist()
            for split, table in profiles.items()
        },
        "profile": {
            split: {name: _summary(table[name]) for name in SUMMARIZED}
            for split, table in profiles.items()
        },
        "expectations": [{**vars(finding), "rows": list(finding.rows)} for finding in order],
    }


def _summary(column: pa.ChunkedArray) -> dict[str, float]:
    """Least, middle and greatest value of a column of the profile."""
    least, middle, greatest = np.quantile(column.to_numpy(), (0, 0.5, 1)).tolist()
    return {"min": least, "median": middle, "max": greatest}


def _write_report(folder: Path, report: dict[str, Any], page: str) -> None:
    (folder / REPORT).write_bytes(canonical_json(report))
    (folder / PAGE).write_text(page, encoding="utf-8")


def _rejection(findings: Sequence[Finding], rejected: Path) -> ValidationError:
    """One error for all critical findings; the first one's words come first."""
    failed = [
        finding for finding in findings if not finding.success and finding.severity == "critical"
    ]
    first, *others = failed
    rows = ", ".join(first.rows[:NAMED_ROWS])
    more = f" and {len(first.rows) - NAMED_ROWS:,} more" if len(first.rows) > NAMED_ROWS else ""
    also = f" ({', '.join(other.name for other in others)} failed too)" if others else ""
    return ValidationError(
        f"the data set, expectation {first.name}",
        found=f"{first.observed}{f' ({rows}{more})' if rows else ''}{also}",
        expected=f"that {first.description[0].lower()}{first.description[1:].rstrip('.')}",
        remedy=f"{first.remedy} Everything found is in {rejected / PAGE}",
    )


def _show(folder: Path) -> None:
    """Attach the report to the task run: a table of the expectations and a summary."""
    report = json.loads((folder / REPORT).read_bytes())
    rows = [
        {
            "expectation": finding["name"],
            "severity": finding["severity"],
            "result": "passed" if finding["success"] else "FAILED",
            "observed": finding["observed"],
            "rows": ", ".join(finding["rows"][:NAMED_ROWS]),
        }
        for finding in report["expectations"]
    ]
    show_table("expectations", rows, "What was expected of the data set, the failed ones first.")
    failed = [finding for finding in report["expectations"] if not finding["success"]]
    lines = [
        f"**{report['verdict']}**: {len(rows) - len(failed)} of {len(rows)} expectations met, "
        f"{report['rows']['train']:,} train and {report['rows']['test']:,} test rows.",
        *(
            f"- **{finding['name']}**: {finding['observed']}. {finding['remedy']}"
            for finding in failed
        ),
        f"\nThe page: `{folder / PAGE}`",
    ]
    show_markdown("validation", "\n".join(lines), "The verdict on the data set.")


@stage_task(VALIDATE, timeout_s=600, show=lambda ref: _show(ref.path))
def validate(folder: Path, raw: StageRef, num_classes: int, title: str | None = None) -> Facts:
    """Write the report, its page and the profiles of the raw files.

    `title` names the files in errors. Raises RawDataError for files that are not one data set, and
    ValidationError for a critical finding; then the report is kept under `rejected/`.
    """
    from tasks.dataset.findings import judge
    from tasks.dataset.validation_page import page_of

    structure = check_structure(raw.path, num_classes, title)
    profiles = write_profiles(folder, raw.path)
    images, labels = (
        {split: read_idx(raw.path / files[kind]) for split, files in SPLITS.items()}
        for kind in (0, 1)
    )
    agreement = agreements(*((images[split], labels[split]) for split in SPLITS))
    findings = judge(profiles["train"], profiles["test"], num_classes, agreement)
    report = report_of(structure, profiles, findings, raw.facts["sha256"], num_classes)
    page = page_of(report, images)
    if report["verdict"] == "rejected":
        rejected = settings().root / "rejected" / output_name(folder)
        with built_aside(rejected) as aside:
            _write_report(aside, report, page)
        _show(rejected)
        raise _rejection(findings, rejected)
    _write_report(folder, report, page)
    return {
        "num_classes": num_classes,
        "image_shape": report["image_shape"],
        "rows": report["rows"],
        "expectations": len(findings),
        "warnings": len(report["warnings"]),
    }
