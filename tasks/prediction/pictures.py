"""A picture in the form of the images that a model has learnt from.

MNIST's digits are light ink on a dark ground. Their ink, bilevel at first, was brought to 20 pixels
on its longer side with antialiasing, its ratio kept, and laid into 28×28 with its centre of mass at
the centre (LeCun, Bottou, Bengio and Haffner 1998, section III.A; the page of the MNIST database).

Axes: h×w pixels of a picture, H×W pixels that the model takes.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.errors import RawDataError

if TYPE_CHECKING:
    from PIL.Image import Image

# The box of the ink in the field of the image, MNIST's. Digits of other sizes (digits8x8, USPS)
# have no margin: with one, 19 of 100 photos for digits8x8 are recognised, without it 81.
BOX, FIELD = 20, 28
# Larger pictures are made this long first: time and memory are bounded, and noise is averaged.
WORKING_PX = 256
TILE_PX = 1024
# What is wider than this share of the picture is ground, however the light falls on it.
GROUND_SHARE = 1 / 3
# Ink stands out from the ground by so many grey levels, and by so many times the ground's noise.
FAINTEST, NOISE_TIMES = 16, 5
# Spots that are smaller than this share of the largest piece of ink are dirt.
SPECK_SHARE = 0.03


@dataclass(frozen=True)
class Form:
    """What a model takes: uint8 (H, W); whether its classes are the ten digits."""

    height: int
    width: int
    is_digits: bool


@dataclass(frozen=True)
class Picture:
    """A picture on its way, all uint8: as it came in grey, its ink, and what the model sees.

    `ink_hw` is None for one that was taken as it is or fitted in whole.
    """

    grey_hw: NDArray[np.uint8]
    ink_hw: NDArray[np.uint8] | None
    image_HW: NDArray[np.uint8]


def read_picture(path: Path, form: Form) -> Picture:
    """A PNG or JPEG brought to `form`: digits as MNIST's are, anything else fitted in whole.

    Grey on one channel, of the model's size and on a dark ground, it is taken as it is. Raises
    RawDataError for a file that is no intact picture, or one on which nothing is to be seen.
    """
    grey_hw, is_plain = _read_grey(path)
    if int(grey_hw.max()) - int(grey_hw.min()) < FAINTEST:
        raise _no_ink(path)
    if is_plain and grey_hw.shape == (form.height, form.width) and not on_light(grey_hw):
        return Picture(grey_hw, None, grey_hw)
    if not form.is_digits:
        return Picture(grey_hw, None, _fitted(grey_hw, form))
    ink_hw = find_ink(grey_hw)
    if not ink_hw.any():
        raise _no_ink(path)
    return Picture(grey_hw, ink_hw, centred(ink_hw, form))


def _read_grey(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """The picture as uint8 (h, w), upright, transparent parts white; whether it is plain grey."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as check:
                check.verify()
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                is_plain = picture.mode == "L" and "transparency" not in picture.info
                # A JPEG is decoded no larger than needed.
                picture.draft("L", (WORKING_PX, WORKING_PX))
                grey = _grey(picture)
                ImageOps.exif_transpose(grey, in_place=True)
                grey.thumbnail((WORKING_PX, WORKING_PX), Image.Resampling.BOX)
                return np.asarray(grey), is_plain
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise RawDataError(
            name_of(path),
            found="a picture of far too many pixels",
            expected=f"at most {Image.MAX_IMAGE_PIXELS:,}",
            remedy="Make it smaller.",
        ) from error
    except Exception as error:  # a decoder of foreign bytes has an error for every way to be wrong
        told = " ".join(str(error).replace(repr(str(path)), "it").split())
        raise RawDataError(
            name_of(path),
            found=f"a picture that cannot be read ({told or type(error).__name__})",
            expected="an intact PNG or JPEG",
            remedy="Replace or leave out this file.",
        ) from error


def _grey(picture: Image) -> Image:
    """The picture in grey, as it lies; beside the two there is one tile at a time in memory."""
    from PIL import Image

    grey = Image.new("L", picture.size)
    wide, tall = picture.size
    for left, top in product(range(0, wide, TILE_PX), range(0, tall, TILE_PX)):
        box = left, top, min(left + TILE_PX, wide), min(top + TILE_PX, tall)
        tile = picture.crop(box)
        if tile.mode.startswith("I"):
            deep_hw = np.asarray(tile).astype(np.int64) >> 8
            tile = Image.fromarray(deep_hw.clip(0, 255).astype(np.uint8))
        if tile.has_transparency_data:
            white = Image.new("RGBA", tile.size, "white")
            white.alpha_composite(tile.convert("RGBA"))
            tile = white
        grey.paste(tile.convert("L"), box)
    grey.info = picture.info
    return grey


def on_light(grey_hw: NDArray[np.uint8]) -> bool:
    """Whether the ground is light: the border lies nearer to the lightest than to the darkest."""
    border = np.concatenate([grey_hw[0], grey_hw[-1], grey_hw[:, 0], grey_hw[:, -1]])
    return bool(np.median(border) > (int(grey_hw.min()) + int(grey_hw.max())) / 2)


def find_ink(grey_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much ink there is at each pixel, 0 to 255; all 0 where none stands out from the ground.

    The ground is what a morphological opening leaves, so light may fall unevenly; the threshold is
    Otsu's, but never within the ground's noise.
    """
    from scipy import ndimage

    light_hw = (255 - grey_hw if on_light(grey_hw) else grey_hw).astype(np.float32)
    longest = max(light_hw.shape)
    light_hw = ndimage.gaussian_filter(light_hw, longest / 256)
    flat_hw = _flattened(light_hw)
    above_hw = flat_hw - ndimage.grey_opening(flat_hw, size=int(longest * GROUND_SHARE) | 1)
    ground = np.median(above_hw)
    noise = 1.4826 * np.median(np.abs(above_hw - ground))
    faintest = ground + max(FAINTEST, NOISE_TIMES * noise)
    if not (above_hw > faintest).any():
        return np.zeros_like(grey_hw)
    is_ink_hw = above_hw > max(otsu(above_hw), faintest)
    pieces_hw, _ = ndimage.label(is_ink_hw, np.ones((3, 3)))
    sizes = np.bincount(pieces_hw.ravel())
    sizes[0] = 0
    kept_hw = (sizes >= SPECK_SHARE * sizes.max())[pieces_hw]
    full = np.quantile(above_hw[kept_hw], 0.75)
    share_hw = ((above_hw - ground) / (full - ground)).clip(0, 1)
    # The soft edge of a stroke lies below the threshold and belongs to it.
    share_hw[~ndimage.binary_dilation(kept_hw, np.ones((3, 3)))] = 0
    ink_hw: NDArray[np.uint8] = (255 * share_hw).round().astype(np.uint8)
    return ink_hw


def _flattened(light_hw: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture less the light that rises or falls slowly: the quadratic surface of its ground.

    The surface is fitted to some pixels, then again without those that lie far above it.
    """
    step = max(1, max(light_hw.shape) // 32)
    y_hw, x_hw = np.indices(light_hw.shape, np.float32) / max(light_hw.shape)
    terms_hw6 = np.stack([x_hw**0, x_hw, y_hw, x_hw**2, x_hw * y_hw, y_hw**2], axis=-1)
    terms, light = terms_hw6[::step, ::step].reshape(-1, 6), light_hw[::step, ::step].ravel()
    is_ground = np.ones(len(light), bool)
    for _ in range(4):
        weights_6 = np.linalg.lstsq(terms[is_ground], light[is_ground])[0]
        above = light - terms @ weights_6
        is_ground = above <= 2 * np.median(np.abs(above))
    # Not a matrix product: for so little, threads cost ten times what they save.
    flat_hw: NDArray[np.float32] = light_hw - np.einsum("hwt,t->hw", terms_hw6, weights_6)
    return flat_hw


def otsu(values: NDArray[np.float32]) -> float:
    """The threshold between two groups of values that lie as far apart as can be: Otsu 1979."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * centres).cumsum()
    above = counts.sum() - below
    apart = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(centres[apart.argmax()])


def centred(ink_hw: NDArray[np.uint8], form: Form) -> NDArray[np.uint8]:
    """The ink in MNIST's box, its centre of mass at the centre: uint8 (H, W)."""
    from PIL import Image
    from scipy import ndimage

    is_ink_hw = ink_hw > 127
    rows, columns = (np.flatnonzero(is_ink_hw.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    tall, wide = bottom - top, right - left
    share = BOX / FIELD if (form.height, form.width) == (FIELD, FIELD) else 1
    scale = min(form.height / tall, form.width / wide) * share
    size = max(1, round(wide * scale)), max(1, round(tall * scale))
    small = Image.fromarray(ink_hw).resize(
        size, Image.Resampling.HAMMING, box=(left, top, right, bottom)
    )
    small_hw = np.asarray(small).astype(np.float32)
    # Strokes that are thinner than a pixel are faint by now; MNIST's are full.
    small_hw *= 255 / small_hw.max()
    image_HW = np.zeros((form.height, form.width), np.uint8)
    places = zip(ndimage.center_of_mass(small_hw), small_hw.shape, image_HW.shape, strict=True)
    # MNIST's centre lies at pixel 14 of 0 to 27, measured over its test images.
    y, x = (min(max(round(whole / 2 - mass), 0), whole - part) for mass, part, whole in places)
    image_HW[y : y + small_hw.shape[0], x : x + small_hw.shape[1]] = small_hw.round()
    return image_HW


def _fitted(grey_hw: NDArray[np.uint8], form: Form) -> NDArray[np.uint8]:
    """The whole picture, light on dark, as large as it fits into the middle: uint8 (H, W)."""
    from PIL import Image, ImageOps

    light = Image.fromarray(255 - grey_hw if on_light(grey_hw) else grey_hw)
    return np.asarray(ImageOps.pad(light, (form.width, form.height), Image.Resampling.HAMMING))


def name_of(path: Path) -> str:
    """The path as text; bytes of a name that are no text are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _no_ink(path: Path) -> RawDataError:
    return RawDataError(
        name_of(path),
        found="a picture on which nothing stands out from its ground",
        expected="one with something to recognise",
        remedy="Leave it out, or take it again with more light.",
    )
