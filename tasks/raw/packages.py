"""Packages as sources, through their manager's own client: `npm pack` and `apt-get download`.

The package is fetched once, into a scratch folder, and never installed or unpacked: its members are
read by their exact names, so none of them can leave its folder.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from tasks.raw.idx import GZIP_MAGIC
from tasks.raw.receive import UNREADABLE, Chunks, Opener, chunks_of, damaged
from tasks.runtime.errors import SourceError

NPM = re.compile(r"npm:(?P<package>(@[\w.-]+/)?\w[\w.-]*@\w[\w.+-]*)/(?P<folder>.*)")
DEB = re.compile(r"deb:(?P<package>[a-z0-9][a-z0-9+.-]+)/(?P<folder>.*)")

TIMEOUT_S = 600.0
# How the clients say that it was the network.
NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNRE|ENETUNREACH|ERR_SOCKET|network|resolve|[Cc]onnect"
)
WITHOUT_CONTENT = {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
FULL = re.compile(r"ENOSPC|[Nn]o space left")


@contextmanager
def npm_package(source: str, scratch: Path) -> Iterator[Opener]:
    """The opener of the files in a folder of an npm package, `npm:NAME@VERSION/folder/`.

    Raises SourceError for a missing client, one that fails, and a package without the files.
    """
    package, folder = _parts(NPM, source, "npm:NAME@VERSION/folder/")
    # One try: the task around it has the retries, and clients' own would multiply them.
    options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=0"]
    _run(["npm", "pack", package, *options], scratch)
    yield lambda name: _member(_only(scratch, "*.tgz", source), folder, name)


@contextmanager
def deb_package(source: str, scratch: Path) -> Iterator[Opener]:
    """The opener of the files in a folder of a Debian package, `deb:NAME/folder/`.

    Raises SourceError for a missing client, one that fails, and a package without the files.
    """
    package, folder = _parts(DEB, source, "deb:NAME/folder/")
    # Without the first option apt, run by root, changes to a user who may not write here.
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0"]
    _run(["apt-get", "download", "-q", *options, package], scratch)
    content = scratch / "content.tar"
    archive = _only(scratch, "*.deb", source)
    _run(["dpkg-deb", "--fsys-tarfile", str(archive)], scratch, content)
    yield lambda name: _member(content, folder, name)


def _parts(pattern: re.Pattern[str], source: str, form: str) -> tuple[str, str]:
    """Package and folder; a strict form, so that no part of it is ever read as an option."""
    match = pattern.fullmatch(source)
    if match is None:
        raise _fault(source, "an address that cannot be read", form, "Mend it.")
    return match["package"], match["folder"].strip("/")


def _only(folder: Path, pattern: str, source: str) -> Path:
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise _fault(source, f"{len(files)} {pattern} files from the client", "one", "Try by hand.")
    return files[0]


def _run(command: Sequence[str], folder: Path, output: Path | None = None) -> None:
    """Run a client in `folder`, its standard output going to `output`; SourceError if it fails.

    The client leads a process group, so that those it starts can be ended with it.
    """
    client = command[0]
    if shutil.which(client) is None:
        raise _fault(client, "not installed", "the client on PATH", f"Install {client}.")
    with (
        (output or Path(os.devnull)).open("wb") as sink,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        ) as process,
    ):
        try:
            told = process.communicate(timeout=TIMEOUT_S)[1].decode(errors="replace")
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            found = f"no end after {TIMEOUT_S:.0f} s"
            raise _fault(client, found, "an end", "Try by hand.", transient=True) from error
    if process.returncode == 0:
        return
    if FULL.search(told):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    last = " ".join(told.split())[-400:] or "without a word"
    raise _fault(
        client,
        f"exit code {process.returncode} ({last})",
        "the package",
        f"Run by hand: {' '.join(command)}",
        transient=NETWORK.search(told) is not None,
    )


@contextmanager
def _member(archive: Path, folder: str, name: str) -> Iterator[Chunks]:
    """The chunks of `folder/name`, or of `folder/name.gz`, a regular member of a tar archive."""
    wanted = {f"{folder}/{name}", f"{folder}/{name}.gz"}
    with archive.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        tar = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        members = _regular_members(tar, f"{archive.name}: {name}")
        try:
            content = next((chunks for path, chunks in members if path in wanted), None)
        except UNREADABLE as error:
            raise damaged(archive.name, error) from error
        if content is None:
            raise _fault(archive.name, f"no {folder}/{name} in it", "the file", "Update it.")
        yield content


def _regular_members(tar: IO[bytes], what: str) -> Iterator[tuple[str, Chunks]]:
    """Name and chunks of each regular member; what the caller leaves of a member is skipped.

    Only forward and in small pieces. `tarfile` as a reader goes where a header tells it to: back,
    for a negative size, without end, or into a buffer of as many gigabytes as the header says.
    """
    while any(block := tar.read(tarfile.BLOCKSIZE)):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        size = 0 if member.type in WITHOUT_CONTENT else member.size
        content = chunks_of(tar, what, size)
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member.name.removeprefix("./"), content
        for _ in content:
            pass
        tar.read(-size % tarfile.BLOCKSIZE)


def _fault(
    what: str, found: str, expected: str, remedy: str, *, transient: bool = False
) -> SourceError:
    return SourceError(what, found=found, expected=expected, remedy=remedy, transient=transient)
