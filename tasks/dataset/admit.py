"""The admit stage: whether the rows of a shard may train, and which of them.

Axes: N rows of the shard. A shard is judged by itself and against the created data set. Labels have
to fit the images within the shard, so rows that drifted pass and shuffled labels do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dataset.profile import agreements, picture_of, profile
from tasks.dataset.shards import Shard, read_shard
from tasks.raw.idx import read_splits
from tasks.runtime.files import canonical_json
from tasks.runtime.show import emit, show_table
from tasks.runtime.stages import ADMIT
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

ROWS, REPORT, PAGE = "rows.parquet", "report.json", "report.html"
# The largest share of blank images, as for a created data set.
MOST_BLANK = 0.01
# From so many rows for each class on: the least kappa of labels and images, by that of as many
# created training rows. benchmarks/label_fit.py: clean and rotated rows of MNIST, Fashion-MNIST and
# digits8x8 have at least 0.79 and 0.46, half of the labels shuffled at most 0.60, all 0.26.
LEAST_FIT = {20: 0.7, 8: 0.35}
NAMED_ROWS, MOST_SHOWN = 5, 24


class Finding(NamedTuple):
    """One check of a shard: what was found, in words, and the rows that it is about."""

    check: str
    passed: bool
    found: str
    rows: Sequence[int] = ()


def judge_shard(
    frame: pd.DataFrame,
    created: Mapping[str, pd.DataFrame],
    fit: float,
    expected_fit: float,
    num_classes: int,
) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Return the findings about a shard's profile, and which of its rows (N,) may train.

    `created` are the profiles of the created splits. `fit` is the kappa of the shard's labels and
    images, `expected_fit` that of as many created training rows.
    """
    digests = frame["sha256"]
    is_blank = frame["std"] == 0
    is_test = digests.isin(created["test"]["sha256"])
    train_labels = created["train"].drop_duplicates("sha256").set_index("sha256")["label"]
    label_there = digests.map(train_labels)
    num_labels = frame.groupby("sha256")["label"].transform("nunique")
    is_conflict = (num_labels > 1) | (label_there.notna() & (label_there != frame["label"]))
    is_copy = digests.duplicated() | label_there.notna()
    least = [bound for rows, bound in LEAST_FIT.items() if len(frame) >= rows * num_classes]
    fits = "too few rows to tell whether the labels fit the images"
    if least:
        fits = f"labels fit the images with kappa {fit:.2f}, as many created rows with "
        fits += f"{expected_fit:.2f}"
    share = f"{is_blank.sum():,} of {len(frame):,} images are blank"
    leaks = f"{is_test.sum():,} rows are test rows of the data set"
    copies = f"{(is_copy & ~is_conflict).sum():,} rows are there already and are left out"
    conflicts = f"{is_conflict.sum():,} rows have an image with another label and are left out"
    findings = [
        Finding("test rows", not bool(is_test.any()), leaks, rows_of(is_test)),
        Finding("labels fit", not least or fit >= least[0] * expected_fit, fits),
        Finding("blank images", bool(is_blank.mean() <= MOST_BLANK), share, rows_of(is_blank)),
        Finding("copies", passed=True, found=copies, rows=rows_of(is_copy & ~is_conflict)),
        Finding("one label an image", passed=True, found=conflicts, rows=rows_of(is_conflict)),
    ]
    return findings, ~(is_blank | is_test | is_copy | is_conflict).to_numpy(bool)


def _fits(raw: StageRef, images_NHW: Any, labels_N: Any, num_classes: int) -> tuple[float, float]:
    """Return the kappa of the shard's labels and images, and of as many created training rows."""
    train = read_splits(raw.path, num_classes)["train"]
    rows = np.random.default_rng(0).permutation(len(train[1]))[: len(labels_N)]
    sample = (train[0][np.sort(rows)], train[1][np.sort(rows)])
    shard = (images_NHW, labels_N)
    return agreements(shard, shard)["train"], agreements(sample, sample)["train"]


def rows_of(which: pd.Series) -> list[int]:
    """Return the rows where a column is true."""
    return list(map(int, np.flatnonzero(which)))


def _page(
    report: Mapping[str, Any], images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8]
) -> str:
    """Return a report as a page, with the images and labels of the rows that are named."""
    from jinja2 import StrictUndefined, Template

    template = Template(
        Path(__file__).with_name("admission.html").read_text(encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    some = range(len(labels_N))  # where a check that failed names no rows
    pictures = {
        each["check"]: [
            (row, labels_N[row], picture_of(images_NHW[row]))
            for row in (each["rows"] or ([] if each["passed"] else some))[:MOST_SHOWN]
        ]
        for each in report["findings"]
    }
    return str(template.render(report=report, pictures=pictures))


def _named(rows: Sequence[int]) -> str:
    """Return the first of the rows in words."""
    words = ", ".join(f"row {row}" for row in rows[:NAMED_ROWS])
    return words + (f" and {len(rows) - NAMED_ROWS:,} more" if len(rows) > NAMED_ROWS else "")


def _show(ref: StageRef) -> None:
    """Attach the table of the findings to the task run, and emit an event."""
    report = json.loads((ref.path / REPORT).read_bytes())
    rows = [{**row, "rows": _named(row["rows"])} for row in report["findings"]]
    words = f"shard {report['shard']}: **{ref.facts['verdict']}**"
    show_table("admission", rows, f"{words}. The page: `{ref.path / PAGE}`")
    payload = {name: report[name] for name in ("shard", "rows", "reason")}
    emit(f"idxflow.data.{ref.facts['verdict']}", f"idxflow.data.{ref.manifest.dataset}", payload)


@stage_task(ADMIT, timeout_s=600, show=_show)
def admit(folder: Path, raw: StageRef, checked: StageRef, shard: Shard) -> Facts:
    """Write the rows that may train, the report and its page; facts: the verdict and its reason.

    `rows.parquet` has the profile and the image of each row. Raises RawDataError and ConfigError
    for files that are not the shard.
    """
    images_NHW, labels_N = read_shard(shard)
    facts, rows = checked.facts, profile(images_NHW, labels_N)
    num_classes, shape = facts["num_classes"], tuple(facts["image_shape"])
    columns = ["label", "sha256"]
    created = {
        split: pq.read_table(checked.path / f"{split}.profile.parquet", columns=columns).to_pandas()
        for split in ("train", "test")
    }
    if images_NHW.shape[1:] != shape or labels_N.max() >= num_classes:
        found = f"images {images_NHW.shape[1:]} and labels up to {labels_N.max()}, where the data "
        found += f"set has {shape} and {num_classes} classes"
        findings, may_train = [Finding("form", passed=False, found=found)], labels_N < 0
    else:
        fits = _fits(raw, images_NHW, labels_N, num_classes)
        findings, may_train = judge_shard(rows.to_pandas(), created, *fits, num_classes)
    failed = [finding for finding in findings if not finding.passed]
    verdict = "quarantined" if failed else "admitted"
    first = failed[0] if failed else findings[0]
    named = f" ({_named(first.rows)})" if first.rows else ""
    reason = f"{first.found}{named}" if failed else f"{may_train.sum():,} rows may train"
    report = {"shard": shard.digest, "rows": len(rows), "verdict": verdict, "reason": reason}
    report["findings"] = [finding._asdict() for finding in findings]
    field = pa.field("image", pa.binary(images_NHW[0].size), nullable=False)
    images = pa.array([image.tobytes() for image in images_NHW], field.type)
    kept = rows.add_column(2, field, images).filter(pa.array(may_train))
    pq.write_table(kept, folder / ROWS, compression="zstd", use_dictionary=["label"])
    (folder / REPORT).write_bytes(canonical_json(report))
    (folder / PAGE).write_text(_page(report, images_NHW, labels_N), encoding="utf-8")
    counts = {"rows": len(rows), "kept": int(may_train.sum())}
    return {"shard": shard.digest, "verdict": verdict, "reason": reason, **counts}
