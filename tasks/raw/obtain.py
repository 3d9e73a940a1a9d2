"""The four raw files of a data set, each from the first source that gives the right bytes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline_config.datasets import FILES, Dataset, RawFile
from pipeline_config.sections import given_path
from tasks.raw.digits import sklearn_digits
from tasks.raw.download import web_folder
from tasks.raw.local import local_folder
from tasks.raw.packages import deb_package, npm_package
from tasks.raw.receive import Opener, Received, receive
from tasks.runtime.errors import FetchError, RawDataError, SourceError
from tasks.runtime.show import Advance, progress
from tasks.runtime.store import Facts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What one source did: the files that it gave, and the error at which it was left."""

    source: str
    files: tuple[str, ...]
    error: RawDataError | SourceError | None

    @property
    def result(self) -> str:
        """The outcome in words, for the log, the UI and the error."""
        if self.error is None:
            return f"gave {', '.join(self.files) or 'nothing'}"
        told = f"{self.error.what}: {self.error.found}"
        is_data = isinstance(self.error, RawDataError)
        return f"{told}, expected {self.error.expected}" if is_data else told


def obtain(
    dataset: Dataset,
    source: str | None,
    folder: Path,
    tell: Callable[[Attempt], None] = lambda attempt: None,
    show: Callable[[float], None] = lambda share: None,
) -> Facts:
    """Put the four raw files into `folder` under their canonical names; their digests and sizes.

    `source` is tried before the data set's own, which are tried in order; a source is left at its
    first failure, and what it gave until then is kept. No source is tried twice: that is the task's
    to do. A folder as a data set has no source but itself. `tell` hears of each source, `show` of
    the share that is done. Raises FetchError when no source gives a file, and RawDataError for a
    folder as a data set that cannot be used.
    """
    sources = dataset.sources
    if dataset.content is None and source is not None:
        sources = (source, *sources)
    received: dict[str, Received] = {}
    failures: list[Attempt] = []
    with (
        tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch,
        _measured(dataset, show) as advance,
    ):
        for place in sources:
            aside = Path(tempfile.mkdtemp(dir=scratch))
            attempt = _take(place, dataset, received, folder, aside, advance)
            tell(attempt)
            if attempt.error is None:
                logger.info("%s: %s %s", dataset.name, place, attempt.result)
                break
            logger.warning("%s: left %s: %s", dataset.name, place, attempt.result)
            failures.append(attempt)
        else:
            raise _failure(dataset, failures)
    return {
        "sha256": {name: received[name].sha256 for name in FILES},
        "num_bytes": {name: received[name].num_bytes for name in FILES},
    }


def _take(
    source: str,
    dataset: Dataset,
    received: dict[str, Received],
    folder: Path,
    scratch: Path,
    advance: Advance,
) -> Attempt:
    """Take the files that are still missing from one source, until it fails."""
    given: list[str] = []
    error: RawDataError | SourceError | None = None
    advance(0, source)
    try:
        with _opened(source, scratch, dataset.content) as opener:
            for name in [name for name in FILES if name not in received]:
                expected = dataset.files.get(name, RawFile())
                target = scratch / f"received-{name}"
                received[name] = _take_file(opener, name, expected, target, advance)
                target.rename(folder / name)
                given.append(name)
    except (RawDataError, SourceError) as fault:
        error = fault
    return Attempt(source, tuple(given), error)


def _take_file(
    opener: Opener, name: str, expected: RawFile, target: Path, advance: Advance
) -> Received:
    """One try at one file; the bar goes back by what came in vain."""
    came = 0

    def count(num_bytes: int) -> None:
        nonlocal came
        came += num_bytes
        advance(num_bytes, name)

    try:
        with opener(name) as chunks:
            return receive(chunks, name, expected, target, count)
    except BaseException:
        advance(-came, name)
        raise


def _opened(source: str, scratch: Path, content: str | None) -> AbstractContextManager[Opener]:
    """The opener of a source by its scheme; without one it is a folder's path."""
    scheme = source.partition(":")[0]
    if scheme in ("http", "https"):
        return web_folder(source)
    if scheme == "npm":
        return npm_package(source, scratch)
    if scheme == "deb":
        return deb_package(source, scratch)
    if source == "sklearn:digits":
        return sklearn_digits(scratch)
    return local_folder(given_path(source.removeprefix("folder:")), scratch, content)


@contextmanager
def _measured(dataset: Dataset, show: Callable[[float], None]) -> Iterator[Advance]:
    """A progress bar over the raw bytes of all four files, and `show` told of the share."""
    sizes = [dataset.files.get(name, RawFile()).num_bytes for name in FILES]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0

    with progress(f"fetch {dataset.name}", total, "bytes") as bar:

        def advance(num_bytes: int, words: str) -> None:
            nonlocal done
            done += num_bytes
            bar(num_bytes, words)
            if total:
                show(done / total)

        yield advance


def _failure(dataset: Dataset, failures: list[Attempt]) -> Exception:
    """The one error that says why each source was left, and how to do without them."""
    errors = [attempt.error for attempt in failures if attempt.error]
    if dataset.content is not None and isinstance(errors[0], RawDataError):
        return errors[0]
    reasons = "".join(f"\n  {attempt.source}\n    {attempt.result}" for attempt in failures)
    return FetchError(
        f"data set {dataset.name}",
        found=f"none of {len(failures)} sources working",
        expected="the four files with the right digests",
        remedy=(
            "Put the files, as they are published, into a folder and name it: "
            f"idxflow run --dataset {dataset.name} --source FOLDER\n"
            f"Each source and why it was left:{reasons}"
        ),
        transient=any(getattr(error, "transient", False) for error in errors),
    )
