"""The expectations of a data set: a Great Expectations suite over its profile, and its run.

A `critical` expectation stops the run: with such rows the model or its score would be wrong. A
`warning` is reported, for a person to look at. MNIST, Fashion-MNIST and scikit-learn's digits meet
all of them as they are; their figures stand beside the thresholds.
"""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING

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

TRAIN, TEST = Column("split") == "train", Column("split") == "test"
# The columns whose expectations name each row together with its copy.
ABOUT_COPIES = {"leaked", "sha256", "twin_labels"}

# Below ten rows of a class, one row changes its recall by more than ten points. Digits: 35.
MIN_CLASS_ROWS = 10
# Rows of the largest class by those of the smallest, in one split. MNIST: 1.27. From 2 on, accuracy
# depends mostly on the frequent classes.
MAX_CLASS_RATIO = 2.0
# Up to this share, blank images are an accident; above it, the files were made wrongly. None known.
MAX_BLANK_SHARE = 0.01
# Mean grey level of an image, 0..255. The highest: MNIST 101, Fashion-MNIST 192.
MAX_MEAN = 240
# Share of an image's pixels that are not zero. MNIST: 0.04..0.45, Fashion-MNIST: 0.07..0.95.
INK_RANGE = (0.01, 0.99)
# Share of test images that are training images too. At 0.1 % the score gains at most the standard
# error of 99 % on 10,000 rows; in a small test split one such image is too many. None known.
MAX_LEAKED_SHARE = 0.001
# Grey levels of 0..1 or 0..16 are all below this one.
MIN_BRIGHTEST = 128
# Mean ink of the test split by that of the training split. MNIST: 1.01; inverted, about 5.
INK_RATIO_RANGE = (0.75, 1.25)
# Agreement (kappa) of labels with the nearest class mean, 0 being chance. MNIST: 0.79 in both
# splits, Fashion-MNIST: 0.64, 0.63, digits: 0.89, 0.88; train labels shuffled: about 0.
MIN_AGREEMENT = 0.1
# The test split's by the training split's. MNIST: 0.99; mirrored: 0.5, transposed: 0.1.
MIN_AGREEMENT_RATIO = 0.7
# Mean grey level along the edges of the images. MNIST: 0, Fashion-MNIST: 12, digits: 38.
MAX_EDGE = 127


def run_expectations(frame: pd.DataFrame, num_classes: int) -> list[ExpectationValidationResult]:
    """Return Great Expectations' results on a frame of profiles, in the order of the suite.

    Logging, warnings and telemetry are off.
    """
    is_train = frame["split"] == "train"
    expectations = [
        *_of_classes(num_classes),
        *_of_images(),
        *_of_splits(float(frame["ink"][is_train].mean())),
        *_of_agreement(float(frame["agreement"][is_train].iloc[0])),
        *_of_copies(),
    ]
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
    return [by_name[expectation.meta["name"]] for expectation in expectations]


def _expect(
    severity: str, name: str, kind: partial[Expectation], description: str, remedy: str
) -> Expectation:
    """Return an expectation with its name and what to do where it fails."""
    columns = {kind.keywords.get("column"), *kind.keywords.get("column_list", ())}
    meta = {"name": name, "remedy": remedy, "copies": bool(columns & ABOUT_COPIES)}
    return kind(severity=severity, description=description, meta=meta)


_critical, _warning = partial(_expect, "critical"), partial(_expect, "warning")


def _of_classes(num_classes: int) -> list[Expectation]:
    every = partial(
        gxe.ExpectColumnDistinctValuesToContainSet,
        column="label",
        value_set=list(range(num_classes)),
    )
    remedy = "Add rows of the class; or, if there are fewer classes, say so with --classes."
    return [
        _critical(
            f"{split}-classes",
            partial(every, row_condition=condition),
            f"Every class has rows in the {split} split.",
            remedy,
        )
        for split, condition in (("train", TRAIN), ("test", TEST))
    ]


def _of_images() -> list[Expectation]:
    each = gxe.ExpectColumnValuesToBeBetween
    not_blank = partial(each, column="std", min_value=0, strict_min=True)
    return [
        _critical(
            "few-blank-images",
            partial(not_blank, mostly=1 - MAX_BLANK_SHARE),
            f"At most {MAX_BLANK_SHARE:.0%} of the images are blank (all pixels equal).",
            "Look at how the files were made: this many are no accident.",
        ),
        _warning(
            "no-blank-images",
            not_blank,
            "No image is blank (all pixels equal).",
            "Look at the rows named and drop them: no label fits a blank image.",
        ),
        _warning(
            "no-saturated-images",
            partial(each, column="mean", max_value=MAX_MEAN),
            f"No image is nearly white (mean grey level above {MAX_MEAN} of 255).",
            "Look at the rows named: overexposed, or on a white ground?",
        ),
        _warning(
            "ink",
            partial(each, column="ink", min_value=INK_RANGE[0], max_value=INK_RANGE[1]),
            "In each image {:.0%} to {:.0%} of the pixels are not zero.".format(*INK_RANGE),
            "Look at the rows named: nearly empty, or without a black ground?",
        ),
        _warning(
            "dark-edges",
            partial(gxe.ExpectColumnMeanToBeBetween, column="edge", max_value=MAX_EDGE),
            f"The edges of the images are dark: at most {MAX_EDGE} of 255 in the mean.",
            "Invert the images if they are dark on white: recipes fill with black what they shift, "
            "and `idxflow predict` brings photos to white on black.",
        ),
    ]


def _of_splits(train_ink: float) -> list[Expectation]:
    low, high = (factor * train_ink for factor in INK_RATIO_RANGE)
    least, most = gxe.ExpectColumnMinToBeBetween, gxe.ExpectColumnMaxToBeBetween
    ink = partial(gxe.ExpectColumnMeanToBeBetween, column="ink", min_value=low, max_value=high)
    return [
        _warning(
            "row-counts",
            partial(least, column="class_rows", min_value=MIN_CLASS_ROWS),
            f"The smallest class has at least {MIN_CLASS_ROWS} rows in each split.",
            "Add rows: figures of so small a class jump from run to run.",
        ),
        _warning(
            "class-balance",
            partial(most, column="class_ratio", max_value=MAX_CLASS_RATIO),
            f"The largest class has at most {MAX_CLASS_RATIO:g} times the smallest one's rows.",
            "Read macro F1 rather than accuracy, or add rows of the small classes.",
        ),
        _warning(
            "grey-levels",
            partial(most, column="max", min_value=MIN_BRIGHTEST),
            f"The brightest pixel of all is at least {MIN_BRIGHTEST} of 255.",
            "Scale the grey levels to 0..255 before writing the files.",
        ),
        _warning(
            "splits-alike",
            partial(ink, row_condition=TEST),
            f"The test images have the ink of the train images: a mean of {low:.3f} to {high:.3f}.",
            "Look at both splits with `idxflow show`: inverted, scaled or from elsewhere?",
        ),
    ]


def _of_agreement(train: float) -> list[Expectation]:
    # If the labels do not fit the training images, those of the test split cannot be judged.
    least = MIN_AGREEMENT_RATIO * train if train >= MIN_AGREEMENT else -1
    kappa = partial(gxe.ExpectColumnMinToBeBetween, column="agreement")
    return [
        _warning(
            "labels-fit",
            partial(kappa, min_value=MIN_AGREEMENT, row_condition=TRAIN),
            "Labels and images of the train split belong together: the nearest class mean gives "
            f"the label more often than chance (Cohen's kappa at least {MIN_AGREEMENT}).",
            "Look at train rows with `idxflow show`: shuffled or shifted labels? Classes that have "
            "the same mean image are no fault, but rare.",
        ),
        _warning(
            "test-fits",
            partial(kappa, min_value=least, row_condition=TEST),
            "The class means of the train split give the labels of the test split nearly as well "
            f"(Cohen's kappa at least {MIN_AGREEMENT_RATIO:.0%} of theirs, {train:.2f}).",
            "Look at both splits with `idxflow show`: transposed or inverted images, shuffled or "
            "renumbered labels?",
        ),
    ]


def _of_copies() -> list[Expectation]:
    among = gxe.ExpectColumnValuesToBeInSet
    unseen = partial(among, column="leaked", value_set=[0], row_condition=TEST)
    return [
        _critical(
            "few-leaks",
            partial(unseen, mostly=1 - MAX_LEAKED_SHARE),
            f"At most {MAX_LEAKED_SHARE:.1%} of the test images are also train images.",
            "Drop the copies from the train split: the score would be partly memory.",
        ),
        _warning(
            "no-leaks",
            unseen,
            "No test image is also a train image.",
            "Drop the copies from the train split.",
        ),
        _warning(
            "no-duplicates",
            partial(gxe.ExpectCompoundColumnsToBeUnique, column_list=["split", "sha256"]),
            "No image is twice in one split.",
            "Drop the copies: they count double, and may fall into validation too.",
        ),
        _warning(
            "one-label",
            partial(among, column="twin_labels", value_set=[1]),
            "Equal images have equal labels.",
            "Look at the rows named: at least one of their labels is wrong.",
        ),
    ]
