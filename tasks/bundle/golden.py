"""Golden pairs: a few images and what the network said about them when its bundle was made.

Axes: N golden images, M rows, H × W pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.errors import ReleaseError

if TYPE_CHECKING:
    from torch import nn

GOLDEN = "golden.safetensors"
NUM_GOLDEN = 32


@dataclass(frozen=True)
class Golden:
    """Images uint8 (N, H, W) and the probabilities float32 (N, C) that torch gave them."""

    images_NHW: NDArray[np.uint8]
    probabilities_NC: NDArray[np.float32]


def golden_rows(rows_M: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most NUM_GOLDEN of the rows, evenly spaced, the first and the last among them."""
    num_golden = min(NUM_GOLDEN, len(rows_M))
    return rows_M[np.linspace(0, len(rows_M) - 1, num_golden).round().astype(np.int64)]


def golden_bytes(network: nn.Sequential, images_NHW: NDArray[np.uint8]) -> bytes:
    """The images and what the network makes of them, as safetensors; the same bytes every time."""
    from safetensors.numpy import save

    return save({"images": images_NHW, "probabilities": said_by(network, images_NHW)})


def said_by(network: nn.Sequential, images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's probabilities (N, C) on the CPU, on one thread: sums made in one order."""
    from tasks.model.network import probabilities
    from tasks.runtime.devices import one_thread

    with one_thread():
        return probabilities(network, images_NHW.reshape(len(images_NHW), -1))


def read_golden(path: Path) -> Golden:
    """The golden pairs of a bundle; raises ReleaseError for a file that does not hold any."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _fault(path, " ".join(str(error).split())) from error
    images, said = arrays.get("images"), arrays.get("probabilities")
    if images is None or said is None or images.dtype != np.uint8 or said.dtype != np.float32:
        raise _fault(path, f"the arrays {', '.join(sorted(arrays)) or 'of nothing'}")
    if (images.ndim, said.ndim) != (3, 2) or not 0 < len(images) == len(said) <= NUM_GOLDEN:
        raise _fault(path, f"images {images.shape} and probabilities {said.shape}")
    return Golden(images, said)


def _fault(path: Path, found: str) -> ReleaseError:
    return ReleaseError(
        path.name,
        found=found,
        expected="images uint8 (N, H, W) and probabilities float32 (N, C)",
        remedy="Publish the version again.",
    )
