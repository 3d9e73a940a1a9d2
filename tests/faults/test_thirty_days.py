"""Nine days of `benchmarks/thirty_days.py`, with a power cut and four kills, on the real MNIST."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.datasets import named_dataset
from pipeline_config.settings import CHECKOUT
from tasks.raw.fetch import fetch
from tasks.runtime.errors import FetchError

pytestmark = [pytest.mark.flow, pytest.mark.exhaustive, pytest.mark.real]


@pytest.fixture
def lived(tmp_path: Path) -> dict[str, Any]:
    """The figures of nine days. Nothing of Prefect's is in the environment."""
    try:
        raw = fetch.fn(named_dataset("mnist"), None)
    except FetchError as error:
        pytest.skip(f"no source of MNIST answers here: {error.found}")
    script, words = CHECKOUT / "benchmarks" / "thirty_days.py", ("--days", "9", "--seed", "3")
    done = subprocess.run(
        [sys.executable, str(script), *words, "--out", str(tmp_path), str(raw.path)],
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "thirty-days.json").read_text())
    return found


def test_nothing_bad_trains_and_nothing_needs_a_person(lived: dict[str, Any]) -> None:
    missed = {each["target"]: each["found"] for each in lived["targets"] if not each["met"]}
    assert not missed
    assert len(lived["kills"]) == 5
    bad = lived["bad_rows"]
    assert bad["plain"]["wrong label"] > 400
    assert (bad["plain"]["test row"], bad["plain"]["twice"]) == (20, 500)
    assert set(bad["ours"].values()) == {0}
    # Of six days' labels those of three are bad, and one comes twice.
    assert Counter(each["event"] for each in lived["shards"]) == {"admitted": 3, "quarantined": 3}
    reasons = " ".join(each["reason"] for each in lived["shards"])
    for words in ("labels fit the images", "20 rows are test rows", "images"):
        assert words in reasons
