"""A training that is not finished, in one file: whole and verified, or not there at all."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tasks.model.network import copied
from tasks.runtime.files import sha256_bytes, write_atomically

logger = logging.getLogger(__name__)

Saved = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """A file of tensors and the JSON of a position, replaced atomically every `every_s` seconds.

    Tensors are all that is ever loaded from it: nothing in the file can run.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        self.path = path
        self.every_s = every_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last save, or the start, is long enough ago."""
        return time.monotonic() - self._last_s >= self.every_s

    def save(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Replace the file; raises StorageError where there is no room."""
        now = copied(tensors)
        told = json.dumps(position, sort_keys=True)
        words = {"position": told, "sha256": _digest(now, told)}
        write_atomically(self.path, save(now, metadata=words))
        self._last_s = time.monotonic()

    def load(self) -> Saved | None:
        """The tensors and the position; None, with a warning, for a file that is damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                words = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = words["position"]
            if _digest(tensors, told) != words["sha256"]:
                raise ValueError("its digest is another one")
            return tensors, json.loads(told)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            logger.warning("%s is damaged, training begins anew: %s", self.path, error)
            return None

    def discard(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], told: str) -> str:
    """The SHA-256 of names, shapes, types and bytes of all tensors, and of the position."""
    parts = [told.encode()]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        parts.append(sha256_bytes(tensor.numpy().tobytes()).encode())
    return sha256_bytes(b"\n".join(parts))
