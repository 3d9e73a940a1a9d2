"""The profile: figures of each image, and the agreement of labels with images.

Axes: N images, H rows of pixels from the top, W columns from the left; R rows of a sample, P pixels
of each, C classes. All sums are of whole numbers below 2**53, so that the figures are the same bits
on every machine. (scikit-learn's NearestCentroid rounds its distances as the machine's BLAS does.)
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# Images (N, H, W) and their labels (N).
Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# Pixels in memory at a time, at least one image: some 60 MB of working memory.
PIECE_BYTES = 4096 * 28 * 28

# 2,000 rows estimate kappa to ±0.02 in 50 ms.
SAMPLE_ROWS = 2000
# Every n-th pixel is taken, so that the longer side of an image has at most this many.
SAMPLE_SIDE = 32
SEED = 0
# The longer side of a picture on a page has at most this many pixels.
PICTURE_SIDE = 64


def profile(images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8]) -> pa.Table:
    """Return the profile of one split, a row for each image: index, label, figures and SHA-256."""
    step = max(1, PIECE_BYTES // images_NHW[0].size)
    pieces = []
    for start in range(0, len(images_NHW), step):
        images_BHW = np.ascontiguousarray(images_NHW[start : start + step])
        digests = [hashlib.sha256(image).digest() for image in images_BHW]
        columns = {
            "index": np.arange(start, start + len(images_BHW)),
            "label": labels_N[start : start + step],
            **_figures(images_BHW),
            "sha256": pa.array(digests, pa.binary(32)),
        }
        pieces.append(pa.table(columns))
    return pa.concat_tables(pieces)


def _figures(images_BHW: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the columns about pixels; `std` is over an image's pixels, not a sample's.

    `ink` is the share of pixels that are not zero, `edge` the mean grey level along the four edges
    (each corner counts twice). The centre of mass and the box are in pixels from the first one. The
    box is half open, like a slice. Without ink it is empty (0, 0, 0, 0) and the centre is null.
    """
    num_images, height, width = images_BHW.shape
    num_pixels = height * width
    pixels_BP = images_BHW.reshape(num_images, num_pixels)
    floats_BP = pixels_BP.astype(np.float64)
    squares_B = np.einsum("bp,bp->b", floats_BP, floats_BP).astype(np.int64)
    rows_BH = images_BHW.sum(axis=2, dtype=np.int64)
    columns_BW = images_BHW.sum(axis=1, dtype=np.int64)
    sums_B = rows_BH.sum(axis=1)
    # The numerator of the variance in whole numbers: exactly zero for a constant image.
    spread_B = num_pixels * squares_B - sums_B * sums_B
    edge_B = rows_BH[:, 0] + rows_BH[:, -1] + columns_BW[:, 0] + columns_BW[:, -1]
    blank_B = sums_B == 0
    divisor_B = np.where(blank_B, 1, sums_B)
    inked_BH, inked_BW = rows_BH > 0, columns_BW > 0
    box = {
        "top": inked_BH.argmax(axis=1),
        "left": inked_BW.argmax(axis=1),
        "bottom": height - inked_BH[:, ::-1].argmax(axis=1),
        "right": width - inked_BW[:, ::-1].argmax(axis=1),
    }
    return {
        "mean": sums_B / num_pixels,
        "std": np.sqrt(spread_B) / num_pixels,
        "min": pixels_BP.min(axis=1),
        "max": pixels_BP.max(axis=1),
        "ink": np.count_nonzero(pixels_BP, axis=1) / num_pixels,
        "edge": edge_B / (2 * (height + width)),
        "centre_y": pa.array((rows_BH @ np.arange(height)) / divisor_B, mask=blank_B),
        "centre_x": pa.array((columns_BW @ np.arange(width)) / divisor_B, mask=blank_B),
        **{side: np.where(blank_B, 0, places_B).astype(np.int32) for side, places_B in box.items()},
    }


def picture_of(image_HW: NDArray[np.uint8]) -> str:
    """Return an image as a data: URL; of a large one, every n-th pixel."""
    from PIL import Image

    step = -(-max(image_HW.shape) // PICTURE_SIDE)
    content = io.BytesIO()
    # Not compressed, so that the bytes do not depend on the zlib in use.
    Image.fromarray(image_HW[::step, ::step].copy()).save(content, "PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def frame_of(train: pa.Table, test: pa.Table, agreement: Mapping[str, float]) -> pd.DataFrame:
    """Return both profiles as one pandas frame, with columns that depend on more than one row.

    These are `split` and its `agreement`; `class_rows`, the rows of the same class and split, and
    `class_ratio`, the rows of the largest class by those, two standard errors off; `twin`, the
    position of the first other row with the same image, or -1; `twin_labels`, the number of labels
    of that image; `leaked`, 1 for a test row whose image is also a training row, else 0.
    """
    frame: pd.DataFrame = pa.concat_tables([train, test]).to_pandas()
    frame["split"] = ["train"] * len(train) + ["test"] * len(test)
    frame["agreement"] = frame["split"].map(agreement)
    frame["class_rows"] = frame.groupby(["split", "label"])["index"].transform("size")
    largest = frame.groupby("split")["class_rows"].transform("max")
    # The standard error of the logarithm of a ratio of two counts.
    error = (1 / largest + 1 / frame["class_rows"]) ** 0.5
    frame["class_ratio"] = largest / frame["class_rows"] * np.exp(-2 * error)
    copies = frame[frame.duplicated("sha256", keep=False)].sort_values("sha256", kind="stable")
    images = copies.groupby("sha256")
    place = copies.index.to_series()
    first = place.groupby(copies["sha256"]).transform("first")
    leaks = copies["split"].eq("test") & images["split"].transform("first").eq("train")
    frame[["twin", "twin_labels", "leaked"]] = [-1, 1, 0]
    frame.loc[place, "twin"] = first.where(first != place, place.shift(-1)).astype(int)
    frame.loc[place, "twin_labels"] = images["label"].transform("nunique")
    frame.loc[place[leaks], "leaked"] = 1
    return frame


def agreements(train: Labelled, test: Labelled) -> dict[str, float]:
    """Return Cohen's kappa of the labels and the nearest class means, by split."""
    return {split: kappa(*pair) for split, pair in named_by_means(train, test).items()}


def named_by_means(
    train: Labelled, test: Labelled
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return labels (R,) and the classes (R,) of the nearest class means, by split.

    The means are those of one half of the training rows. They classify the other half and the test
    rows. Samples of up to SAMPLE_ROWS are used in place of all rows.
    """
    generator = np.random.default_rng(SEED)
    rows_N = generator.permutation(len(train[1]))
    half = len(rows_N) // 2
    # A single row is in both halves.
    images_RHW, labels_R = sample(train, rows_N[: half or 1])
    pixels_RP = images_RHW.reshape(len(labels_R), -1)
    classes_C, counts_C = np.unique(labels_R, return_counts=True)
    sums_CP = (classes_C[:, None] == labels_R).astype(np.float64) @ pixels_RP
    squares_C = (sums_CP * sums_CP).sum(axis=1) / (counts_C * counts_C)
    found = {}
    others = {"train": (train, rows_N[half:]), "test": (test, generator.permutation(len(test[1])))}
    for name, (split, split_rows) in others.items():
        images_RHW, labels_R = sample(split, split_rows)
        pixels_RP = images_RHW.reshape(len(labels_R), -1)
        # |x - sum/count|² without |x|², which is the same for each class.
        distances_RC = squares_C - 2 * (pixels_RP @ sums_CP.T) / counts_C
        found[name] = (labels_R, classes_C[distances_RC.argmin(axis=1)])
    return found


def sample(split: Labelled, rows_N: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images float64 (R, H, W) and labels int64 (R,) of the first SAMPLE_ROWS of the rows.

    Of large images, every n-th pixel is taken.
    """
    images_NHW, labels_N = split
    rows_R = np.sort(rows_N[:SAMPLE_ROWS])
    step = -(-max(images_NHW.shape[1:]) // SAMPLE_SIDE)
    images_RHW = images_NHW[:, ::step, ::step][rows_R]
    return images_RHW.astype(np.float64), labels_N[rows_R].astype(np.int64)


def kappa(labels_R: NDArray[np.int64], named_R: NDArray[np.int64]) -> float:
    """Return Cohen's kappa: 1 for equal classes, 0 for as many equal ones as by chance.

    Cohen 1960, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological
    Measurement 20:37-46.
    """
    counts, times = (np.bincount(classes, minlength=256) for classes in (labels_R, named_R))
    by_chance = float(counts @ times) / len(labels_R) ** 2
    agreed = float((labels_R == named_R).mean())
    return 1.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)
