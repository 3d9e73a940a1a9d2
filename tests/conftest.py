"""What every test shares: a root of its own, so that no test sees another's artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh IDXFLOW_ROOT for each test."""
    folder = tmp_path / "root"
    monkeypatch.setenv("IDXFLOW_ROOT", str(folder))
    return folder
