"""Fixtures: a small data set as arrays and as files, and a web server that can fail."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline_config.datasets import FILES, Dataset, RawFile
from tasks.raw.idx import write_idx


@pytest.fixture
def make_dataset(files) -> Callable[..., Dataset]:
    """Return a function that makes a data set of the four small files from sources and fields."""

    def make(*sources: str, **fields) -> Dataset:
        known = {
            "name": "small",
            "title": "small",
            "num_classes": 10,
            "image_shape": None,
            "class_names": tuple("0123456789"),
            "default_recipe": "fast",
            "files": files,
        }
        return Dataset(sources=sources, **{**known, **fields})

    return make


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """Return the four arrays by canonical name: 20 and 10 images of 4×4 pixels."""
    rng = np.random.default_rng(0)
    made = {}
    for split, rows in (("train", 20), ("t10k", 10)):
        made[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (rows, 4, 4), np.uint8)
        made[f"{split}-labels-idx1-ubyte"] = (np.arange(rows) % 10).astype(np.uint8)
    return {name: made[name] for name in FILES}


@pytest.fixture(scope="session")
def raw(arrays, tmp_path_factory) -> Path:
    """Return a folder with the four raw files."""
    folder = tmp_path_factory.mktemp("raw")
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return folder


@pytest.fixture(scope="session")
def files(raw) -> dict[str, RawFile]:
    """Return the sizes and digests of the four files."""
    contents = {name: (raw / name).read_bytes() for name in FILES}
    return {
        name: RawFile(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }


@pytest.fixture
def target(tmp_path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


class Web:
    """A web server on loopback; `answer(handler, name)` sends each response."""

    def __init__(self, raw: Path) -> None:
        self.raw, self.requests = raw, Counter()
        self.answer: Callable[[BaseHTTPRequestHandler, str], None] = self.serve

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                name = handler.path.rpartition("/")[2]
                self.requests[name] += 1
                self.answer(handler, name)

            def log_message(handler, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/data/"

    def content(self, name: str) -> bytes:
        return gzip.compress((self.raw / name.removesuffix(".gz")).read_bytes(), mtime=0)

    def serve(self, handler, name: str) -> None:
        self.send(handler, self.content(name))

    def send(self, handler, content: bytes, status: int = 200, length: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web(raw) -> Iterator[Web]:
    server = Web(raw)
    yield server
    server.close()
