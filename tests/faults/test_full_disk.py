"""A write that ends in the middle of a file: the process is killed there, or the disk is full.

The kernel limits how far any file may grow (RLIMIT_FSIZE), so that writers in C++ and Rust meet it
too: the Parquet files, the weights, the checkpoint. What cannot be had this way is ENOSPC at each
step, which is in test_killed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.stages import STAGE_NAMES

PROMISES = ("intact", "nothing lost", "converges", "once", "clean")
# Whose files are written by Arrow (C++), safetensors (Rust) and NumPy, and the bundle.
CORE = ("convert", "normalize", "train", "publish")


def largest(root: Path, stage: str) -> int:
    """The size of the largest file that a stage makes, bytes."""
    pattern = "models/*/*/*" if stage == "publish" else f"stages/{stage}-*/*"
    return max(path.stat().st_size for path in root.glob(pattern) if path.is_file())


@pytest.mark.parametrize("fault", ["killed at byte", "full at byte"])
@pytest.mark.parametrize(
    ("stage", "share"),
    [
        *((stage, 0.5) for stage in CORE),
        *(
            pytest.param(stage, share, marks=pytest.mark.exhaustive)
            for stage in STAGE_NAMES
            for share in (0, 0.1, 0.5, 0.9, 0.999)
            if (stage, share) not in {(stage, 0.5) for stage in CORE}
        ),
    ],
)
def test_in_the_middle_of_a_file(
    lab: Any, scenario_of: Any, held: Callable[..., None], stage: str, fault: str, share: float
) -> None:
    lab.lay("first")
    at = int(share * largest(lab.root, stage))
    scenario = scenario_of(f"no-{stage}", "first", "first", "first")
    lab.num_reported = 0
    assert lab.meet(scenario, fault, at) == []
    assert lab.num_reported == (fault == "full at byte")
    held(f"{fault}, {stage}", *PROMISES)
    held(f"{fault}, {stage}", "reported", times=lab.num_reported)
