"""How much longer than Prefect itself does a whole run take? All sides in one session, in turn.

Two floors, each a flow of seven empty tasks: on the server that Prefect starts by itself, and on
ours. The work: `idxflow run` on MNIST with the raw files given, everything else cold. Run it on a
machine that does nothing else:

    python benchmarks/flow_overhead.py FOLDER_WITH_RAW_MNIST [ROUNDS]
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOW = """
from prefect import flow, task

@task
def empty(number):
    return number

@flow
def seven():
    for number in range(7):
        empty(number)
"""

STOCK = f"""
from flows.server import prepare_environment
prepare_environment()
{FLOW}
seven()
"""

OURS = f"""
from flows.server import prepare_environment
prepare_environment()
from flows.server import prefect_server
with prefect_server() as wait:
    {FLOW.replace(chr(10), chr(10) + "    ")}
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    wait()
    with temporary_settings({{PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}}):
        seven()
    EventsWorker.drain_all(timeout=10)
"""


def seconds(command: list[str], root: Path) -> float:
    """The wall time of a child process whose artifacts go to `root`."""
    started = time.perf_counter()
    environment = {**os.environ, "IDXFLOW_ROOT": str(root)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main(raw: str, rounds: int) -> None:
    """Print each round and the medians."""
    run = [sys.executable, "-c", "from flows.cli import main; main()", "run", "--source", raw]
    stock, ours = ([sys.executable, "-c", program] for program in (STOCK, OURS))
    names = ("Prefect's server", "our server", "run", "rerun")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for floor in (stock, ours):  # the databases' migrations, once
            seconds(floor, root)
        for _ in range(rounds):
            rows.append([seconds(command, root) for command in (stock, ours, run, run)])
            print(", ".join(f"{n} {s:.2f} s" for n, s in zip(names, rows[-1], strict=True)))
            for folder in ("stages", "models"):
                shutil.rmtree(root / folder)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print("median:", ", ".join(f"{n} {s:.2f} s" for n, s in zip(names, medians, strict=True)))
    for number in (0, 1):
        more = statistics.median(row[2] - row[number] for row in rows)
        print(f"run is {more:.1f} s longer than seven empty tasks on {names[number]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the largest process {peak:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
