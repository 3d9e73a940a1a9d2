"""The sources of raw files: the web, npm and Debian packages, scikit-learn's digits, folders.

A source is a generator. It puts the wanted files, raw or gzip, into a scratch folder, one after the
other, and yields each one.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from pipeline_config.datasets import FILES, Dataset, RawFile
from pipeline_config.sections import given_path
from pipeline_config.settings import settings
from tasks.raw.folder import folder_files
from tasks.raw.receive import CHUNK_BYTES, MAX_BYTES, Source, receive, save, tar_members
from tasks.raw.tables import sklearn_digits
from tasks.runtime.errors import FetchError, RawDataError, SourceError
from tasks.runtime.manifest import FileEntry
from tasks.runtime.show import Advance, ProgressArtifact, progress, show_table
from tasks.runtime.store import Facts

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
# Not compressed on the way: a server that packs a file again changes the gzip's digest.
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "idxflow"}
BUSY = {408, 425, 429, 500, 502, 503, 504}

# The forms are strict, so that no part of an address is read as an option of the client.
NPM = re.compile(r"npm:((?:@[\w.-]+/)?\w[\w.-]*@\w[\w.+-]*)/(.*)")
DEB = re.compile(r"deb:([a-z0-9][a-z0-9+.-]+)/(.*)")
CLIENT_TIMEOUT_S = 600.0
# The standard output of a client: for dpkg-deb the content of a package.
OUTPUT = "output.tar"
# The words of the clients for a network that fails and for a full disk.
NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNRE|ENETUNREACH|ERR_SOCKET|network|resolve|[Cc]onnect"
)
FULL = re.compile(r"ENOSPC|[Nn]o space left")


def obtain(dataset: Dataset, source: str | None, folder: Path) -> Facts:
    """Put the four raw files into `folder` under their canonical names; return digests and sizes.

    `source` is tried before the data set's own sources. A source is left at its first failure; the
    files that it gave are kept. No source is tried twice, since Prefect retries the task. A folder
    as a data set has no other source. Raises FetchError when no source gives a file, and
    RawDataError for a folder as a data set that cannot be used.
    """
    received: dict[str, FileEntry] = {}
    rows: list[dict[str, str]] = []
    is_folder, is_transient = dataset.content is not None, False
    artifact = ProgressArtifact("fetch-progress", f"raw files of {dataset.name}")
    with progress(f"fetch {dataset.name}", dataset.num_bytes or None, "bytes") as advance:
        for place in dataset.sources if is_folder or source is None else (source, *dataset.sources):
            missing = [name for name in FILES if name not in received]
            if not missing:
                break
            advance(0, place)
            try:
                for name, entry in _received(place, dataset, missing, folder, advance):
                    received[name] = entry
                    advance(entry.num_bytes, name)
                result = f"gave {', '.join(missing)}"
            except (RawDataError, SourceError) as error:
                if is_folder:
                    raise
                is_transient |= getattr(error, "transient", False)
                result = f"{error.what}: {error.found}, expected {error.expected}"
            logger.info("%s: %s: %s", dataset.name, place, result)
            rows.append({"source": place, "result": result})
            artifact.show(len(received) / len(FILES))
    show_table("fetch-sources", rows, f"The sources of the raw files of {dataset.name}")
    if len(received) < len(FILES):
        raise _failure(dataset, rows, is_transient)
    return {
        "sha256": {name: received[name].sha256 for name in FILES},
        "num_bytes": {name: received[name].num_bytes for name in FILES},
    }


def _received(
    source: str, dataset: Dataset, missing: Sequence[str], folder: Path, advance: Advance
) -> Iterator[tuple[str, FileEntry]]:
    """Put the missing files of one source into `folder`; yield the digest of each."""
    expected = {name: dataset.files.get(name, RawFile()) for name in missing}
    # Gzip makes no file much longer. The rest leaves room for its header.
    sizes = {name: file.num_bytes or MAX_BYTES for name, file in expected.items()}
    wanted = {name: size + size // 100 + CHUNK_BYTES for name, size in sizes.items()}
    with TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
        aside = Path(scratch)
        if source.startswith(("http:", "https:")):
            files = _web_files(source, wanted, aside, advance)
        elif source.startswith(("npm:", "deb:")):
            files = package_files(source, wanted, aside)
        elif source == "sklearn:digits":
            files = sklearn_digits(aside, wanted)
        else:
            # The place of a created data set is given from the root.
            path = settings().root / given_path(source.removeprefix("folder:"))
            files = folder_files(path, wanted, aside, dataset.content)
        with closing(files):
            for name, path, what in files:
                entry = receive(path, what, expected[name], aside / "received")
                (aside / "received").rename(folder / name)
                yield name, entry


def _failure(dataset: Dataset, rows: Sequence[Mapping[str, str]], transient: bool) -> FetchError:
    """Return the error that lists the sources with their failures."""
    reasons = "".join(f"\n  {row['source']}\n    {row['result']}" for row in rows)
    return FetchError(
        f"data set {dataset.name}",
        found=f"none of {len(rows)} sources working",
        remedy="Put the files, as they are published, into a folder and name it: "
        f"idxflow run --dataset {dataset.name} --source FOLDER\n"
        f"Each source and its failure:{reasons}",
        transient=transient,
    )


def _web_files(address: str, wanted: Mapping[str, int], scratch: Path, advance: Advance) -> Source:
    """Download `<name>.gz` from below an http(s) address.

    Raises SourceError, which is `transient` where the network or a busy server is to blame.
    """
    file = address
    try:
        with httpx.Client(timeout=TIMEOUT, headers=HEADERS, follow_redirects=True) as client:
            for name, limit in wanted.items():
                file = f"{name}.gz"
                with client.stream("GET", f"{address.rstrip('/')}/{file}") as response:
                    status = response.status_code
                    if not response.is_success:
                        found = f"HTTP status {status}"
                        raise SourceError(file, found=found, transient=status in BUSY)
                    save(_shown(response, file, advance), scratch / file, limit, file)
                yield name, scratch / file, name
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"a broken download ({str(error) or type(error).__name__})"
        is_transient = isinstance(error, httpx.TransportError)
        raise SourceError(file, found=found, transient=is_transient) from error


def _shown(response: httpx.Response, file: str, advance: Advance) -> Iterator[bytes]:
    """Yield the bytes of a download, and show how many have come."""
    for chunk in response.iter_raw(CHUNK_BYTES):
        advance(0, f"{file}, {response.num_bytes_downloaded / 1e6:.1f} MB")
        yield chunk


def package_files(source: str, wanted: Mapping[str, int], scratch: Path) -> Source:
    """Fetch `npm:NAME@VERSION/folder/` or `deb:NAME/folder/` with `npm pack` or `apt-get download`.

    The package is not installed, and only members with the exact names are read. Raises SourceError
    for a missing client, one that fails, and a package without the files.
    """
    match = NPM.fullmatch(source) or DEB.fullmatch(source)
    if match is None:
        form = "npm:NAME@VERSION/folder/ or deb:NAME/folder/"
        raise SourceError(source, found="an address that cannot be read", expected=form)
    # Without retries: Prefect retries the task, and the clients' own would multiply.
    npm = ["npm", "pack", "--ignore-scripts", "--loglevel=error", "--fetch-retries=0"]
    # Without its first option apt, run by root, changes to a user who may not write here.
    deb = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0"]
    _run([*(npm if match.re is NPM else deb), match[1]], scratch)
    archives = [*scratch.glob("*.tgz"), *scratch.glob("*.deb")]
    if len(archives) != 1:
        raise SourceError(source, found=f"{len(archives)} packages from the client", expected="one")
    archive = archives[0]
    if match.re is DEB:
        _run(["dpkg-deb", "--fsys-tarfile", str(archive)], scratch)
        archive = scratch / OUTPUT
    folder, missing = match[2].strip("/"), dict(wanted)
    for path, chunks in tar_members(archive):
        name = path.removesuffix(".gz").removeprefix(f"{folder}/")
        if path.startswith(f"{folder}/") and name in missing:
            save(chunks, scratch / name, missing.pop(name), name)
            yield name, scratch / name, name
        if not missing:
            return
    raise SourceError(archive.name, found=f"no {folder}/{next(iter(missing))} in it")


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a client in `folder`, with its standard output in the file OUTPUT.

    The client leads a process group, so that its children end with it. Raises SourceError if it is
    missing or fails, and OSError for a full disk.
    """
    client = command[0]
    if shutil.which(client) is None:
        raise SourceError(client, found="not installed", expected="the client on PATH")
    with (
        (folder / OUTPUT).open("wb") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        ) as process,
    ):
        try:
            words = process.communicate(timeout=CLIENT_TIMEOUT_S)[1].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            found = f"no end after {CLIENT_TIMEOUT_S:.0f} s"
            raise SourceError(client, found=found, transient=True) from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        if FULL.search(words):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        last = " ".join(words.split())[-400:] or "no message"
        found, is_network = f"exit code {process.returncode} ({last})", NETWORK.search(words)
        raise SourceError(client, found=found, transient=is_network is not None)
