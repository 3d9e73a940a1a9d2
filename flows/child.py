"""`idxflow run` as a child process with a root of its own, so that nothing of it shows elsewhere.

It gets an embedded Prefect server whatever server this process knows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from flows.console import say
from pipeline_config.settings import CHECKOUT
from tasks.runtime.errors import ReleaseError
from tasks.runtime.interrupts import SIGNALS

IDXFLOW = (sys.executable, "-c", "from flows.cli import main; main()")
# Those that a run takes for a wish to stop, and the end of the terminal.
ENDING = (*SIGNALS, signal.SIGHUP)


def run_apart(words: list[str], root: Path, threads: int) -> dict[str, Any]:
    """What `idxflow run --json` prints for these words; its progress is on standard error.

    Raises ReleaseError where the run fails, and SystemExit after Ctrl-C, SIGTERM or SIGHUP, once
    the child has ended by the same signal.
    """
    code, out = _run([*IDXFLOW, "run", "--json", *words], _environment(root, threads))
    if code != 0:
        raise ReleaseError(
            "the run in the scratch folder",
            found=f"exit code {code}; its own message stands above",
            expected="a run that ends well",
            remedy="Do what the message says.",
        )
    summary: dict[str, Any] = json.loads(out)
    return summary


def _environment(root: Path, threads: int) -> dict[str, str]:
    """Ours, less what leads to our Prefect server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"IDXFLOW_ROOT": str(root), "IDXFLOW_THREADS": str(threads)}


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit code and the standard output of a command; a signal is handed on to it, once.

    It is in a process group of its own, so that a terminal's Ctrl-C does not reach it twice.
    """
    told: list[int] = []
    child: subprocess.Popen[str] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if child is not None:
            child.send_signal(number)

    # One that is ignored, as under nohup, stays ignored, by the child too.
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, hand_on) for number in heard}
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        if told:
            child.send_signal(told[0])
        out, _ = child.communicate()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if told:
        say(f"stopped by {signal.Signals(told[0]).name}; nothing was compared")
        raise SystemExit(128 + told[0])
    return child.returncode, out
