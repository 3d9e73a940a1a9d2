"""Great Expectations, kept quiet: how an expectation is made, and how a suite of them is run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

# Said before the import, which reads it: nothing about a person's data leaves the machine.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of things that are deprecated
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations import Expectation
    from great_expectations.expectations.row_conditions import Column

# Others import these from here, so that what was said above is said first.
__all__ = ["Column", "Expectation", "ExpectationValidationResult", "expect", "gxe", "run"]

# What an expectation looks at, where its rows are to be named with their copies.
ABOUT_COPIES = {"leaked", "sha256", "twin_labels"}


def expect(
    kind: type[Expectation],
    name: str,
    severity: Literal["critical", "warning"],
    description: str,
    remedy: str,
    **looks_at: Any,
) -> Expectation:
    """An expectation of GX under our name, with what to do where it fails."""
    columns = {looks_at.get("column"), *looks_at.get("column_list", ())}
    return kind(
        **looks_at,
        severity=severity,
        description=description,
        meta={"name": name, "remedy": remedy, "copies": bool(columns & ABOUT_COPIES)},
    )


def run(
    expectations: Sequence[Expectation], frame: pd.DataFrame
) -> list[ExpectationValidationResult]:
    """GX's results on a frame of profiles, in the order of the expectations, in silence."""
    suite = gx.ExpectationSuite("images", expectations=list(expectations))
    for logger in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("profiles").add_dataframe_asset("images")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        # Rows come back as places in the frame: having GX name them by columns takes seconds.
        results = batch.validate(suite, result_format="COMPLETE").results
    by_name = {result.expectation_config.meta["name"]: result for result in results}
    return [by_name[expectation.meta["name"]] for expectation in expectations]
