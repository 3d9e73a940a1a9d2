"""What every test shares: a root of its own, so that no test sees another's artifacts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: every child would inherit deafness to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh IDXFLOW_ROOT for each test."""
    folder = tmp_path / "root"
    monkeypatch.setenv("IDXFLOW_ROOT", str(folder))
    return folder
