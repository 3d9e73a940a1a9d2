"""Runs Great Expectations on the profile of a data set, with logging, warnings and telemetry off.

The expectations are in `expectations.yaml`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_config.sections import read_yaml

if TYPE_CHECKING:
    import pandas as pd

# Before the import, which reads it: nothing about a person's data leaves the machine.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Great Expectations uses deprecated functions.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations import Expectation
    from great_expectations.expectations.row_conditions import Column

EXPECTATIONS = Path(__file__).with_suffix(".yaml")

# Mean ink of the test split by that of the training split. MNIST: 1.01; inverted, about 5.
INK_RATIO_RANGE = (0.75, 1.25)
# Agreement (kappa) of labels with the nearest class mean, 0 being chance. MNIST: 0.79 in both
# splits, Fashion-MNIST: 0.64, 0.63, digits: 0.89, 0.88; train labels shuffled: about 0.
MIN_AGREEMENT = 0.1
# The test split's by the training split's. MNIST: 0.99; mirrored: 0.5, transposed: 0.1.
MIN_AGREEMENT_RATIO = 0.7


def run_expectations(frame: pd.DataFrame, num_classes: int) -> list[ExpectationValidationResult]:
    """Return Great Expectations' results on a frame of profiles, in the order of the suite."""
    numbers = numbers_of(frame, num_classes)
    entries = read_yaml(EXPECTATIONS)
    expectations = [_expectation(name, entry, numbers) for name, entry in entries.items()]
    suite = gx.ExpectationSuite("images", expectations=expectations)
    for logger in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("profiles").add_dataframe_asset("images")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        # Rows come back as positions in the frame: naming them takes Great Expectations seconds.
        results = batch.validate(suite, result_format="COMPLETE").results
    by_name = {result.expectation_config.meta["name"]: result for result in results}
    return [by_name[name] for name in entries]


def numbers_of(frame: pd.DataFrame, num_classes: int) -> dict[str, Any]:
    """Return the arguments of expectations that depend on the data set, by name."""
    train = frame[frame["split"] == "train"]
    ink, agreement = float(train["ink"].mean()), float(train["agreement"].iloc[0])
    # If the labels do not fit the training images, those of the test split cannot be judged.
    is_judged = agreement >= MIN_AGREEMENT
    return {
        "classes": list(range(num_classes)),
        "least_ink": INK_RATIO_RANGE[0] * ink,
        "most_ink": INK_RATIO_RANGE[1] * ink,
        "train_agreement": agreement,
        "agreement_ratio": MIN_AGREEMENT_RATIO,
        "least_train_agreement": MIN_AGREEMENT,
        "least_test_agreement": MIN_AGREEMENT_RATIO * agreement if is_judged else -1,
    }


def _expectation(name: str, entry: Mapping[str, Any], numbers: Mapping[str, Any]) -> Expectation:
    computed = {key: numbers[number] for key, number in entry.get("computed", {}).items()}
    if "split" in entry:
        computed["row_condition"] = Column("split") == entry["split"]
    expectation: Expectation = getattr(gxe, entry["kind"])(
        **entry["arguments"],
        **computed,
        severity=entry["severity"],
        description=entry["description"].format(**numbers),
        meta={"name": name, "remedy": entry["remedy"], "copies": entry.get("copies", False)},
    )
    return expectation
