"""The validate stage: structure, profile, expectations, and a report as JSON and as a page.

Axes: N images of H×W pixels, by split (`train`, `test`). A data set that fails a critical
expectation leaves no output of the stage, but its report is kept under `rejected/`.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_config.settings import settings
from tasks.dataset.profile import Labelled, agreements, frame_of, profile
from tasks.raw.idx import read_splits
from tasks.runtime.errors import ValidationError
from tasks.runtime.files import built_aside, canonical_json
from tasks.runtime.show import show_table
from tasks.runtime.stages import VALIDATE
from tasks.runtime.store import Facts, StageRef, output_name
from tasks.runtime.task import stage_task

REPORT, PAGE = "report.json", "report.html"
TEMPLATE = Path(__file__).with_name("validation.html")
SUMMARIZED = ("mean", "std", "ink")

# Rows that an error message names; the report names them all.
NAMED_ROWS = 5
# Rows of each expectation that the page shows with their image, and rows that it names.
MAX_PICTURES = 12
MAX_NAMES = 400
# Every n-th pixel is shown, so that the longer side of a picture has at most this many.
PICTURE_SIDE = 64


def write_profiles(folder: Path, splits: Mapping[str, Labelled]) -> dict[str, pa.Table]:
    """Write `<split>.profile.parquet` for images and labels by split; return the profiles."""
    profiles = {split: profile(images, labels) for split, (images, labels) in splits.items()}
    for split, table in profiles.items():
        path = folder / f"{split}.profile.parquet"
        pq.write_table(table, path, compression="zstd", use_dictionary=["label"])
    return profiles


def check_expectations(
    train: pa.Table, test: pa.Table, num_classes: int, agreement: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the outcome of each expectation on two profiles and each split's kappa, as JSON.

    Its `rows` are all rows that fail it, named like `train[17]`, or `test[3] = train[17]` where it
    is about copies; none for an expectation about whole splits. Raises RuntimeError where Great
    Expectations fails.
    """
    from tasks.dataset.expectations import run_expectations

    frame = frame_of(train, test, agreement)
    names_N = (frame["split"] + "[" + frame["index"].astype(str) + "]").to_numpy()
    outcomes = []
    for result in run_expectations(frame, num_classes):
        config = result.expectation_config
        if result.exception_info.get("raised_exception", True):
            raise RuntimeError(f"{config.meta['name']} failed to run: {result.exception_info}")
        places = result.result.get("unexpected_index_list") or []
        rows = names_N[places]
        if config.meta["copies"]:
            rows = rows + " = " + names_N[frame["twin"].to_numpy()[places]]
        outcomes.append(
            {
                "name": config.meta["name"],
                "description": config.description,
                "severity": config.severity.value,
                "success": bool(result.success),
                "observed": _observed(result.result, config.kwargs),
                "remedy": config.meta["remedy"],
                "rows": list(rows),
            }
        )
    return outcomes


def _observed(result: dict[str, Any], kwargs: dict[str, Any]) -> str:
    """Return the observed value in a few words."""
    if "unexpected_count" in result:
        return f"{result['unexpected_count']:,} of {result['element_count']:,} rows"
    if "missing_count" in result:
        missing = ", ".join(str(value) for value in result["partial_missing_list"])
        return f"no rows of class {missing}" if missing else f"{len(kwargs['value_set'])} classes"
    return f"{result['observed_value']:.4g}"


def report_of(
    profiles: Mapping[str, pa.Table],
    image_shape: Sequence[int],
    outcomes: Sequence[dict[str, Any]],
    sha256: Mapping[str, str],
    num_classes: int,
) -> dict[str, Any]:
    """Return the report as JSON; the failed expectations come first."""
    failed = [outcome for outcome in outcomes if not outcome["success"]]
    critical = [outcome["name"] for outcome in failed if outcome["severity"] == "critical"]
    labels = {split: table["label"].to_numpy() for split, table in profiles.items()}
    return {
        "verdict": "rejected" if critical else "passed",
        "critical": critical,
        "warnings": [each["name"] for each in failed if each["severity"] == "warning"],
        "num_classes": num_classes,
        "image_shape": list(image_shape),
        "rows": {split: len(table) for split, table in profiles.items()},
        "sha256": sha256,
        "classes": {
            split: np.bincount(labels_N, minlength=num_classes).tolist()
            for split, labels_N in labels.items()
        },
        "profile": {
            split: {name: _summary(table[name]) for name in SUMMARIZED}
            for split, table in profiles.items()
        },
        # Critical ones come before warnings, as in the alphabet.
        "expectations": sorted(outcomes, key=lambda each: (each["success"], each["severity"])),
    }


def _summary(column: pa.ChunkedArray) -> dict[str, float]:
    least, middle, greatest = np.quantile(column.to_numpy(), (0, 0.5, 1)).tolist()
    return {"min": least, "median": middle, "max": greatest}


def page_of(report: Mapping[str, Any], images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return a report as a self-contained HTML page; `images` are (N, H, W) by split."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        outcome["name"]: [(name, _picture(name, images)) for name in outcome["rows"][:MAX_PICTURES]]
        for outcome in report["expectations"]
    }
    return environment.get_template(TEMPLATE.name).render(
        report=report, pictures=pictures, max_pictures=MAX_PICTURES, max_names=MAX_NAMES
    )


def _picture(name: str, images: Mapping[str, NDArray[np.uint8]]) -> str:
    """Return a data: URL of the image of a row named like `train[17]` or `test[3] = train[17]`."""
    from PIL import Image

    split, index = re.split(r"[\[\]]", name)[:2]
    image_HW = images[split][int(index)]
    step = -(-max(image_HW.shape) // PICTURE_SIDE)
    content = io.BytesIO()
    # Not compressed, so that the bytes do not depend on the zlib in use.
    Image.fromarray(image_HW[::step, ::step].copy()).save(content, "PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _write_report(folder: Path, report: dict[str, Any], page: str) -> None:
    (folder / REPORT).write_bytes(canonical_json(report))
    (folder / PAGE).write_text(page, encoding="utf-8")


def _rejection(report: Mapping[str, Any], rejected: Path) -> ValidationError:
    """Return the error for the critical expectations that failed, with the words of the first."""
    first = report["expectations"][0]
    names, others = first["rows"], report["critical"][1:]
    more = f" and {len(names) - NAMED_ROWS:,} more" if len(names) > NAMED_ROWS else ""
    rows = f" ({', '.join(names[:NAMED_ROWS])}{more})" if names else ""
    also = f" ({', '.join(others)} failed too)" if others else ""
    return ValidationError(
        f"the data set, expectation {first['name']}",
        found=f"{first['observed']}{rows}{also}",
        expected=f"that {first['description'][0].lower()}{first['description'][1:].rstrip('.')}",
        remedy=f"{first['remedy']} The whole report is in {rejected / PAGE}",
    )


def _show(folder: Path) -> None:
    """Attach the table of the expectations to the task run, the failed ones first."""
    report = json.loads((folder / REPORT).read_bytes())
    rows = [
        {
            "expectation": outcome["name"],
            "severity": outcome["severity"],
            "result": "passed" if outcome["success"] else "FAILED",
            "observed": outcome["observed"],
            "rows": ", ".join(outcome["rows"][:NAMED_ROWS]),
            "remedy": "" if outcome["success"] else outcome["remedy"],
        }
        for outcome in report["expectations"]
    ]
    num_failed = len(report["critical"]) + len(report["warnings"])
    words = (
        f"**{report['verdict']}**: {len(rows) - num_failed} of {len(rows)} expectations met, "
        f"{report['rows']['train']:,} train and {report['rows']['test']:,} test rows. "
        f"The page: `{folder / PAGE}`"
    )
    show_table("expectations", rows, words)


@stage_task(VALIDATE, timeout_s=600, show=lambda ref: _show(ref.path))
def validate(folder: Path, raw: StageRef, num_classes: int, title: str = "") -> Facts:
    """Write the report, its page and the profiles of the raw files.

    `title` names the files in errors. Raises RawDataError for files that are not one data set, and
    ValidationError where a critical expectation fails; then the report is kept under `rejected/`.
    """
    splits = read_splits(raw.path, num_classes, title)
    profiles = write_profiles(folder, splits)
    agreement = agreements(splits["train"], splits["test"])
    outcomes = check_expectations(profiles["train"], profiles["test"], num_classes, agreement)
    image_shape = splits["train"][0].shape[1:]
    report = report_of(profiles, image_shape, outcomes, raw.facts["sha256"], num_classes)
    page = page_of(report, {split: images for split, (images, _) in splits.items()})
    if report["verdict"] == "rejected":
        rejected = settings().root / "rejected" / output_name(folder)
        with built_aside(rejected) as aside:
            _write_report(aside, report, page)
        _show(rejected)
        raise _rejection(report, rejected)
    _write_report(folder, report, page)
    facts: Facts = {name: report[name] for name in ("num_classes", "image_shape", "rows")}
    return {**facts, "expectations": len(outcomes), "warnings": len(report["warnings"])}
