"""A model that knows ten drawn digits by heart, in a bundle, and pictures of those digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tasks.prediction.classifier import DIGIT_NAMES
from tasks.prediction.pictures import Form, centred, find_ink
from tasks.release.bundle import ONNX, BundleManifest, Determinants, bundle_folder
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import MANIFEST, FileEntry

MNIST = Form(28, 28, is_digits=True)
Draw = Callable[..., Image.Image]
MakeBundle = Callable[..., Path]


def drawn(text: str, size: int = 300, share: float = 0.6, ink: int = 20, paper: int = 230):
    """A grey picture of `size`² pixels with `text` in its middle, `share` of it high."""
    picture = Image.new("L", (size, size), paper)
    font = ImageFont.load_default(size * share * 1.35)
    ImageDraw.Draw(picture).text((size / 2, size / 2), text, ink, font, anchor="mm")
    return picture


@pytest.fixture(scope="session")
def draw() -> Draw:
    return drawn


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The ten digits in MNIST's form, uint8 (10, 28, 28)."""
    return np.stack([centred(find_ink(np.asarray(drawn(text))), MNIST) for text in DIGIT_NAMES])


def onnx_of(templates_CHW: np.ndarray, words: dict[str, object]) -> bytes:
    """A model that gives the class whose template is the nearest, surer the nearer it is."""
    import torch
    from torch import nn

    from tasks.model.network import Normalize
    from tasks.release.onnx_export import onnx_bytes

    classes, height, width = templates_CHW.shape
    # Blurred, since a picture's centre may be rounded to the next pixel.
    blurred_CHW = ndimage.gaussian_filter(templates_CHW / 255.0, (0, height / 20, width / 20))
    rows_CD = blurred_CHW.reshape(classes, -1)
    linear = nn.Linear(height * width, classes)
    # The squared distance, negative, less what all classes have in common.
    linear.weight.data = torch.tensor(2 * rows_CD, dtype=torch.float32)
    linear.bias.data = torch.tensor(-(rows_CD**2).sum(axis=1), dtype=torch.float32)
    network = nn.Sequential(Normalize(0.0, 255.0), linear)
    return onnx_bytes(network, (height, width), classes, words)


@pytest.fixture(scope="session")
def digits_onnx(digits: np.ndarray) -> bytes:
    return onnx_of(digits, {"class_names": list(DIGIT_NAMES), "dataset": "mnist", "version": "v1"})


@pytest.fixture
def make_bundle(digits_onnx: bytes) -> MakeBundle:
    """`make_bundle(dataset=…, weights=…)` → the folder of a bundle with little but its model."""

    def make(dataset: str = "mnist", weights: bytes = b"weights") -> Path:
        contents = {"model.safetensors": weights, "metrics.json": b"{}", ONNX: digits_onnx}
        files = {
            name: FileEntry(sha256=sha256_bytes(content), num_bytes=len(content))
            for name, content in contents.items()
        }
        determinants = Determinants(
            model=files["model.safetensors"].sha256,
            metrics=files["metrics.json"].sha256,
            recipe="",
            data={},
        )
        manifest = BundleManifest.of(
            determinants, dataset=dataset, recipe="fast", provenance={}, files=files
        )
        folder = bundle_folder(dataset, manifest.version)
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_bytes(manifest.content())
        return folder

    return make
