"""A folder as a source or as a data set: IDX files, a zip of them, NPZ or CSV.

The first complete kind is used: IDX files, raw or gzip, under their canonical names or common
variants (`train-images.idx3-ubyte`, `test-labels-idx1-ubyte.gz`); an `.npz` with x_train, y_train,
x_test and y_test; `*train.csv` with `*test.csv`; a `.zip` with IDX files. Folders below it are not
read. A single `.npz` or `.zip` may be given in place of a folder.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path, PurePosixPath

from pipeline_config.datasets import FILES, Dataset
from pipeline_config.sections import checked, given_path
from tasks.raw.idx import SPLITS
from tasks.raw.receive import UNREADABLE, Source, chunks_of, damaged, open_file, save
from tasks.raw.tables import ARRAYS, write_as_idx
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import digest_of, sha256_file

IDX_NAME = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?", re.I)
CSV_NAME = re.compile(r"(.*[-_.])?(train|test)\.csv", re.I)
RECOGNISED = re.compile(rf"{IDX_NAME.pattern}|{CSV_NAME.pattern}|.+\.(npz|zip)", re.I)

# The file that holds each of the four files, by canonical name, and its name inside of a zip.
Layout = dict[str, tuple[Path, str]]


def folder_dataset(folder: Path, num_classes: int = 10) -> Dataset:
    """Return a folder as a data set whose name and key follow from the content of its files.

    Raises RawDataError where the folder has no complete data set.
    """
    path = given_path(folder).absolute()
    content = content_of(path)
    slug = re.sub(r"[^a-z0-9._]+", "-", path.name.lower()).strip("-._")[:80] or "folder"
    fields = {
        "name": f"{slug}-{content[:8]}",
        "title": f"the folder {path}",
        "num_classes": num_classes,
        "image_shape": None,
        "class_names": tuple(str(label) for label in range(num_classes)),
        "default_recipe": "fast",
        "sources": (f"folder:{path}",),
        "files": {},
        "content": content,
    }
    return checked(Dataset, fields, f"the folder {path} as a data set")


def content_of(path: Path) -> str:
    """Return the digest over the files that hold a folder's data set, as they are."""
    files = {file for file, _ in survey(path).values()}
    try:
        return digest_of({file.name: sha256_file(file) for file in files})
    except OSError as error:
        raise damaged(path, error) from error


def folder_files(
    path: Path, wanted: Mapping[str, int], scratch: Path, content: str | None
) -> Source:
    """Yield the wanted files of a folder, from copies in `scratch`.

    With `content`, the digest in the key of a folder as a data set, the copies must have it: the
    bytes that are used are those that were named, even if the folder changes meanwhile.
    """
    layout = survey(path)
    digests = {}
    for file in {file for file, _ in layout.values()}:
        with open_file(file) as stream:
            entry = save(chunks_of(stream, file), scratch / file.name, inf, file)
        digests[file.name] = entry.sha256
    if content not in (None, digest_of(digests)):
        raise RawDataError(
            path,
            found="other files than when the run was planned",
            expected="a folder that does not change during a run",
            remedy="Run the same command again.",
        )
    for name, limit in wanted.items():
        file, member = layout[name]
        copy, target = scratch / file.name, scratch / name
        what = f"{file}: {member}" if member else str(file)
        try:
            if member:
                with open_file(copy, member) as stream:
                    save(chunks_of(stream, what), target, limit, what)
            elif IDX_NAME.fullmatch(file.name):
                target = copy
            elif not target.exists():
                write_as_idx(copy, "train" if name in SPLITS["train"] else "test", scratch)
        except RawDataError as error:
            # Errors name the file in the folder, not its copy.
            error.what = error.what.replace(str(scratch), str(file.parent))
            raise
        yield name, target, what


def survey(path: Path) -> Layout:
    """Return the first complete layout in a folder.

    Raises RawDataError for a folder that cannot be read, that has no complete data set, or that has
    several of one kind.
    """
    fullest: Layout = {}
    for layouts in _layouts(path):
        complete = [layout for layout in layouts if len(layout) == len(FILES)]
        if len(complete) > 1:
            names = ", ".join(layout[FILES[0]][0].name for layout in complete)
            found, remedy = f"several data sets ({names})", "Give each its own folder."
            raise RawDataError(path, found=found, expected="one", remedy=remedy)
        if complete:
            return complete[0]
        fullest = max([fullest, *layouts], key=len)
    missing = " and no ".join(name for name in FILES if name not in fullest)
    raise RawDataError(
        path,
        found=f"no {missing}" if fullest else "no data",
        expected="the four IDX files (raw, .gz or in a .zip), an .npz or a pair of .csv files",
        remedy="Name a folder that has the data.",
    )


def _recognised(path: Path) -> list[Path]:
    """Return the files with a name that RECOGNISED matches, sorted; folders are left out."""
    try:
        files = sorted(path.iterdir()) if stat.S_ISDIR(path.stat().st_mode) else [path]
        files = [file for file in files if RECOGNISED.fullmatch(file.name)]
        # A name with bytes that are not text raises ValueError.
        "".join(map(str, [path, *files])).encode()
        return [file for file in files if stat.S_ISREG(file.stat().st_mode)]
    except UNREADABLE as error:
        raise damaged(getattr(error, "filename", None) or path, error) from error


def _layouts(path: Path) -> Iterator[list[Layout]]:
    """Yield the layouts of each kind in turn: IDX files, NPZ, CSV, zip."""
    files = _recognised(path)
    found = _idx_files(path, [file.name for file in files])
    yield [{name: (path / file, "") for name, file in found.items()}]
    arrays = {f"{array}.npy" for split in SPLITS for array in ARRAYS[split]}
    archives = [file for file in files if file.suffix.lower() == ".npz"]
    yield [dict.fromkeys(FILES, (file, "")) for file in archives if arrays <= {*members(file)}]
    by_prefix: dict[str, Layout] = {}
    for file in files:
        if match := CSV_NAME.fullmatch(file.name):
            layout = by_prefix.setdefault(match[1] or "", {})
            layout.update(dict.fromkeys(SPLITS[match[2].lower()], (file, "")))
    yield list(by_prefix.values())
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    found_in = {file: _idx_files(file, members(file)) for file in zips}
    yield [{name: (file, member) for name, member in found_in[file].items()} for file in zips]


def _idx_files(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the IDX files of a folder or a zip, by canonical name; a raw file before its gzip.

    Raises RawDataError for a name outside the folder, and for a file that is there twice.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise RawDataError(path, found=f"the member {name!r}, which leaves its folder")
        if match := IDX_NAME.fullmatch(parts.name):
            images, labels = SPLITS["train" if match[1].lower() == "train" else "test"]
            file = images if match[2].lower() == "images" else labels
            first = found.setdefault(file, name)
            if name not in (first, f"{first}.gz") or names.count(name) > 1:
                twice = f"{first!r} and {name!r}"
                raise RawDataError(path, found=twice, expected=f"{file} once")
    return found


def members(path: Path) -> list[str]:
    """Return the names of the files in a zip or NPZ file. Raises RawDataError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except UNREADABLE as error:
        raise damaged(path, error) from error
