"""Runs Great Expectations on the profile of a data set, with logging, warnings and telemetry off.

The expectations are in `expectations.yaml`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline_config.sections import read_yaml
from tasks.dataset.splits import LEAST_AGREEMENT

# Before the import, which reads it: nothing about a person's data leaves the machine.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
with warnings.catch_warnings(action="ignore"):  # Great Expectations uses deprecated functions.
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.expectations import Expectation
    from great_expectations.expectations.row_conditions import Column


def run_expectations(frame: pd.DataFrame, num_classes: int) -> list[dict[str, Any]]:
    """Return the outcome of each expectation on a frame of profiles, in the order of the suite.

    `rows` are all rows that fail it, named like `train[17]`, or `test[3] = train[17]` where it is
    about copies. Raises RuntimeError where Great Expectations fails.
    """
    entries = read_yaml(Path(__file__).with_suffix(".yaml"))
    numbers = _numbers_of(frame, num_classes)
    expectations = [_expectation(name, entry, numbers) for name, entry in entries.items()]
    suite = gx.ExpectationSuite("images", expectations=expectations)
    for logger in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("profiles").add_dataframe_asset("images")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        # Rows come back as positions in the frame: naming them takes Great Expectations seconds.
        results = batch.validate(suite, result_format="COMPLETE").results
    names_N = (frame["split"] + "[" + frame["index"].astype(str) + "]").to_numpy()
    outcomes = {}
    for result in results:
        config = result.expectation_config
        name, entry = config.meta["name"], entries[config.meta["name"]]
        if result.exception_info.get("raised_exception", True):
            raise RuntimeError(f"{name} failed to run: {result.exception_info}")
        places = result.result.get("unexpected_index_list") or []
        rows = names_N[places]
        if "copies" in entry:
            rows = rows + " = " + names_N[frame[entry["copies"]].to_numpy()[places]]
        outcomes[name] = {
            "name": name,
            "description": config.description,
            "severity": entry["severity"],
            "success": bool(result.success),
            "observed": _observed(result.result, num_classes),
            "remedy": entry["remedy"],
            "rows": list(rows),
        }
    return [outcomes[name] for name in entries]


def _observed(result: Mapping[str, Any], num_classes: int) -> str:
    """Return the observed value in a few words."""
    if "unexpected_count" in result:
        looked_at = result["element_count"] - result.get("missing_count", 0)
        return f"{result['unexpected_count']:,} of {looked_at:,} rows"
    if "missing_count" in result:
        missing = ", ".join(str(value) for value in result["partial_missing_list"])
        return f"no rows of class {missing}" if missing else f"{num_classes} classes"
    return f"{result['observed_value']:.4g}"


def _numbers_of(frame: pd.DataFrame, num_classes: int) -> dict[str, Any]:
    """Return the arguments of expectations that depend on the data set, by name."""
    train = frame[frame["split"] == "train"]
    ink, agreement = float(train["ink"].mean()), float(train["agreement"].iloc[0])
    grey = float(train["mean"].mean())
    # Agreement (kappa) of labels with the nearest class mean, 0 being chance. MNIST: 0.79 in both
    # splits, Fashion-MNIST: 0.64, 0.63, digits: 0.89, 0.88; train labels shuffled: about 0.
    least = LEAST_AGREEMENT
    # The test split's by the training split's. MNIST: 0.99; mirrored: 0.5, transposed: 0.1.
    ratio = 0.7
    return {
        "classes": list(range(num_classes)),
        # Mean ink of the test split by that of the training split. MNIST: 1.01; inverted, about 5.
        "least_ink": 0.75 * ink,
        "most_ink": 1.25 * ink,
        # Mean grey level likewise. 200 clean rows: 0.9 to 1.11; contrast × 0.75: at most 0.81.
        "least_grey": 0.85 * grey,
        "most_grey": 1.15 * grey,
        "train_agreement": agreement,
        "agreement_ratio": ratio,
        "least_train_agreement": least,
        # If the labels do not fit the training images, those of the test split cannot be judged.
        "least_test_agreement": ratio * agreement if agreement >= least else -1,
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
        meta={"name": name},
    )
    return expectation
