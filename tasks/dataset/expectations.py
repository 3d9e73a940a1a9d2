"""What is expected of a data set, as a Great Expectations suite over its profile.

A `critical` expectation stops the run: with such rows the model or its score would be wrong. A
`warning` is reported: a person should look. The thresholds are such that MNIST, Fashion-MNIST and
scikit-learn's digits pass as they are; their figures stand beside each.
"""

from __future__ import annotations

from tasks.dataset.suite import Column, Expectation, expect, gxe

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
# Agreement (kappa) of labels with the nearest class mean, 0 being chance. MNIST: 0.79 on train rows
# and on test rows, Fashion-MNIST: 0.64, 0.63, digits: 0.89, 0.88; train labels shuffled: about 0.
MIN_AGREEMENT = 0.1
# The test split's by the training split's. MNIST: 0.99; mirrored: 0.5, transposed: 0.1.
MIN_AGREEMENT_RATIO = 0.7
# Mean grey level along the edges of the images. MNIST: 0, Fashion-MNIST: 12, digits: 38.
MAX_EDGE = 127


def expectations_of(
    num_classes: int, train_ink: float, train_agreement: float
) -> list[Expectation]:
    """All of them for `num_classes`, and for the ink and the agreement of the training split."""
    return [
        *_labels(num_classes),
        *_images(),
        *_splits(train_ink),
        *_agreement(train_agreement),
        *_copies(),
    ]


def _labels(num_classes: int) -> list[Expectation]:
    return [
        expect(
            gxe.ExpectColumnDistinctValuesToContainSet,
            f"{split}-classes",
            "critical",
            f"Every class has rows in the {split} split.",
            "Add rows of the class; or, if there are fewer classes, say so with --classes.",
            column="label",
            value_set=list(range(num_classes)),
            row_condition=Column("split") == split,
        )
        for split in ("train", "test")
    ]


def _images() -> list[Expectation]:
    not_blank = {"column": "std", "min_value": 0, "strict_min": True}
    return [
        expect(
            gxe.ExpectColumnValuesToBeBetween,
            "few-blank-images",
            "critical",
            f"At most {MAX_BLANK_SHARE:.0%} of the images are blank (all pixels equal).",
            "Look at how the files were made: this many are no accident.",
            **not_blank,
            mostly=1 - MAX_BLANK_SHARE,
        ),
        expect(
            gxe.ExpectColumnValuesToBeBetween,
            "no-blank-images",
            "warning",
            "No image is blank (all pixels equal).",
            "Look at the rows named and drop them: no label fits a blank image.",
            **not_blank,
        ),
        expect(
            gxe.ExpectColumnValuesToBeBetween,
            "no-saturated-images",
            "warning",
            f"No image is nearly white (mean grey level above {MAX_MEAN} of 255).",
            "Look at the rows named: overexposed, or on a white ground?",
            column="mean",
            max_value=MAX_MEAN,
        ),
        expect(
            gxe.ExpectColumnValuesToBeBetween,
            "ink",
            "warning",
            "In each image {:.0%} to {:.0%} of the pixels are not zero.".format(*INK_RANGE),
            "Look at the rows named: nearly empty, or without a black ground?",
            column="ink",
            min_value=INK_RANGE[0],
            max_value=INK_RANGE[1],
        ),
        expect(
            gxe.ExpectColumnMeanToBeBetween,
            "dark-edges",
            "warning",
            f"The edges of the images are dark: at most {MAX_EDGE} of 255 in the mean.",
            "Invert the images if they are dark on white: recipes fill with black what they shift, "
            "and `idxflow predict` brings photos to white on black.",
            column="edge",
            max_value=MAX_EDGE,
        ),
    ]


def _splits(train_ink: float) -> list[Expectation]:
    low, high = (factor * train_ink for factor in INK_RATIO_RANGE)
    return [
        expect(
            gxe.ExpectColumnMinToBeBetween,
            "row-counts",
            "warning",
            f"The smallest class has at least {MIN_CLASS_ROWS} rows in each split.",
            "Add rows: figures of so small a class jump from run to run.",
            column="class_rows",
            min_value=MIN_CLASS_ROWS,
        ),
        expect(
            gxe.ExpectColumnMaxToBeBetween,
            "class-balance",
            "warning",
            f"The largest class has at most {MAX_CLASS_RATIO:g} times the smallest one's rows.",
            "Read macro F1 rather than accuracy, or add rows of the small classes.",
            column="class_ratio",
            max_value=MAX_CLASS_RATIO,
        ),
        expect(
            gxe.ExpectColumnMaxToBeBetween,
            "grey-levels",
            "warning",
            f"The brightest pixel of all is at least {MIN_BRIGHTEST} of 255.",
            "Scale the grey levels to 0..255 before writing the files.",
            column="max",
            min_value=MIN_BRIGHTEST,
        ),
        expect(
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


def _agreement(train: float) -> list[Expectation]:
    # Labels that do not fit where they should have been learned say nothing about the test split.
    least = MIN_AGREEMENT_RATIO * train if train >= MIN_AGREEMENT else -1
    return [
        expect(
            gxe.ExpectColumnMinToBeBetween,
            "labels-fit",
            "warning",
            "Labels and images of the train split belong together: the nearest class mean gives "
            f"the label more often than chance (Cohen's kappa at least {MIN_AGREEMENT}).",
            "Look at train rows with `idxflow show`: shuffled or shifted labels? Classes that have "
            "the same mean image are no fault, but rare.",
            column="agreement",
            min_value=MIN_AGREEMENT,
            row_condition=Column("split") == "train",
        ),
        expect(
            gxe.ExpectColumnMinToBeBetween,
            "test-fits",
            "warning",
            "The class means of the train split give the labels of the test split nearly as well "
            f"(Cohen's kappa at least {MIN_AGREEMENT_RATIO:.0%} of theirs, {train:.2f}).",
            "Look at both splits with `idxflow show`: transposed or inverted images, shuffled or "
            "renumbered labels?",
            column="agreement",
            min_value=least,
            row_condition=Column("split") == "test",
        ),
    ]


def _copies() -> list[Expectation]:
    unseen = {"column": "leaked", "value_set": [0], "row_condition": Column("split") == "test"}
    return [
        expect(
            gxe.ExpectColumnValuesToBeInSet,
            "few-leaks",
            "critical",
            f"At most {MAX_LEAKED_SHARE:.1%} of the test images are also train images.",
            "Drop the copies from the train split: the score would be partly memory.",
            **unseen,
            mostly=1 - MAX_LEAKED_SHARE,
        ),
        expect(
            gxe.ExpectColumnValuesToBeInSet,
            "no-leaks",
            "warning",
            "No test image is also a train image.",
            "Drop the copies from the train split.",
            **unseen,
        ),
        expect(
            gxe.ExpectCompoundColumnsToBeUnique,
            "no-duplicates",
            "warning",
            "No image is twice in one split.",
            "Drop the copies: they count double, and may fall into validation too.",
            column_list=["split", "sha256"],
        ),
        expect(
            gxe.ExpectColumnValuesToBeInSet,
            "one-label",
            "warning",
            "Equal images have equal labels.",
            "Look at the rows named: at least one of their labels is wrong.",
            column="twin_labels",
            value_set=[1],
        ),
    ]
