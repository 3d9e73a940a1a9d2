"""A folder on the web as a source: `<file>.gz` below an http(s) address.

A failure of the network is `transient`: the same source may give the file in a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tasks.raw.receive import CHUNK_BYTES, Chunks, Opener
from tasks.runtime.errors import SourceError

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
# Ask for the file itself: a server that packs it once more changes the gzip's digest.
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "idxflow"}
BUSY = {408, 425, 429, 500, 502, 503, 504}
UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout)


@contextmanager
def web_folder(address: str) -> Iterator[Opener]:
    """The opener of the files below `address`; raises SourceError for what the web answers with."""
    base = address.rstrip("/")
    with httpx.Client(timeout=TIMEOUT, headers=HEADERS, follow_redirects=True) as client:
        yield lambda name: _download(client, f"{base}/{name}.gz", f"{name}.gz")


@contextmanager
def _download(client: httpx.Client, url: str, name: str) -> Iterator[Chunks]:
    try:
        with client.stream("GET", url) as response:
            response.raise_for_status()
            yield response.iter_raw(CHUNK_BYTES)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise _fault(name, f"HTTP status {status}", transient=status in BUSY) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        reached = "no connection" if isinstance(error, UNREACHABLE) else "a broken download"
        transient = isinstance(error, httpx.TransportError)
        raise _fault(name, f"{reached} ({reason})", transient=transient) from error


def _fault(what: str, found: str, *, transient: bool) -> SourceError:
    return SourceError(
        what,
        found=found,
        expected="the file",
        remedy="Look at the network or take another source.",
        transient=transient,
    )
