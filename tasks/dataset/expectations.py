"""What is expected of a data set, as a Great Expectations suite over its profile.

A `critical` expectation stops the run: with such rows the model or its score would be wrong. A
`warning` is reported: a person should look. The thresholds are such that MNIST, Fashion-MNIST and
scikit-learn's digits pass as they are; their figures stand beside each.
"""

from __future__ import annotations

import logging
import os
import warnings
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
    from great_expectations.expectations.row_conditions import Column

# Below ten rows of a class, one row moves its recall by more than ten points. Digits: 35.
MIN_CLASS_ROWS = 10
# Rows of the largest class by those of the smallest, in one split; MNIST: 1.27. From 2 on, accuracy
# speaks for the frequent classes.
MAX_CLASS_RATIO = 2.0
# Up to this share, blank images are an accident; above it the files were made wrongly. None known.
MAX_BLANK_SHARE = 0.01
# Mean grey level of an image, 0..255. The highest: MNIST 101, Fashion-MNIST 192.
MAX_MEAN = 240
# Share of an image's pixels that are not zero. MNIST: 0.04..0.45, Fashion-MNIST: 0.07..0.95.
INK_RANGE = (0.01, 0.99)
# Share of test images that training has seen. At 0.1 % the score gains at most the standard error
# of 99 % on 10,000 rows; in a small test split a single one is too many. None known.
MAX_LEAKED_SHARE = 0.001
# Grey levels that were 0..1 or 0..16 stay below this one everywhere.
MIN_BRIGHTEST = 128
# Mean ink of the test split by that of the training split. MNIST: 1.01; inverted, about 5.
INK_RATIO_RANGE = (0.75, 1.25)

# What an expectation looks at, where its rows are to be named with their copies.
ABOUT_COPIES = {"leaked", "sha256", "twin_labels"}


def suite_of(num_classes: int, train_ink: float) -> gx.ExpectationSuite:
    """The suite for `num_classes` and the mean ink of the training split."""
    expectations = [*_labels(num_classes), *_images(), *_splits(train_ink), *_copies()]
    return gx.ExpectationSuite("images", expectations=expectations)


def run(suite: gx.ExpectationSuite, frame: pd.DataFrame) -> list[ExpectationValidationResult]:
    """GX's results on a frame of profiles, in the order of the suite, in silence."""
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
    return [by_name[expectation.meta["name"]] for expectation in suite.expectations]


def _labels(num_classes: int) -> list[gxe.Expectation]:
    classes = list(range(num_classes))
    present = [
        _expect(
            gxe.ExpectColumnDistinctValuesToContainSet,
            f"{split}-classes",
            "critical",
            f"Every class has rows in the {split} split.",
            "Add rows of the class; or, if there are fewer classes, say so with --classes.",
            column="label",
            value_set=classes,
            row_condition=Column("split") == split,
        )
        for split in ("train", "test")
    ]
    within = _expect(
        gxe.ExpectColumnValuesToBeInSet,
        "labels",
        "critical",
        f"Every label is one of 0 to {num_classes - 1}.",
        "Mend the labels; or, if there are more classes, say so with --classes.",
        column="label",
        value_set=classes,
    )
    return [within, *present]


def _images() -> list[gxe.Expectation]:
    not_blank = {"column": "std", "min_value": 0, "strict_min": True}
    return [
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            "few-blank-images",
            "critical",
            f"At most {MAX_BLANK_SHARE:.0%} of the images are blank (all pixels equal).",
            "Look at how the files were made: this many are no accident.",
            **not_blank,
            mostly=1 - MAX_BLANK_SHARE,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            "no-blank-images",
            "warning",
            "No image is blank (all pixels equal).",
            "Look at the rows named and drop them: no label fits a blank image.",
            **not_blank,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            "no-saturated-images",
            "warning",
            f"No image is nearly white (mean grey level above {MAX_MEAN} of 255).",
            "Look at the rows named: overexposed, or on a white ground?",
            column="mean",
            max_value=MAX_MEAN,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeBetween,
            "ink",
            "warning",
            "In each image {:.0%} to {:.0%} of the pixels are not zero.".format(*INK_RANGE),
            "Look at the rows named: nearly empty, or without a black ground?",
            column="ink",
            min_value=INK_RANGE[0],
            max_value=INK_RANGE[1],
        ),
    ]


def _splits(train_ink: float) -> list[gxe.Expectation]:
    low, high = (factor * train_ink for factor in INK_RATIO_RANGE)
    return [
        _expect(
            gxe.ExpectColumnMinToBeBetween,
            "row-counts",
            "warning",
            f"The smallest class has at least {MIN_CLASS_ROWS} rows in each split.",
            "Add rows: figures of so small a class jump from run to run.",
            column="class_rows",
            min_value=MIN_CLASS_ROWS,
        ),
        _expect(
            gxe.ExpectColumnMaxToBeBetween,
            "class-balance",
            "warning",
            f"The largest class has at most {MAX_CLASS_RATIO:g} times the smallest one's rows.",
            "Read macro F1 rather than accuracy, or add rows of the small classes.",
            column="class_ratio",
            max_value=MAX_CLASS_RATIO,
        ),
        _expect(
            gxe.ExpectColumnMaxToBeBetween,
            "grey-levels",
            "warning",
            f"The brightest pixel of all is at least {MIN_BRIGHTEST} of 255.",
            "Scale the grey levels to 0..255 before writing the files.",
            column="max",
            min_value=MIN_BRIGHTEST,
        ),
        _expect(
            gxe.ExpectColumnMeanToBeBetween,
            "splits-alike",
            "warning",
            f"The test images have the ink of the train images: a mean of {low:.3f} to {high:.3f}.",
            "Look at both splits with `idxflow show`: inverted, scaled or from elsewhere?",
            column="ink",
            min_value=low,
            max_value=high,
            row_condition=Column("split") == "test",
        ),
    ]


def _copies() -> list[gxe.Expectation]:
    unseen = {"column": "leaked", "value_set": [0], "row_condition": Column("split") == "test"}
    return [
        _expect(
            gxe.ExpectColumnValuesToBeInSet,
            "few-leaks",
            "critical",
            f"At most {MAX_LEAKED_SHARE:.1%} of the test images are also train images.",
            "Drop the copies from the train split: the score would be partly memory.",
            **unseen,
            mostly=1 - MAX_LEAKED_SHARE,
        ),
        _expect(
            gxe.ExpectColumnValuesToBeInSet,
            "no-leaks",
            "warning",
            "No test image is also a train image.",
            "Drop the copies from the train split.",
            **unseen,
        ),
        _expect(
            gxe.ExpectCompoundColumnsToBeUnique,
            "no-duplicates",
            "warning",
            "No image is twice in one split.",
            "Drop the copies: they count double, and may fall into validation too.",
            column_list=["split", "sha256"],
        ),
        _expect(
            gxe.ExpectColumnValuesToBeInSet,
            "one-label",
            "warning",
            "Equal images have equal labels.",
            "Look at the rows named: at least one of their labels is wrong.",
            column="twin_labels",
            value_set=[1],
        ),
    ]


def _expect(
    kind: type[gxe.Expectation],
    name: str,
    severity: Literal["critical", "warning"],
    description: str,
    remedy: str,
    **looks_at: Any,
) -> gxe.Expectation:
    """An expectation of GX under our name, with what to do where it fails."""
    columns = {looks_at.get("column"), *looks_at.get("column_list", ())}
    return kind(
        **looks_at,
        severity=severity,
        description=description,
        meta={"name": name, "remedy": remedy, "copies": bool(columns & ABOUT_COPIES)},
    )
