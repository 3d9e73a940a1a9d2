"""A folder of a person's own as a source: IDX files, a zip of them, NPZ or CSV.

Recognised, the first complete kind counting: IDX files, raw or gzip, under their canonical names or
common variants (`train-images.idx3-ubyte`, `test-labels-idx1-ubyte.gz`); `*.npz` with x_train,
y_train, x_test and y_test; `*train.csv` with `*test.csv`; `*.zip` with IDX files. Only the folder
itself is looked at, not what is below it. A single `.npz` or `.zip` may stand for a folder.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pipeline_config.datasets import FILES, Dataset
from pipeline_config.sections import checked, given_path
from tasks.raw.receive import UNREADABLE, Chunks, Opener, chunks_of, damaged, open_member
from tasks.raw.structure import SPLITS
from tasks.raw.tabular import ARRAYS, arrays_in, write_as_idx
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import digest_of, sha256_file

IDX_NAME = re.compile(r"(train|t10k|test)[-_.](images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?", re.I)
CSV_NAME = re.compile(r"(.*[-_.])?(train|test)\.csv", re.I)
RECOGNISED = re.compile(rf"{IDX_NAME.pattern}|{CSV_NAME.pattern}|.+\.(npz|zip)", re.I)
LOOKED_FOR = "the four IDX files (raw, .gz or in a .zip), an .npz or a pair of .csv files"


class Place(NamedTuple):
    """Where one of the four files comes from: a file, or a member of the archive `path`."""

    path: Path
    member: str | None = None


# By canonical name; a file that is missing is not there.
Layout = dict[str, Place]


def folder_dataset(folder: Path, num_classes: int = 10) -> Dataset:
    """A folder as a data set whose name and key follow from what the files in it hold.

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
    """The digest over the files that a folder's data set is read from, as they are."""
    layout = survey(path)
    missing = [name for name in FILES if name not in layout]
    if missing:
        raise _fault(path, f"no {' and no '.join(missing)}", LOOKED_FOR)
    files = {place.path for place in layout.values()}
    try:
        return digest_of({file.name: sha256_file(file) for file in files})
    except OSError as error:
        raise damaged(str(path), error) from error


@contextmanager
def local_folder(path: Path, scratch: Path, content: str | None = None) -> Iterator[Opener]:
    """The opener of the files that `survey` finds; tables are turned into IDX in `scratch`.

    With `content`, which the key of a folder as a data set follows from, the files are copied
    first, and the copies must have it: what is read is what was named, whoever changes the folder.
    """
    layout = survey(path)
    folder = next(iter(layout.values())).path.parent

    def opener(name: str) -> AbstractContextManager[Chunks]:
        if name not in layout:
            raise _fault(path, f"no {name}", LOOKED_FOR)
        return _open(_as_idx(layout[name], name, scratch))

    try:
        if content is not None:
            _copy({place.path for place in layout.values()}, scratch, content)
            layout = survey(scratch)
        yield opener
    except RawDataError as error:
        # A person looks for their own file, not for the four names or our copy.
        path, member = layout.get(error.what, Place(Path(error.what)))
        what = str(path).replace(str(scratch), str(folder))
        error.what = what if member is None else f"{what}: {member}"
        raise


def _copy(files: Iterable[Path], scratch: Path, content: str) -> None:
    """Copy a folder's files; raises RawDataError for copies that are not of this content."""
    for file in files:
        with _open(Place(file)) as chunks, (scratch / file.name).open("wb") as copy:
            copy.writelines(chunks)
    if content_of(scratch) != content:
        found = "other files than when the run was planned"
        expected = "a folder that nobody changes meanwhile"
        raise _fault(scratch, found, expected, "Run the same command again.")


def survey(path: Path) -> Layout:
    """The first complete layout in a folder, or else the fullest.

    Raises RawDataError for a folder that cannot be read, that has no data, or that has several
    complete data sets of one kind, since none of them is the right one.
    """
    files = _recognised(path)
    fullest: Layout = {}
    for kind in (_idx_files, _npz_files, _csv_files, _zip_files):
        layouts = kind(files)
        complete = [layout for layout in layouts if len(layout) == len(FILES)]
        if len(complete) > 1:
            names = ", ".join(layout[FILES[0]].path.name for layout in complete)
            raise _fault(path, f"several data sets ({names})", "one", "Give each its own folder.")
        if complete:
            return complete[0]
        fullest = max([fullest, *layouts], key=len)
    if not fullest:
        raise _fault(path, "no data", LOOKED_FOR)
    return fullest


def _recognised(path: Path) -> list[Path]:
    """The files whose names mean something here, sorted; a directory of such a name is not one."""
    try:
        str(path).encode()
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        paths = sorted(path.iterdir()) if is_folder else [path]
        recognised = []
        for file in paths:
            if RECOGNISED.fullmatch(file.name):
                file.name.encode()
                mode = file.stat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise _fault(file, "neither a file nor a folder", "a file")
                recognised += [file] if stat.S_ISREG(mode) else []
    except OSError as error:
        found = f"unreadable ({error.strerror})"
        raise _fault(error.filename or path, found, "a readable folder or file") from error
    except ValueError as error:
        # A NUL, or bytes that stand for no letters: neither a digest nor a message can have them.
        raise _fault(ascii(str(path)), "a name that is no text", "names in Unicode") from error
    return recognised


def _canonical(file_name: str) -> str | None:
    """The canonical name that a variant stands for."""
    match = IDX_NAME.fullmatch(file_name)
    if match is None:
        return None
    split = "train" if match[1].lower() == "train" else "t10k"
    return next(name for name in FILES if name.startswith(f"{split}-{match[2].lower()}"))


def _idx_files(files: list[Path]) -> list[Layout]:
    found: Layout = {}
    # Of a raw file and its gzip the raw one counts, and the canonical name before a variant.
    for file in sorted(files, key=lambda file: (file.suffix == ".gz", file.name not in FILES)):
        if name := _canonical(file.name):
            found.setdefault(name, Place(file))
    return [found]


def _npz_files(files: list[Path]) -> list[Layout]:
    wanted = {array for pair in ARRAYS.values() for array in pair}
    archives = [file for file in files if file.suffix.lower() == ".npz"]
    return [dict.fromkeys(FILES, Place(file)) for file in archives if wanted <= arrays_in(file)]


def _csv_files(files: list[Path]) -> list[Layout]:
    by_prefix: dict[str, Layout] = {}
    for file in files:
        match = CSV_NAME.fullmatch(file.name)
        if match:
            layout = by_prefix.setdefault(match[1] or "", {})
            layout.update(dict.fromkeys(SPLITS[match[2].lower()], Place(file)))
    return list(by_prefix.values())


def _zip_files(files: list[Path]) -> list[Layout]:
    return [_zip_members(file) for file in files if file.suffix.lower() == ".zip"]


def _zip_members(path: Path) -> Layout:
    """The IDX files in a zip, in whatever folder of it; none may leave it or be there twice."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
    except UNREADABLE as error:
        raise damaged(str(path), error) from error
    found: Layout = {}
    for member in sorted(members, key=lambda member: (member.count("/"), member)):
        parts = PurePosixPath(member.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise _fault(path, f"the member {member!r}, which leaves its folder", "members inside")
        if name := _canonical(parts.name):
            first = found.setdefault(name, Place(path, member)).member
            if member not in (first, f"{first}.gz") or members.count(member) > 1:
                raise _fault(path, f"{first!r} and {member!r}", f"{name} once", "Keep one of them.")
    return found


@contextmanager
def _open(place: Place) -> Iterator[Chunks]:
    """The chunks of one file, wherever it lies."""
    path = place.path
    with ExitStack() as stack:
        try:
            if place.member is None:
                stream: IO[bytes] = stack.enter_context(path.open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(path))
                stream = stack.enter_context(open_member(archive, place.member))
        except (KeyError, *UNREADABLE) as error:
            raise damaged(str(path), error) from error
        yield chunks_of(stream, str(path))


def _as_idx(place: Place, name: str, scratch: Path) -> Place:
    """Where the IDX file `name` lies; it is made in `scratch` from a table, with its partner."""
    path = place.path
    if path.suffix.lower() not in (".csv", ".npz"):
        return place
    split = "train" if name in SPLITS["train"] else "test"
    if not (scratch / name).exists():
        write_as_idx(path, split, scratch)
    return Place(scratch / name)


def _fault(
    what: Path | str, found: str, expected: str, remedy: str = "Name a folder that has the data."
) -> RawDataError:
    return RawDataError(str(what), found=found, expected=expected, remedy=remedy)
