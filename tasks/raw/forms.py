"""Labelled images in the forms that people have them in, each as arrays.

IDX files, also under EMNIST's names, NPZ, CSV, a folder of pictures for each class (torchvision's
ImageFolder), pictures with a `labels.csv`, a Parquet file of Hugging Face's `datasets`, and a zip
with any of these.

Axes: N rows, images of H×W pixels.
"""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline_config.datasets import FILES, RawFile
from tasks.raw.folder import folder_files, members
from tasks.raw.grey import SUFFIXES, Size, pictures_by_class, pictures_in_parquet, read_pictures
from tasks.raw.idx import SPLITS, read_idx
from tasks.raw.parts import Part, class_list, files_in, make_part, split_of, with_classes
from tasks.raw.receive import MAX_BYTES, UNREADABLE, chunks_of, damaged, open_member, receive, save
from tasks.raw.tables import read_csv, read_npz
from tasks.runtime.errors import RawDataError

IDX = re.compile(r"(.*?)(images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?", re.I)
MAX_MEMBERS = 1_000_000  # of a zip
# The labels of the pictures beside it, with the columns `file` and `label`.
LABELS = "labels.csv"


def read_parts(path: Path, scratch: Path, size: Size | None = None) -> dict[str, Part]:
    """Return the parts `train` and `test` of files, or the part `all`.

    Pictures are turned to grey, and scaled to `size` (height, width) if given. Raises RawDataError
    for what is none of the forms, and where it is damaged.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        return _read_parts(path, scratch, size)
    try:
        return _read_parts(_unzipped(path, scratch / "unzipped"), scratch, size)
    except RawDataError as error:
        # Errors name the zip, not the copy of its files.
        error.what = error.what.replace(str(scratch / "unzipped"), str(path))
        raise


def _read_parts(path: Path, scratch: Path, size: Size | None) -> dict[str, Part]:
    folder = [path] if path.is_file() else files_in(path)
    found = _from_labelled(folder, size) or pictures_in_parquet(folder, size)
    found = found or _from_idx(folder, scratch) or _from_arrays(folder)
    if not found and path.is_dir():
        found = pictures_by_class(path, size)
    if not found:
        # Its errors name what is missing.
        files = folder_files(path, dict.fromkeys(FILES, MAX_BYTES), scratch, None)
        arrays = {name: read_idx(file) for name, file, _ in files}
        found = {split: make_part(*(arrays[n] for n in pair)) for split, pair in SPLITS.items()}
    return _checked(found, path)


def _checked(parts: dict[str, Part], path: Path) -> dict[str, Part]:
    """Return the parts, with the classes in `classes.txt`, if they fit together."""
    for split, part in parts.items():
        if len(part.images_NHW) != len(part.labels_N) or not len(part.labels_N):
            words = f"{len(part.images_NHW):,} images and {len(part.labels_N):,} labels in {split}"
            raise RawDataError(path, found=words, expected="as many, at least one")
        lowest, highest = int(part.labels_N.min()), int(part.labels_N.max())
        if lowest < 0 or highest >= len(part.class_names or range(256)):
            words = f"labels from {lowest} to {highest} and {len(part.class_names or ())} classes"
            raise RawDataError(path, found=words, expected="a class for each label from 0 on")
    if len({part.images_NHW.shape[1:] for part in parts.values()}) > 1:
        raise RawDataError(path, found="splits with images of different sizes", expected="one size")
    if len({part.class_names for part in parts.values()} - {None}) > 1:
        raise RawDataError(path, found="other classes in train than in test", expected="equal ones")
    listed = class_list(path / "classes.txt") if (path / "classes.txt").is_file() else ()
    return {split: with_classes(part, listed, path) for split, part in parts.items()}


def _from_idx(files: list[Path], scratch: Path) -> dict[str, Part]:
    """Return the parts of pairs of IDX files. EMNIST's images are transposed."""
    pairs: dict[str, dict[str, Path]] = {}
    for file in files:
        if match := IDX.fullmatch(file.name):
            pairs.setdefault(match[1], {}).setdefault(match[2].lower(), file)
    splits = [split_of(prefix) for prefix in pairs]
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
        found[split_of(prefix)] = make_part(images.swapaxes(1, 2) if is_emnist else images, labels)
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


def _from_arrays(files: list[Path]) -> dict[str, Part]:
    """Return the part of a single NPZ file with `x` and `y`, or of a single CSV file."""
    tables = [file for file in files if file.suffix.lower() in (".csv", ".npz")]
    if len(tables) != 1:
        return {}
    (file,) = tables
    if file.suffix.lower() == ".csv":
        return {"all": make_part(*read_csv(file))}
    return {"all": make_part(*read_npz(file, "all"))} if "x.npy" in members(file) else {}


def _from_labelled(files: list[Path], size: Size | None) -> dict[str, Part]:
    """Return the part of pictures whose labels are in a `labels.csv` beside them.

    Raises RawDataError naming the row that lacks its label or its picture.
    """
    named, pictures, texts = {file.name: file for file in files}, [], []
    if LABELS not in named:
        return {}
    try:
        rows = list(csv.DictReader(named[LABELS].read_text("utf-8-sig").splitlines()))
    except (csv.Error, *UNREADABLE) as error:
        raise damaged(named[LABELS], error) from error
    if not rows or not {"file", "label"} <= {*rows[0]}:
        return {}
    for number, row in enumerate(rows, 1):
        name, text = row["file"], (row["label"] or "").strip()
        if name not in named or not text:
            found = "no label" if name in named else "no file of this name beside it"
            expected = "a picture, and the name or number of its class"
            what = f"{named[LABELS]}: row {number}, {name!r}"
            raise RawDataError(what, found=found, expected=expected)
        pictures.append((named[name], str(named[name])))
        texts.append(text)
    names = sorted({*texts}, key=lambda text: (len(text) if text.isdecimal() else 99, text))
    labels = np.array([names.index(text) for text in texts])
    return {"all": make_part(read_pictures(pictures, size), labels, names)}


def _unzipped(path: Path, folder: Path) -> Path:
    """Extract a zip below `folder`, with limits; return the folder that has the files."""
    left = MAX_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise ValueError(f"more than {MAX_MEMBERS:,} files")
            for member in archive.infolist():
                if (target := _target(member, folder, path)) is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open_member(archive, member) as stream:
                        what = f"{path}: {member.filename}"
                        left -= save(chunks_of(stream, what), target, left, what).num_bytes
    except UNREADABLE as error:
        raise damaged(path, error) from error
    inside = [*folder.iterdir()] if folder.is_dir() else []
    if len(inside) != 1 or not inside[0].is_dir():
        return folder
    # A single folder of pictures without a table of labels is a class.
    kinds = {file.suffix.lower() for file in files_in(inside[0])}
    return folder if kinds & SUFFIXES and ".csv" not in kinds else inside[0]


def _target(member: zipfile.ZipInfo, folder: Path, path: Path) -> Path | None:
    """Return where to extract a member, or None for a folder and for hidden files."""
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or (parts and ":" in parts[0]):
        raise RawDataError(path, found=f"the member {name!r}, which leaves its folder")
    if member.is_dir() or any(part.startswith((".", "__MACOSX")) for part in parts):
        return None
    target = folder.joinpath(*parts)
    if target.exists():
        raise RawDataError(path, found=f"the member {name!r} twice", expected="it once")
    return target
