"""The files of a label audit, and the table of suspects among them, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.evaluation.confident_learning import Suspects

SUSPECTS = "suspects.parquet"
NOISE = "noise.json"
GALLERY = "gallery.png"


def write_suspects(path: Path, suspects: Suspects) -> None:
    """A row a suspect, the likeliest first: rank from 1, row of the training split, labels, why."""
    columns = {
        "rank": np.arange(1, len(suspects.row_S) + 1),
        "row": suspects.row_S,
        "label": suspects.label_S,
        "suggested": suspects.suggested_S,
        "self_confidence": suspects.self_confidence_S,
        "confidence": suspects.confidence_S,
        "margin": suspects.margin_S,
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_suspects(path: Path, limit: int) -> list[dict[str, Any]]:
    """The first `limit` suspects, a mapping a row with the keys of `write_suspects`."""
    rows: list[dict[str, Any]] = pq.read_table(path).slice(0, limit).to_pylist()
    return rows
