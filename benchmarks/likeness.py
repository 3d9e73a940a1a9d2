"""Which images `predict` rejects as unlike the training images, with a published model of MNIST.

    python benchmarks/likeness.py mnist=FOLDER fashion-mnist=FOLDER

The model is the champion of MNIST in the root. Of each kind of other images 2,000 are asked: how
well they are told from MNIST's test rows (AUROC of the strangeness), which share is rejected, and
which would be rejected by a threshold of 0.9 on the probability alone.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from tasks.prediction.classifier import load_classifier
from tasks.raw.idx import read_idx

NUM, SIDE = 2000, 28


def read(folder: str, name: str) -> np.ndarray:
    """Return the images of an IDX file, raw or gzip."""
    path = Path(folder, name)
    if path.is_file():
        return read_idx(path)
    content = gzip.decompress(path.with_name(f"{name}.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, SIDE, SIDE)


def others(digits: np.ndarray, clothes: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the kinds of other images, uint8 (NUM, 28, 28)."""
    chance = np.random.default_rng(0)
    yield "Fashion-MNIST", clothes[:NUM]
    yield "noise", chance.integers(0, 256, (NUM, SIDE, SIDE)).astype(np.uint8)
    yield "specks", np.where(chance.random((NUM, SIDE, SIDE)) < 0.15, 255, 0).astype(np.uint8)
    paper = np.zeros((NUM, SIDE, SIDE), np.uint8)
    for page in paper:
        step, level = chance.integers(3, 9), chance.integers(60, 256)
        page[chance.integers(step) :: step], page[:, chance.integers(step) :: step] = level, level
    yield "squared paper", paper
    smooth = ndimage.gaussian_filter(chance.normal(size=(NUM, SIDE, SIDE)), (0, 2, 2))
    yield "blobs", ((smooth / smooth.std() - 1) * 200).clip(0, 255).astype(np.uint8)
    yield "inverted digits", 255 - digits[:NUM]
    pairs = np.concatenate([digits[:NUM], digits[NUM : 2 * NUM]], axis=2)
    halves = pairs.reshape(NUM, SIDE, SIDE, 2).mean(axis=3).astype(np.uint8)
    yield "two digits in one, squeezed", halves
    yield "digits upside down", digits[:NUM, ::-1, ::-1]
    yield "mirrored digits", digits[:NUM, :, ::-1]


def main() -> None:
    """Print the table."""
    folders = dict(word.split("=", 1) for word in sys.argv[1:])
    digits = read(folders["mnist"], "t10k-images-idx3-ubyte")
    clothes = read(folders["fashion-mnist"], "t10k-images-idx3-ubyte")
    classifier = load_classifier("champion", "mnist")
    _, usual_N = classifier.outputs(digits)
    print(f"{classifier.title}: {(usual_N > 1).mean():.2%} of MNIST's test rows are rejected")
    print("| images | AUROC | rejected | below 0.9 by probability alone |\n|---|---|---|---|")
    for name, images in others(digits, clothes):
        likely_NC, strange_N = classifier.outputs(np.ascontiguousarray(images))
        is_other = np.repeat([0, 1], [len(usual_N), len(strange_N)])
        area = roc_auc_score(is_other, np.concatenate([usual_N, strange_N]))
        unsure = (likely_NC.max(axis=1) < 0.9).mean()
        print(f"| {name} | {area:.3f} | {(strange_N > 1).mean():.1%} | {unsure:.1%} |")


if __name__ == "__main__":
    main()
