"""How accurate a network is on validation rows that are changed, in eight ways at four strengths.

Validation rows, so that the test rows are not looked at 32 times more. The same rows and the same
random numbers for every model: two versions can be compared.

Axes: N images of H×W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# At most this many rows are changed.
NUM_ROWS = 1000

Images = NDArray[np.uint8]
Change = Callable[[NDArray[np.float32], float, np.random.Generator], NDArray[Any]]


def _shift(images_NHW: NDArray[np.float32], share: float, chance: np.random.Generator) -> Any:
    from scipy import ndimage

    move = share * images_NHW.shape[1] / np.sqrt(2)
    signs_N2 = chance.choice((-1, 1), (len(images_NHW), 2))
    moved = np.empty_like(images_NHW)
    for signs in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        rows = (signs_N2 == signs).all(axis=1)
        moved[rows] = ndimage.shift(
            images_NHW[rows], (0, move * signs[0], move * signs[1]), order=1
        )
    return moved


def _rotation(images_NHW: NDArray[np.float32], degrees: float, chance: np.random.Generator) -> Any:
    from scipy import ndimage

    turned, is_left = np.empty_like(images_NHW), chance.random(len(images_NHW)) < 0.5
    for rows, angle in ((is_left, degrees), (~is_left, -degrees)):
        turned[rows] = ndimage.rotate(images_NHW[rows], angle, (1, 2), reshape=False, order=1)
    return turned


def _size(images_NHW: NDArray[np.float32], factor: float, chance: np.random.Generator) -> Any:
    from scipy import ndimage

    centre = (np.array(images_NHW.shape[1:]) - 1) / 2
    offset = (0, *(centre - centre / factor))
    return ndimage.affine_transform(images_NHW, (1, 1 / factor, 1 / factor), offset=offset, order=1)


def _stroke(images_NHW: NDArray[np.float32], pixels: float, chance: np.random.Generator) -> Any:
    from scipy import ndimage

    change = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    return change(images_NHW, (1, abs(int(pixels)) + 1, abs(int(pixels)) + 1))


def _contrast(images_NHW: NDArray[np.float32], factor: float, chance: np.random.Generator) -> Any:
    return images_NHW * factor


def _noise(images_NHW: NDArray[np.float32], share: float, chance: np.random.Generator) -> Any:
    return images_NHW + 255 * share * chance.standard_normal(images_NHW.shape, np.float32)


def _blur(images_NHW: NDArray[np.float32], share: float, chance: np.random.Generator) -> Any:
    from scipy import ndimage

    sigma = share * images_NHW.shape[1]
    return ndimage.gaussian_filter(images_NHW, (0, sigma, sigma))


def _occlusion(images_NHW: NDArray[np.float32], share: float, chance: np.random.Generator) -> Any:
    covered, sizes = images_NHW.copy(), np.array(images_NHW.shape[1:])
    sides = np.rint(sizes * share).astype(int)
    for image, (top, left) in zip(
        covered, chance.integers(0, sizes - sides + 1, (len(covered), 2)), strict=True
    ):
        image[top : top + sides[0], left : left + sides[1]] = 0
    return covered


# The changes, with the unit of their strengths and the four strengths. Lengths are in percent of
# the height of an image.
CHANGES: dict[str, tuple[Change, str, tuple[float, ...]]] = {
    "shift": (_shift, "% of the side", (4, 7, 11, 14)),
    "rotation": (_rotation, "degrees", (10, 20, 30, 40)),
    "size": (_size, "% of the size", (90, 80, 70, 60)),
    "stroke width": (_stroke, "pixels more", (-2, -1, 1, 2)),
    "contrast": (_contrast, "% left", (75, 50, 25, 10)),
    "noise": (_noise, "% of white, deviation", (10, 20, 30, 40)),
    "blur": (_blur, "% of the side, deviation", (2, 4, 6, 8)),
    "occlusion": (_occlusion, "% of the side, a square", (20, 30, 40, 50)),
}


def changed(images_NHW: Images) -> Iterator[tuple[str, float, Images]]:
    """Yield each change, its strength, and the changed images."""
    floats_NHW = images_NHW.astype(np.float32)
    for name, (change, unit, strengths) in CHANGES.items():
        for strength in strengths:
            scaled = strength / 100 if unit.startswith("%") else strength
            found = change(floats_NHW, scaled, np.random.default_rng(0))
            yield name, strength, np.rint(found).clip(0, 255).astype(np.uint8)


def robustness(
    predict: Callable[[Images], NDArray[np.int64]], images_NHW: Images, labels_N: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return the accuracy on unchanged images, and for each change and strength.

    `predict` gives the classes (N,) of images.
    """
    rows = [{"change": "none", "strength": 0.0, "accuracy": _share(predict(images_NHW), labels_N)}]
    for name, strength, images in changed(images_NHW):
        accuracy = _share(predict(images), labels_N)
        rows.append({"change": name, "strength": float(strength), "accuracy": accuracy})
    return rows


def _share(answers_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    return float((answers_N == labels_N).mean())
