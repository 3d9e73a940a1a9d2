"""Reads a picture into the form of the images that a model was trained on.

MNIST's digits are light ink on a dark ground. Their ink, bilevel at first, was scaled to 20 pixels
on its longer side with antialiasing, and placed into 28×28 with its centre of mass at the centre
(LeCun, Bottou, Bengio and Haffner 1998, section III.A; the page of the MNIST database).

Axes: h × w pixels of a picture, H × W pixels that the model takes, K digits in a picture.
"""

from __future__ import annotations

import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.raw.grey import to_grey
from tasks.runtime.errors import RawDataError

# MNIST's box of ink in its field. Digits of other sizes (digits8x8, USPS) have no margin: with one,
# 19 of 100 photos for digits8x8 are recognised, without it 81.
BOX, FIELD = 20, 28
# Larger pictures are first reduced to this size, which bounds time and memory and averages noise.
WORKING_PX = 256
# What is wider than this share of the picture is ground, even in uneven light.
GROUND_SHARE = 1 / 3
# Ink differs from the ground by this many grey levels, and by this many times the ground's noise.
FAINTEST, NOISE_TIMES = 16, 5
# Smaller spots than this share of the largest piece of ink are dirt.
SPECK_SHARE = 0.03
# Ink of less than this share of the tallest digit's height is a part of the digit beside it.
PART_SHARE = 0.5

Grey = NDArray[np.uint8]
Box = tuple[int, int, int, int]


class Form(NamedTuple):
    """The images of a model: uint8 (H, W), and whether its classes are the ten digits."""

    height: int
    width: int
    is_digits: bool


class Picture(NamedTuple):
    """A picture in grey, its ink (None if it was not looked for), and the images for the model.

    There is one image for each digit, from left to right, and its box in the picture's own pixels:
    left, top, right, bottom.
    """

    grey_hw: Grey
    ink_hw: Grey | None
    images_KHW: Grey
    boxes: tuple[Box, ...]


def read_picture(path: Path, form: Form, *, single: bool = False) -> Picture:
    """Return a PNG or JPEG in `form`: digits as in MNIST, anything else fitted as a whole.

    A picture in grey, of the model's size and on a dark ground, is used as it is. Raises
    RawDataError for a damaged picture, for one without anything on it, and if there must be a
    `single` digit, for several.
    """
    grey_hw, is_plain, scale = _read_grey(path)
    light_hw = _light_on_dark(grey_hw)
    whole: Box = (0, 0, round(grey_hw.shape[1] * scale), round(grey_hw.shape[0] * scale))
    if int(grey_hw.max()) - int(grey_hw.min()) >= FAINTEST:
        if is_plain and light_hw is grey_hw and grey_hw.shape == form[:2]:
            return Picture(grey_hw, None, grey_hw[np.newaxis], (whole,))
        if not form.is_digits:
            size, light = (form.width, form.height), Image.fromarray(light_hw)
            fitted = ImageOps.pad(light, size, Image.Resampling.HAMMING)
            return Picture(grey_hw, None, np.asarray(fitted)[np.newaxis], (whole,))
        ink_hw = find_ink(grey_hw)
        if ink_hw.any():
            digits = digits_in(ink_hw)
            if single and len(digits) > 1:
                raise unfit(path, f"a picture of {len(digits)} digits", "one")
            # Between two digits the picture is cut in the middle.
            cuts = [(a[2] + b[0]) // 2 for a, b in pairwise(digits)]
            images = [centred(part_hw, form) for part_hw in np.split(ink_hw, cuts, axis=1)]
            scaled = (np.array(digits) * scale).round().astype(int).tolist()
            return Picture(grey_hw, ink_hw, np.stack(images), tuple(map(tuple, scaled)))
    found = "a picture on which nothing stands out from its ground"
    raise unfit(path, found, "something to recognise")


def _read_grey(path: Path) -> tuple[Grey, bool, float]:
    """Return the picture, upright, transparent parts white, and how it was read.

    That is whether its file is plain grey, and how many of its pixels one pixel here is wide.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as check:
                check.verify()
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                is_plain = picture.mode == "L" and "transparency" not in picture.info
                longest = max(picture.size)
                # A JPEG is decoded no larger than needed.
                picture.draft("L", (WORKING_PX, WORKING_PX))
                grey = to_grey(picture)
                grey.thumbnail((WORKING_PX, WORKING_PX), Image.Resampling.BOX)
                return np.asarray(grey), is_plain, longest / max(grey.size)
    except Exception as error:  # a decoder raises many kinds of errors for foreign bytes
        detail = " ".join(str(error).replace(repr(str(path)), "it").split())
        found = f"a picture that cannot be read ({detail or type(error).__name__})"
        raise unfit(path, found, "an intact PNG or JPEG that is not too large") from error


def digits_in(ink_hw: Grey) -> list[Box]:
    """Return the boxes of the digits, from left to right.

    Pieces of ink one above the other are one digit, and low ones are parts of the nearest.
    """
    from scipy import ndimage

    pieces_hw, _ = ndimage.label(ink_hw > 127, np.ones((3, 3)))
    slices = ndimage.find_objects(pieces_hw)
    boxes = sorted((x.start, y.start, x.stop, y.stop) for y, x in slices)
    digits: list[Box] = []
    for box in boxes:
        if digits and box[0] < digits[-1][2]:
            digits[-1] = _around(digits[-1], box)
        else:
            digits.append(box)
    while len(digits) > 1:
        heights = [bottom - top for _, top, _, bottom in digits]
        low = int(np.argmin(heights))
        if heights[low] >= PART_SHARE * max(heights):
            break
        left, right = digits[low][0], digits[low][2]
        gaps = [max(left - b[2], b[0] - right) if b is not digits[low] else np.inf for b in digits]
        near = int(np.argmin(gaps))
        digits[near] = _around(digits[near], digits[low])
        del digits[low]
    return digits


def _around(one: Box, other: Box) -> Box:
    """Return the box around two boxes."""
    left, top, right, bottom = zip(one, other, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _light_on_dark(grey_hw: Grey) -> Grey:
    """Return the picture itself, or inverted if its border is nearer to the lightest level."""
    border = np.concatenate([grey_hw[0], grey_hw[-1], grey_hw[:, 0], grey_hw[:, -1]])
    is_on_light = np.median(border) > (int(grey_hw.min()) + int(grey_hw.max())) / 2
    return 255 - grey_hw if is_on_light else grey_hw


def find_ink(grey_hw: Grey) -> Grey:
    """Return the ink at each pixel, 0 to 255: all 0 if none differs from the ground.

    The ground is estimated by a morphological opening, so light may be uneven. The threshold is
    Otsu's, but never within the ground's noise.
    """
    from scipy import ndimage

    light_hw = _light_on_dark(grey_hw).astype(np.float32)
    longest = max(light_hw.shape)
    flat_hw = _flattened(ndimage.gaussian_filter(light_hw, longest / 256))
    above_hw = flat_hw - ndimage.grey_opening(flat_hw, size=int(longest * GROUND_SHARE) | 1)
    ground = np.median(above_hw)
    noise = 1.4826 * np.median(np.abs(above_hw - ground))
    faintest = ground + max(FAINTEST, NOISE_TIMES * noise)
    if not (above_hw > faintest).any():
        return np.zeros_like(grey_hw)
    is_ink_hw = above_hw > max(_otsu(above_hw), faintest)
    pieces_hw, _ = ndimage.label(is_ink_hw, np.ones((3, 3)))
    sizes = np.bincount(pieces_hw.ravel())
    sizes[0] = 0
    kept_hw = (sizes >= SPECK_SHARE * sizes.max())[pieces_hw]
    full = np.quantile(above_hw[kept_hw], 0.75)
    share_hw = ((above_hw - ground) / (full - ground)).clip(0, 1)
    # A stroke's soft edge is below the threshold and belongs to the stroke.
    share_hw[~ndimage.binary_dilation(kept_hw, np.ones((3, 3)))] = 0
    return np.asarray((255 * share_hw).round(), np.uint8)


def _flattened(light_hw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture minus slow changes of light: a quadratic surface through its ground."""
    step = max(1, max(light_hw.shape) // 32)
    y_hw, x_hw = np.indices(light_hw.shape, np.float32) / max(light_hw.shape)
    terms_hw6 = np.stack([x_hw**0, x_hw, y_hw, x_hw**2, x_hw * y_hw, y_hw**2], axis=-1)
    terms, light = terms_hw6[::step, ::step].reshape(-1, 6), light_hw[::step, ::step].ravel()
    is_ground = np.ones(len(light), bool)
    for _ in range(4):
        weights_6 = np.linalg.lstsq(terms[is_ground], light[is_ground])[0]
        above = light - terms @ weights_6
        is_ground = above <= 2 * np.median(np.abs(above))
    # A matrix product's threads would cost ten times what they save on so little.
    return np.asarray(light_hw - np.einsum("hwt,t->hw", terms_hw6, weights_6))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold that separates two groups of values best (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * centres).cumsum()
    above = counts.sum() - below
    apart = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(centres[apart.argmax()])


def centred(ink_hw: Grey, form: Form) -> Grey:
    """Return the ink in MNIST's box, its centre of mass at the centre: uint8 (H, W)."""
    from scipy import ndimage

    rows, columns = (np.flatnonzero((ink_hw > 127).any(axis=axis)) for axis in (1, 0))
    box = left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    scale = min(form.height / (bottom - top), form.width / (right - left))
    scale *= BOX / FIELD if form[:2] == (FIELD, FIELD) else 1
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    small = Image.fromarray(ink_hw).resize(size, Image.Resampling.HAMMING, box)
    small_hw = np.asarray(small).astype(np.float32)
    # Strokes thinner than a pixel are faint now; MNIST's are not.
    small_hw *= 255 / small_hw.max()
    image_HW = np.zeros(form[:2], np.uint8)
    places = zip(ndimage.center_of_mass(small_hw), small_hw.shape, image_HW.shape, strict=True)
    # MNIST's centre is at pixel 14 of 0 to 27, measured on its test images.
    y, x = (min(max(round(whole / 2 - mass), 0), whole - part) for mass, part, whole in places)
    image_HW[y : y + small_hw.shape[0], x : x + small_hw.shape[1]] = small_hw.round()
    return image_HW


def path_text(path: Path) -> str:
    """Return the path as text. Bytes of a name that are not UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")


def unfit(path: Path, found: str, expected: str) -> RawDataError:
    """Return the error about a file or a folder that cannot be read as images."""
    remedy = "Check the path, or replace or leave out this file."
    return RawDataError(path_text(path), found=found, expected=expected, remedy=remedy)
