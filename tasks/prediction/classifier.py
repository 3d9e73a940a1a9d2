"""The ONNX model of a bundle, held against its manifest, with its classes and its form."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_config.sections import given_path
from pipeline_config.settings import settings
from tasks.prediction.pictures import Form
from tasks.release.bundle import ONNX, intact_bundle
from tasks.release.onnx_model import MAX_BYTES, OnnxModel, read_model, unusable_model
from tasks.release.versions import find_bundle
from tasks.runtime.manifest import MANIFEST, read_regular

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Classifier:
    """A model that is ready to answer; `title` is what a person calls it: DATASET/VERSION."""

    title: str
    form: Form
    class_names: tuple[str, ...]
    model: OnnxModel


def load_classifier(model: str, dataset: str | None) -> Classifier:
    """The model of a bundle as `find_bundle` knows them, or of a single .onnx file.

    Raises ReleaseError where there is none, where it is damaged, or not one that publish wrote.
    """
    path = given_path(model)
    is_bundle = path.suffix != ".onnx"
    if is_bundle:
        path = find_bundle(model, dataset) / ONNX
    if is_bundle or (path.parent / MANIFEST).is_file():
        intact_bundle(path.parent, path.name)
    try:
        content = read_regular(path.resolve(), MAX_BYTES)
    except OSError as error:
        raise unusable_model(str(path), f"no readable file ({error.strerror})") from error
    found = read_model(content, str(path), settings().threads)
    words, told = found.words, found.words.get("class_names")
    names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    if told != names or not len(names) == len(set(names)) == found.num_classes:
        raise unusable_model(str(path), f"{found.num_classes} classes, called {str(told)[:200]}")
    return Classifier(
        title=f"{words.get('dataset', path.name)}/{words.get('version', '')}".rstrip("/"),
        form=Form(*found.image_shape, is_digits=tuple(names) == DIGITS),
        class_names=tuple(names),
        model=found,
    )
