"""The ONNX model of a bundle, held against its manifest and asked through onnxruntime alone.

Axes: B images of a batch, H×W pixels, C classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_config.base import given_path
from pipeline_config.settings import settings
from tasks.bundle.contents import ONNX, inspect_bundle
from tasks.prediction.pictures import Form
from tasks.release.versions import find_bundle
from tasks.runtime.errors import ReleaseError
from tasks.runtime.manifest import MANIFEST

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Classifier:
    """A model that is ready to answer; `title` is what a person calls it: DATASET/VERSION."""

    path: Path
    title: str
    form: Form
    class_names: tuple[str, ...]
    session: Any

    def probabilities(self, images_BHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities (B, C); raises ReleaseError where the model gives no numbers."""
        found_BC: NDArray[np.float32]
        (found_BC,) = self.session.run(["probabilities"], {"images": images_BHW})
        if not np.isfinite(found_BC).all():
            raise _fault(self.path, "a model whose answers are not numbers", "probabilities")
        return found_BC


def load_classifier(model: str, dataset: str | None) -> Classifier:
    """The model of a bundle as `find_bundle` knows them, or of a single .onnx file.

    Raises ReleaseError where there is none, where it is damaged, or not one that publish wrote.
    """
    path = given_path(model)
    is_bundle = path.suffix != ".onnx"
    if is_bundle:
        path = find_bundle(model, dataset) / ONNX
    if is_bundle or (path.parent / MANIFEST).is_file():
        _refuse_damage(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _fault(path, f"no readable file ({error.strerror})", "an ONNX model") from error
    return _classifier(_session(content, path), path)


def _refuse_damage(path: Path) -> None:
    """Raise ReleaseError unless the manifest beside the model is whole and says what it is."""
    manifest, damage = inspect_bundle(path.parent)
    if manifest is not None:
        damage = [line for line in damage if line.partition(":")[0] in (MANIFEST, path.name)]
    if damage:
        raise _fault(path, "; ".join(damage), "the model that its manifest describes")


def _session(content: bytes, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings().threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, with no parent of their own
        told = " ".join(str(error).split())[:200]
        raise _fault(path, f"what onnxruntime cannot load ({told})", "an ONNX model") from error


def _classifier(session: Any, path: Path) -> Classifier:
    """The session with what its model says of itself; raises ReleaseError for a foreign model."""
    values = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    try:
        texts = session.get_modelmeta().custom_metadata_map
        words = {name: json.loads(text) for name, text in texts.items()}
        _, height, width = values["images"].shape
        _, num_classes = values["probabilities"].shape
        class_names = tuple(words["class_names"])
        kinds = values["images"].type, type(height), type(width), len(class_names)
        if kinds != ("tensor(uint8)", int, int, num_classes):
            raise ValueError(f"images {values['images'].type} {values['images'].shape}")
    except (KeyError, ValueError, TypeError) as error:
        raise _fault(
            path,
            f"another kind of ONNX model ({' '.join(str(error).split())})",
            "images uint8 (B, H, W) in, probabilities (B, C) out, and class_names",
        ) from error
    return Classifier(
        path=path,
        title=f"{words.get('dataset', path.name)}/{words.get('version', '')}".rstrip("/"),
        form=Form(height, width, is_digits=class_names == DIGITS),
        class_names=class_names,
        session=session,
    )


def _fault(path: Path, found: str, expected: str) -> ReleaseError:
    return ReleaseError(
        str(path),
        found=found,
        expected=expected,
        remedy="Take another model (`idxflow models`), or publish this one again.",
    )
