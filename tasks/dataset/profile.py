"""The profile: one row an image, small enough to judge a whole data set by.

Axes: N images, H rows of pixels from the top, W columns from the left. Every sum is one of whole
numbers below 2**53, so that the figures are the same bits on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

# Rows a batch, and pixels at a time: some 60 MB of working memory at 28×28, however many there are.
BATCH = 4096
PIECE_BYTES = BATCH * 28 * 28

# `ink` is the share of pixels that are not zero, `edge` the mean grey level along the four edges
# (where they meet, a corner counts for both). The box is half open, like a slice, and empty
# (0, 0, 0, 0) where there is no ink; the centre of mass is null there.
COLUMNS = (
    ("index", pa.int64()),
    ("label", pa.uint8()),
    ("mean", pa.float64()),
    ("std", pa.float64()),
    ("min", pa.uint8()),
    ("max", pa.uint8()),
    ("ink", pa.float64()),
    ("edge", pa.float64()),
    ("centre_y", pa.float64()),
    ("centre_x", pa.float64()),
    ("top", pa.int32()),
    ("left", pa.int32()),
    ("bottom", pa.int32()),
    ("right", pa.int32()),
    ("sha256", pa.binary(32)),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, kind in COLUMNS])


def profile_batches(
    images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8], batch: int = BATCH
) -> Iterator[pa.RecordBatch]:
    """The profile in pieces of `batch` rows: columns as in `COLUMNS`, in the order of the rows.

    Of the images no more than PIECE_BYTES, or one, is in memory at a time.
    """
    for start in range(0, len(images_NHW), batch):
        stop, step = min(start + batch, len(images_NHW)), max(1, PIECE_BYTES // images_NHW[0].size)
        pieces = [slice(first, min(first + step, stop)) for first in range(start, stop, step)]
        yield pa.concat_batches(
            [_profile(images_NHW[rows], labels_N[rows], rows.start) for rows in pieces]
        )


def _profile(
    images_BHW: NDArray[np.uint8], labels_B: NDArray[np.uint8], start: int
) -> pa.RecordBatch:
    images_BHW = np.ascontiguousarray(images_BHW)
    columns = {
        "index": np.arange(start, start + len(images_BHW)),
        "label": np.asarray(labels_B),
        **_levels(images_BHW),
        **_places(images_BHW),
        "sha256": [hashlib.sha256(image).digest() for image in images_BHW],
    }
    arrays = [pa.array(columns[field.name], type=field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _levels(images_BHW: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Mean, std (over the image's pixels), min, max of the grey levels 0..255."""
    pixels_BP = images_BHW.reshape(len(images_BHW), -1)
    num_pixels = pixels_BP.shape[1]
    floats_BP = pixels_BP.astype(np.float64)
    sums_B = floats_BP.sum(axis=1).astype(np.int64)
    squares_B = np.einsum("bp,bp->b", floats_BP, floats_BP).astype(np.int64)
    # The numerator of the variance in whole numbers: exactly zero for a constant image.
    spread_B = num_pixels * squares_B - sums_B * sums_B
    return {
        "mean": sums_B / num_pixels,
        "std": np.sqrt(spread_B) / num_pixels,
        "min": pixels_BP.min(axis=1),
        "max": pixels_BP.max(axis=1),
    }


def _places(images_BHW: NDArray[np.uint8]) -> dict[str, Any]:
    """Ink, edge, centre of mass in pixels from the first one, bounding box of what is not zero."""
    _, height, width = images_BHW.shape
    rows_BH = images_BHW.sum(axis=2, dtype=np.int64)
    columns_BW = images_BHW.sum(axis=1, dtype=np.int64)
    mass_B = rows_BH.sum(axis=1)
    blank_B = mass_B == 0
    divisor_B = np.where(blank_B, 1, mass_B)
    inked_BH, inked_BW = rows_BH > 0, columns_BW > 0
    box = {
        "top": inked_BH.argmax(axis=1),
        "left": inked_BW.argmax(axis=1),
        "bottom": height - inked_BH[:, ::-1].argmax(axis=1),
        "right": width - inked_BW[:, ::-1].argmax(axis=1),
    }
    edge_B = rows_BH[:, 0] + rows_BH[:, -1] + columns_BW[:, 0] + columns_BW[:, -1]
    return {
        "edge": edge_B / (2 * (height + width)),
        "ink": np.count_nonzero(images_BHW, axis=(1, 2)) / (height * width),
        "centre_y": pa.array((rows_BH @ np.arange(height)) / divisor_B, mask=blank_B),
        "centre_x": pa.array((columns_BW @ np.arange(width)) / divisor_B, mask=blank_B),
        **{side: np.where(blank_B, 0, edge_B) for side, edge_B in box.items()},
    }


def frame_of(train: pa.Table, test: pa.Table) -> pd.DataFrame:
    """Both profiles in one pandas frame, with what takes more than one row to see.

    Adds `split`; `class_rows` and `class_ratio` (the rows of its class in its split, and how many
    times as many the largest class has); `twin` (the place of the first other row with the same
    image, or -1); `twin_labels` (how many labels that image bears); `leaked` (1 for a test row
    whose image is also a training row, else 0).
    """
    frame: pd.DataFrame = pa.concat_tables([train, test]).to_pandas()
    frame["split"] = ["train"] * len(train) + ["test"] * len(test)
    frame["class_rows"] = frame.groupby(["split", "label"])["index"].transform("size")
    frame["class_ratio"] = (
        frame.groupby("split")["class_rows"].transform("max") / frame["class_rows"]
    )
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
