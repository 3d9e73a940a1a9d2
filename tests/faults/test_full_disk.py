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

PROMISES = ("whole", "nothing lost", "converges", "once", "swept")
MORE = [pytest.param(share, marks=pytest.mark.exhaustive) for share in (0, 0.1, 0.9, 0.999)]


def largest(root: Path, stage: str) -> int:
    """The size of the largest file that a stage makes, bytes."""
    pattern = "models/*/*/*" if stage == "publish" else f"stages/{stage}-*/*"
    return max(path.stat().st_size for path in root.glob(pattern) if path.is_file())


@pytest.mark.parametrize("share", [0.5, *MORE])
@pytest.mark.parametrize("fault", ["killed at byte", "full at byte"])
@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_in_the_middle_of_a_file(
    lab: Any, scenario_of: Any, held: Callable[..., None], stage: str, fault: str, share: float
) -> None:
    lab.lay("first")
    at = int(share * largest(lab.root, stage))
    scenario = scenario_of(f"no-{stage}", "first", "first", "first")
    assert lab.meet(scenario, fault, at) == []
    held(f"{fault}, {stage}", *PROMISES, *(["told"] if fault.startswith("full") else []))
