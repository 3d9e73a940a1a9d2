"""What every test shares: a root of its own, so that no test sees another's artifacts."""

from __future__ import annotations

import signal
from collections import Counter
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often which promise held after which fault, as the tests of faults told it."""
    held: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, told in report.user_properties:
            if name == "held":
                fault, promises = told
                held.setdefault(fault, Counter()).update(promises)
    if not held:
        return
    promises = list(dict.fromkeys(promise for counts in held.values() for promise in counts))
    width = max(map(len, held))
    terminalreporter.section("fault × promise: how often it was tried, and held each time")
    terminalreporter.line(" ".join(["fault".ljust(width), *promises]))
    for fault in sorted(held):
        cells = [str(held[fault][promise] or "–").rjust(len(promise)) for promise in promises]
        terminalreporter.line(" ".join([fault.ljust(width), *cells]))
