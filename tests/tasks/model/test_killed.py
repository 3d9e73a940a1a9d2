"""Real processes, really killed: training goes on where it stood and ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "train_digits.py"
RECIPE = (
    "training.epochs=60",
    "training.ema=0.99",
    "training.keep_epochs=true",
    "training.augmentation={shift_px: 0.5, rotation_deg: 5, scale: 0, shear: 0, elastic_px: 0, "
    "elastic_sigma_px: 1}",
)


def start(root: Path) -> subprocess.Popen[str]:
    """A child that has begun to train."""
    variables = {"IDXFLOW_ROOT": str(root), "IDXFLOW_CHECKPOINT_S": "0.1", "IDXFLOW_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(CHILD), *RECIPE],
        env=os.environ | variables | {"PREFECT_HOME": str(root / "prefect")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "training\n", child.communicate()[1]
    return child


def checkpoint_of(root: Path) -> Path | None:
    return next((root / "checkpoints").glob("train-*.safetensors"), None)


def wait_for_checkpoint(root: Path, child: subprocess.Popen[str]) -> Path:
    until = time.monotonic() + 60
    while time.monotonic() < until and child.poll() is None:
        if found := checkpoint_of(root):
            return found
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint: {child.communicate()}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a training that nobody disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    digest = start(root).communicate()[0]
    assert len(digest.strip()) == 64
    assert checkpoint_of(root) is None
    assert list((root / "stages").glob(".*")) == []
    return digest


def test_a_killed_training_goes_on_to_the_same_digest(root: Path, undisturbed: str) -> None:
    child = start(root)
    wait_for_checkpoint(root, child)
    child.kill()
    assert child.communicate()[0] == ""
    assert checkpoint_of(root) is not None
    assert start(root).communicate()[0] == undisturbed
    assert checkpoint_of(root) is None
    assert list((root / "stages").glob(".*")) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_first_and_goes_on(
    root: Path, undisturbed: str, number: signal.Signals
) -> None:
    child = start(root)
    before = wait_for_checkpoint(root, child).stat().st_mtime_ns
    child.send_signal(number)
    child.communicate()
    assert child.returncode not in (0, None)
    checkpoint = checkpoint_of(root)
    assert checkpoint is not None
    assert checkpoint.stat().st_mtime_ns > before
    assert start(root).communicate()[0] == undisturbed


@pytest.mark.exhaustive
def test_ten_kills_at_random_moments_change_no_bit(root: Path, undisturbed: str) -> None:
    moments = random.Random(20261122)
    kills, digest = 0, ""
    for _ in range(10):
        child = start(root)
        time.sleep(moments.uniform(0, 1.5))
        child.kill()
        digest = child.communicate()[0]
        kills += digest == ""
    assert kills >= 5
    print(f"{kills} kills")
    assert start(root).communicate()[0] == undisturbed
