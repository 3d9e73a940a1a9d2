"""A server for the pages of models, drift, refused data sets and quarantined shards, on loopback.

It serves *.html and *.png below FOLDERS, and lists no folder.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pipeline_config.settings import settings

FOLDERS, SUFFIXES = ("models", "rejected", "quarantine", "monitor"), (".html", ".png")


class Pages(SimpleHTTPRequestHandler):
    """Answers GET and HEAD for a page or a figure; everything else does not exist."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Send the headers; return the open file, or None after an error."""
        root = settings().root.resolve()
        path = Path(self.translate_path(self.path)).resolve()  # where a link leads
        # A page of another site that reaches 127.0.0.1 under its own name gets nothing.
        is_ours = self.headers.get("Host", "").partition(":")[0] in ("127.0.0.1", "localhost")
        is_below = any(path.is_relative_to(root / name) for name in FOLDERS)
        if is_ours and is_below and path.suffix in SUFFIXES and path.is_file():
            return super().send_head()
        self.send_error(HTTPStatus.NOT_FOUND)
        return None


def serve(port: int) -> None:
    """Serve the pages until the process ends."""

    def handler(*request: object) -> Pages:
        return Pages(*request, directory=str(settings().root))  # type: ignore[arg-type]

    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
