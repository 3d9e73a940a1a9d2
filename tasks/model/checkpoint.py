"""Checkpoints of a training: tensors and a position, complete or absent."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tasks.model.network import copied
from tasks.runtime.files import sha256_bytes, write_atomically

logger = logging.getLogger(__name__)


class Checkpoint:
    """A safetensors file of tensors and a position. Nothing in it can run as code."""

    def __init__(self, path: Path, every_s: float) -> None:
        self.path, self.every_s = path, every_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        """Return whether `every_s` seconds have passed since the last save, or since the start."""
        return time.monotonic() - self._last_s >= self.every_s

    def save(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Replace the file atomically. Raises StorageError for a full disk."""
        now, encoded = copied(tensors), json.dumps(position, sort_keys=True)
        metadata = {"position": encoded, "sha256": _digest(now, encoded)}
        write_atomically(self.path, save(now, metadata=metadata))
        self._last_s = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and the position; None where there is no file or, logged, damage."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
            tensors = load_file(self.path)
            if _digest(tensors, metadata["position"]) != metadata["sha256"]:
                raise ValueError("its digest is another one")
            return tensors, json.loads(metadata["position"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            logger.warning("%s is damaged, training starts again: %s", self.path, error)
            return None


def _digest(tensors: Mapping[str, Tensor], position: str) -> str:
    """Return the SHA-256 of the names, shapes, types and bytes of all tensors, and the position."""
    parts = [position]
    for name, tensor in sorted(tensors.items()):
        parts.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}")
        parts.append(sha256_bytes(tensor.numpy().tobytes()))
    return sha256_bytes("\n".join(parts).encode())
