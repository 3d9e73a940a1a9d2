"""The manifest of a stage's output: what is in its folder, to the bit, and what it was made of."""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_config.base import Record, Section
from pipeline_config.settings import settings
from tasks.runtime.files import digest_of, read_sealed, sha256_file
from tasks.runtime.keys import Components, key_of

MANIFEST = "manifest.json"
# Longer than any manifest or metrics: what is longer still is not read.
MAX_JSON_BYTES = 16 * 2**20
Facts = dict[str, Any]


class StageRef(Section):
    """A small reference to a stage's output; `digest` covers its files and facts, nothing else."""

    stage: str
    key: str
    digest: str

    @property
    def path(self) -> Path:
        """The folder of the output."""
        return folder_of(self.stage, self.key)

    @property
    def facts(self) -> Facts:
        """What the stage wrote down for those behind it."""
        return self.manifest.facts

    @property
    def manifest(self) -> Manifest:
        """The manifest, as it stands on disk."""
        return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())


class FileEntry(Record):
    """One file of an output."""

    sha256: str
    num_bytes: int


class Clock(Record):
    """When a stage ran and how long it took: outside every digest."""

    started: str
    seconds: float


class Manifest(Record):
    """The truth about one stage output; `digest` covers files and facts, `seal` all of this.

    `dataset` is the name of the data set that it was made for.
    """

    stage: str
    key: str
    dataset: str = ""
    components: Components
    files: dict[str, FileEntry]
    facts: Facts
    digest: str
    clock: Clock
    seal: str = ""

    def sealed(self) -> Manifest:
        """The manifest with the SHA-256 of all the rest of it as its seal."""
        content = self.model_dump(mode="json", exclude={"seal"})
        return self.model_copy(update={"seal": digest_of(content)})

    @property
    def ref(self) -> StageRef:
        """The reference to hand on."""
        return StageRef(stage=self.stage, key=self.key, digest=self.digest)


def folder_of(stage: str, key: str) -> Path:
    """Where the output of `stage` with `key` lies, whether or not it is there."""
    return settings().stages / f"{stage}-{key}"


def inspect(folder: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest of an output and its damage, file by file; (None, []) where nothing is there.

    Every file is hashed: an intact output is intact to the bit.
    """
    if not folder.exists():
        return None, []
    try:
        found, is_whole = read_sealed(read_regular(folder / MANIFEST), "seal")
        manifest = Manifest.model_validate(found)
    except (OSError, ValueError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = [] if is_whole else [f"{MANIFEST}: changed"]
    if folder.name != f"{manifest.stage}-{manifest.key}" or manifest.key != key_of(
        manifest.components
    ):
        damage.append(f"{MANIFEST}: of another key")
    damage += damaged_files(folder, manifest.files)
    return manifest, damage


def damaged_files(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """What differs between a folder and the files that its manifest names, a line a file.

    Only what is found in the folder is looked at, so a name with `..` in it is missing.
    """
    damage = []
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {str(path.relative_to(folder)): path for path in paths}
    for name, entry in files.items():
        path = present.get(name)
        if path is None:
            damage.append(f"{name}: missing")
        elif path.is_symlink() or not path.is_file():
            damage.append(f"{name}: a link, a pipe or a device instead of a file")
        elif path.stat().st_size != entry.num_bytes:
            damage.append(f"{name}: {path.stat().st_size} bytes instead of {entry.num_bytes}")
        elif sha256_file(path) != entry.sha256:
            damage.append(f"{name}: its SHA-256 changed")
    return damage + [
        f"{name}: not in the manifest" for name in sorted(present.keys() - {*files, MANIFEST})
    ]


def read_regular(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file; raises OSError for a link, a pipe, a device or a longer one."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        raise OSError(errno.EINVAL, f"no regular file of at most {limit:,} bytes", str(path))
    return path.read_bytes()


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` but the manifest, by relative path, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): FileEntry(
            sha256=sha256_file(path), num_bytes=path.stat().st_size
        )
        for path in paths
        if path.name != MANIFEST
    }


def digested(files: Mapping[str, FileEntry], facts: Facts) -> dict[str, Any]:
    """What the digest of an output covers."""
    return {"files": {name: entry.model_dump() for name, entry in files.items()}, "facts": facts}
