"""A published model that answers: a class, no class where it is unsure, or a rejection.

Axes: B images of a batch of H×W pixels P, C classes, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.sections import given_path
from pipeline_config.settings import settings
from tasks.evaluation.likeness import strangeness
from tasks.prediction.inputs import ImageBatch
from tasks.prediction.pictures import Box, Form
from tasks.release.bundle import LIKENESS, ONNX, intact_bundle
from tasks.release.onnx_model import (
    MAX_MODEL_BYTES,
    OUTPUTS,
    OnnxModel,
    read_model,
    unusable_model,
)
from tasks.release.registry import find_bundle
from tasks.runtime.manifest import MANIFEST, read_regular

DIGIT_NAMES = tuple("0123456789")
# The columns of the answers, with their Arrow types. `class` is null where there is a reason.
COLUMNS = {"source": "string", "index": "int64", "class": "string", "best": "string"}
COLUMNS |= {"probability": "float64", "abstained": "bool", "rejected": "bool"}
COLUMNS |= {"reason": "string", "box": "list"}

Answers = list[dict[str, Any]]
Floats = NDArray[np.float32]
# The file of an image, its index in it, and its box in a picture.
Place = tuple[str, int, Box | None]


class Classifier(NamedTuple):
    """A loaded model. `title` is DATASET/VERSION, or the name of its file; `bundle` a folder.

    With `likeness` it rejects what is not like the training images.
    """

    title: str
    bundle: Path | None
    form: Form
    class_names: tuple[str, ...]
    model: OnnxModel
    likeness: dict[str, NDArray[Any]] | None = None

    def outputs(self, images_BHW: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return the probabilities (B, C), and how strange each image is (B,): above 1, rejected.

        Without `likeness` nothing is strange.
        """
        if self.likeness is None:
            return self.model.probabilities(images_BHW), np.zeros(len(images_BHW), np.float32)
        likely_BC, logits_BC, features_BF = self.model.outputs(images_BHW, OUTPUTS)
        images_BP = images_BHW.reshape(len(images_BHW), -1)
        return likely_BC, strangeness(self.likeness, images_BP, features_BF, logits_BC)

    def answers(
        self, batch: ImageBatch, likely_BC: Floats, strange_B: Floats, at_least: float
    ) -> Answers:
        """Return one answer for each image, by its probabilities and its strangeness."""
        best_B, confidence_B = likely_BC.argmax(axis=1), likely_BC.max(axis=1)
        boxes: Iterable[Box | None] = batch.boxes or repeat(None, len(best_B))
        places = zip(batch.sources, batch.index_B.tolist(), boxes, strict=True)
        rows = zip(places, best_B, confidence_B.tolist(), strange_B.tolist(), strict=True)
        return [
            self._answer(place, self.class_names[best], confidence, strange, at_least)
            for place, best, confidence, strange in rows
        ]

    def _answer(
        self, place: Place, best: str, confidence: float, strange: float, at_least: float
    ) -> dict[str, Any]:
        rejected, reason = strange > 1, None
        abstained = not rejected and confidence < at_least
        if rejected:
            reason = f"not like the training images: {strange:.2f}, at most 1 is"
        elif abstained:
            reason = f"unsure: {confidence:.3f} is below {at_least:g}"
        known = None if rejected or abstained else best
        values = (known, best, round(confidence, 6), abstained, rejected, reason)
        source, index, box = place
        return dict(zip(COLUMNS, (source, index, *values, box), strict=True))


def load_classifier(model: str, dataset: str | None) -> Classifier:
    """Return the model that `find_bundle` finds, or of an .onnx file. Raises ReleaseError."""
    path = given_path(model)
    is_bundle, made = path.suffix != ".onnx", None
    if is_bundle:
        path = find_bundle(model, dataset) / ONNX
    if is_bundle or (path.parent / MANIFEST).is_file():
        made = intact_bundle(path.parent, path.name, LIKENESS)
    try:
        content = read_regular(path.resolve(), MAX_MODEL_BYTES)
    except OSError as error:
        raise unusable_model(str(path), f"no readable file ({error.strerror})") from error
    found = read_model(content, str(path), settings().threads)
    words, names = found.words, found.words.get("class_names")
    texts = tuple(names) if isinstance(names, list) else ()
    are_texts = all(isinstance(name, str) for name in texts)
    if not are_texts or not len(texts) == len(set(texts)) == found.num_classes:
        raise unusable_model(str(path), f"{found.num_classes} classes, called {str(names)[:200]}")
    title = f"{words.get('dataset', path.name)}/{words.get('version', '')}".rstrip("/")
    form = Form(*found.image_shape, is_digits=texts == DIGIT_NAMES)
    has_likeness = made is not None and LIKENESS in made.files
    likeness = _read_likeness(path.parent / LIKENESS, found) if has_likeness else None
    return Classifier(title, path.parent if is_bundle else None, form, texts, found, likeness)


def _read_likeness(path: Path, model: OnnxModel) -> dict[str, NDArray[Any]]:
    """Return the arrays of a bundle's likeness. Raises ReleaseError unless they fit the model."""
    from safetensors.numpy import load

    try:
        arrays = load(read_regular(path, MAX_MODEL_BYTES))
        shapes = {name: arrays[name].shape for name in ("components", "whitening", "classes")}
        num_pixels, (_, num_features) = math.prod(model.image_shape), shapes["whitening"]
        fits = [shapes["components"][1:], arrays["mean"].shape, shapes["classes"][1:]]
        wanted = [(num_pixels,), (num_pixels,), (num_features,)]
        if fits != wanted or arrays["scales"].shape != (2, 3) or num_features != model.num_features:
            raise ValueError(f"{shapes}")
    except Exception as error:  # safetensors has its own errors for foreign bytes
        raise unusable_model(str(path), f"arrays that do not fit the model ({error})") from error
    return arrays
