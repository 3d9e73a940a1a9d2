"""What became of the expectations: Great Expectations' results in our own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.dataset.expectations import expectations_of
from tasks.dataset.profile import frame_of
from tasks.dataset.suite import run

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult


@dataclass(frozen=True)
class Finding:
    """What became of one expectation.

    `rows` are those that break it, all of them, named like `train[17]`, or `test[3] = train[17]`
    where it is about copies; empty for an expectation about whole splits.
    """

    name: str
    description: str
    severity: Literal["critical", "warning"]
    success: bool
    observed: str
    remedy: str
    rows: tuple[str, ...]


def judge(
    train: pa.Table, test: pa.Table, num_classes: int, agreement: Mapping[str, float]
) -> list[Finding]:
    """The findings on two profiles and each split's agreement (agreement.py), in the suite's order.

    Raises RuntimeError where GX itself fails.
    """
    frame = frame_of(train, test)
    frame["agreement"] = frame["split"].map(agreement)
    names = (frame["split"] + "[" + frame["index"].astype(str) + "]").to_numpy()
    train_ink = float(frame["ink"][frame["split"] == "train"].mean())
    expectations = expectations_of(num_classes, train_ink, agreement["train"])
    results = run(expectations, frame)
    return [_finding(result, names, frame["twin"].to_numpy()) for result in results]


def _finding(
    result: ExpectationValidationResult, names_N: NDArray[Any], twins_N: NDArray[np.int64]
) -> Finding:
    config = result.expectation_config
    if result.exception_info.get("raised_exception", True):
        raise RuntimeError(f"{config.meta['name']} could not be judged: {result.exception_info}")
    places = result.result.get("unexpected_index_list") or []
    rows = names_N[places]
    if config.meta["copies"]:
        rows = rows + " = " + names_N[twins_N[places]]
    return Finding(
        name=config.meta["name"],
        description=config.description,
        severity=config.severity.value,
        success=bool(result.success),
        observed=_observed(result.result, config.kwargs),
        remedy=config.meta["remedy"],
        rows=tuple(rows),
    )


def _observed(result: dict[str, Any], kwargs: dict[str, Any]) -> str:
    """What was seen, in a few words."""
    if "unexpected_count" in result:
        return f"{result['unexpected_count']:,} of {result['element_count']:,} rows"
    if "missing_count" in result:
        missing = ", ".join(str(value) for value in result["partial_missing_list"])
        return f"no rows of class {missing}" if missing else f"{len(kwargs['value_set'])} classes"
    return f"{result['observed_value']:.4g}"
