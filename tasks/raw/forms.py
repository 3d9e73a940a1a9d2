"""Labelled images in the forms that people have them in, each as arrays.

IDX files, also under EMNIST's names, NPZ, CSV, a folder of pictures for each class (torchvision's
ImageFolder), a Parquet file of Hugging Face's `datasets`, and a zip with any of these.

Axes: N rows, images of H×W pixels.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import FILES, RawFile
from tasks.raw.folder import folder_files, members
from tasks.raw.idx import SPLITS, Array, read_idx
from tasks.raw.receive import MAX_BYTES, UNREADABLE, chunks_of, damaged, open_file, receive, save
from tasks.raw.tables import from_labelled, read_csv, read_npz
from tasks.runtime.errors import RawDataError

IDX = re.compile(r"(.*?)(images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?", re.I)
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SPLIT_OF = re.compile(r"(?<![a-z])(train|test|t10k)(?![a-z])", re.I)
MAX_PIXELS = 2**24  # of one picture
Size = tuple[int, int]


class Part(NamedTuple):
    """Labelled rows of one split; `class_names` where the files have them."""

    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    class_names: tuple[str, ...] | None


def read_parts(path: Path, scratch: Path, size: Size | None = None) -> dict[str, Part]:
    """Return the parts `train` and `test` of files, or the part `all`.

    Pictures are turned to grey, and scaled to `size` (height, width) if given. Raises RawDataError
    for what is none of the forms, and where it is damaged.
    """
    if path.suffix.lower() == ".zip" and path.is_file():
        path = _unzipped(path, scratch / "unzipped")
    folder = [path] if path.is_file() else _files(path)
    for read in (from_labelled, _from_parquet, _from_idx, _from_arrays):
        if found := read(folder, scratch, size):
            return _named(found, path)
    if path.is_dir() and (found := _from_pictures(path, size)):
        return _named(found, path)
    # Its errors name what is missing.
    files = folder_files(path, dict.fromkeys(FILES, MAX_BYTES), scratch, None)
    arrays = {name: read_idx(file) for name, file, _ in files}
    return _named(
        {split: _part(*(arrays[n] for n in pair)) for split, pair in SPLITS.items()}, path
    )


def _part(images_NHW: Array, labels_N: Array, class_names: Iterable[str] | None = None) -> Part:
    names = None if class_names is None else tuple(map(str, class_names))
    return Part(images_NHW, labels_N.astype(np.int64), names)


def _files(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.is_file() and each.name[0] != ".")
    except OSError as error:
        raise damaged(path, error) from error


def _split_of(name: str) -> str:
    match = SPLIT_OF.search(name)
    return "all" if match is None else "train" if match[1].lower() == "train" else "test"


def _named(parts: dict[str, Part], path: Path) -> dict[str, Part]:
    """Return the parts with the names in `classes.txt`, and check that they fit together."""
    names, found = path / "classes.txt", {}
    given = names.read_text(encoding="utf-8").split("\n") if names.is_file() else []
    listed = tuple(line.strip() for line in given if line.strip()) or None
    for split, part in parts.items():
        if len(part.images_NHW) != len(part.labels_N) or not len(part.labels_N):
            words = f"{len(part.images_NHW):,} images and {len(part.labels_N):,} labels in {split}"
            raise RawDataError(path, found=words, expected="as many, at least one")
        found[split] = part._replace(class_names=listed or part.class_names)
    if len({part.images_NHW.shape[1:] for part in found.values()}) > 1:
        raise RawDataError(path, found="splits with images of different sizes", expected="one size")
    return found


def _from_idx(files: list[Path], scratch: Path, size: Size | None) -> dict[str, Part]:
    """Return the parts of pairs of IDX files. EMNIST's images are transposed."""
    pairs: dict[str, dict[str, Path]] = {}
    for file in files:
        if match := IDX.fullmatch(file.name):
            pairs.setdefault(match[1], {}).setdefault(match[2].lower(), file)
    splits = [_split_of(prefix) for prefix in pairs]
    if any(len(pair) < 2 for pair in pairs.values()) or len({*splits}) < len(splits):
        return {}
    found = {}
    for prefix, pair in pairs.items():
        arrays = []
        for kind in ("images", "labels"):
            target = scratch / f"{prefix}{kind}"
            receive(pair[kind], str(pair[kind]), RawFile(), target)
            arrays.append(read_idx(target))
        images, labels = arrays
        if images.ndim != 3 or labels.ndim != 1:
            shapes = f"arrays of {images.ndim} and {labels.ndim} axes"
            raise RawDataError(pair["images"], found=shapes, expected="images (N×H×W) and labels")
        is_emnist = prefix.lower().startswith("emnist")
        found[_split_of(prefix)] = _part(images.swapaxes(1, 2) if is_emnist else images, labels)
    if not all(prefix.lower().startswith("emnist") for prefix in pairs):
        return found
    mapping = next((file for file in files if file.name.endswith("mapping.txt")), None)
    return _from_zero(found, mapping)


def _from_zero(parts: dict[str, Part], mapping: Path | None) -> dict[str, Part]:
    """Return EMNIST's parts with labels from 0, and the characters of its mapping as names.

    A line of the mapping is a label and the code points of its characters.
    """
    labels = [part.labels_N for part in parts.values() if len(part.labels_N)]
    names, first = None, min((int(labels_N.min()) for labels_N in labels), default=0)
    if mapping is not None:
        try:
            lines = [line.split() for line in mapping.read_text().splitlines() if line.strip()]
            known = {int(line[0]): chr(int(line[1])) for line in lines}
            first, names = min(known), tuple(known[label] for label in sorted(known))
        except (ValueError, IndexError, OverflowError) as error:
            raise damaged(mapping, error) from error
    shift = 1 if first == 1 else 0
    return {
        split: part._replace(labels_N=part.labels_N - shift, class_names=names)
        for split, part in parts.items()
    }


def _from_arrays(files: list[Path], scratch: Path, size: Size | None) -> dict[str, Part]:
    """Return the part of a single NPZ file with `x` and `y`, or of a single CSV file."""
    tables = [file for file in files if file.suffix.lower() in (".csv", ".npz")]
    if len(tables) != 1:
        return {}
    (file,) = tables
    if file.suffix.lower() == ".csv":
        return {"all": _part(*read_csv(file))}
    return {"all": _part(*read_npz(file, "all"))} if "x.npy" in members(file) else {}


def _from_pictures(path: Path, size: Size | None) -> dict[str, Part]:
    """Return the parts of `class/picture`, or of `train/class/picture` and `test/class/picture`."""
    folders = sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")
    splits = {each.name.lower(): each for each in folders}
    if {*splits} == {"train", "test"}:
        found = {split: _from_pictures(folder, size) for split, folder in splits.items()}
        parts = {split: part["all"] for split, part in found.items() if part}
        if len({part.class_names for part in parts.values()}) > 1:
            raise RawDataError(path, found="other classes in train than in test", expected="equal")
        return parts
    images, labels = [], []
    for label, folder in enumerate(folders):
        pictures = [file for file in _files(folder) if file.suffix.lower() in PICTURES]
        images += [(file, str(file)) for file in pictures]
        labels += [label] * len(pictures)
    if not images:
        return {}
    return {"all": _part(_decoded(images, size), np.array(labels), (each.name for each in folders))}


def _from_parquet(files: list[Path], scratch: Path, size: Size | None) -> dict[str, Part]:
    """Return the parts of Parquet files with the columns `image` (bytes) and `label`."""
    found: dict[str, list[Part]] = {}
    for file in (file for file in files if file.suffix.lower() == ".parquet"):
        found.setdefault(_split_of(file.name), []).append(_parquet_part(file, size))
    return {
        split: Part(
            np.concatenate([part.images_NHW for part in parts]),
            np.concatenate([part.labels_N for part in parts]),
            parts[0].class_names,
        )
        for split, parts in found.items()
    }


def _parquet_part(file: Path, size: Size | None) -> Part:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            rows = table.read(columns=["image.bytes", "label"])
            words = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        encoded = rows["image"].combine_chunks().field("bytes").to_pylist()
        labels = rows["label"].to_numpy().astype(np.int64)
        features = words.get("info", {}).get("features", {})
        names = features.get("label", {}).get("names")
    except (KeyError, AttributeError, *UNREADABLE) as error:
        raise damaged(file, error) from error
    images = ((io.BytesIO(content or b""), f"{file}: row {n}") for n, content in enumerate(encoded))
    return _part(_decoded(images, size), labels, names)


def _decoded(pictures: Iterable[tuple[Path | io.BytesIO, str]], size: Size | None) -> Array:
    """Return pictures as grey images (N, H, W), all of one size."""
    from PIL import Image

    def grey() -> Iterator[Array]:
        expected: Size | None = None
        for source, what in pictures:
            try:
                with Image.open(source) as picture:
                    if picture.width * picture.height > MAX_PIXELS:
                        raise ValueError(f"{picture.width}×{picture.height} pixels")
                    image = picture.convert("L")
            except (*UNREADABLE, SyntaxError, Image.DecompressionBombError) as error:
                raise damaged(what, error) from error
            if size is not None:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            array = np.asarray(image)
            expected = expected or array.shape
            if array.shape != expected:
                words = f"{array.shape[0]}×{array.shape[1]} pixels"
                one = f"{expected[0]}×{expected[1]} as the first, or a size to scale to"
                raise RawDataError(what, found=words, expected=one)
            yield array

    return np.stack([*grey()])


def _unzipped(path: Path, folder: Path) -> Path:
    """Extract a zip below `folder`, with limits; return the folder that has the files."""
    left = MAX_BYTES
    for name in members(path):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or (parts and ":" in parts[0]):
            raise RawDataError(path, found=f"the member {name!r}, which leaves its folder")
        if any(part.startswith((".", "__MACOSX")) for part in parts):
            continue
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_file(path, name) as stream:
            left -= save(chunks_of(stream, path), target, left, f"{path}: {name}").num_bytes
    inside = [*folder.iterdir()] if folder.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
