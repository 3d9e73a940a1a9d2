"""The validation report as one page: self-contained, for a phone as for a desk, light or dark."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

TEMPLATE = Path(__file__).with_name("validation.html")

# Of the rows that break an expectation the page shows so many with their image, and so many in all.
MAX_PICTURES = 12
MAX_NAMES = 400
# The longer side of a picture is cut down to at most this, so that large images make no huge page.
MAX_SIDE = 64


def page_of(report: Mapping[str, Any], images: Mapping[str, NDArray[np.uint8]]) -> str:
    """The HTML of a report; `images` are (N, H, W) by split, of which only the named are read."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        finding["name"]: [
            (name, picture(image_of(name, images))) for name in finding["rows"][:MAX_PICTURES]
        ]
        for finding in report["expectations"]
    }
    return environment.get_template(TEMPLATE.name).render(
        report=report, pictures=pictures, max_pictures=MAX_PICTURES, max_names=MAX_NAMES
    )


def image_of(name: str, images: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The image of a row named like `train[17]`, or like `test[3] = train[17]`."""
    split, index = re.split(r"[\[\]]", name)[:2]
    image_HW: NDArray[np.uint8] = images[split][int(index)]
    return image_HW


def picture(image_HW: NDArray[np.uint8]) -> str:
    """A data: URL of the image as a grey PNG, every n-th pixel where it is large."""
    step = -(-max(image_HW.shape) // MAX_SIDE)
    image_HW = image_HW[::step, ::step]
    height, width = image_HW.shape
    # Each line begins with its filter, 0 for none; nothing is compressed, so that no zlib differs.
    lines = b"".join(b"\0" + line.tobytes() for line in image_HW)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 0)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
