"""How much longer than Prefect itself does a whole run take? Both sides in one session, in turn.

The floor: a flow of seven empty tasks on the same embedded server. The work: `idxflow run` on MNIST
with the raw files given, everything else cold. Run it on a machine that does nothing else:

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

FLOOR = """
from flows.environment import prepare_environment
prepare_environment()
from flows.server import prefect_server
with prefect_server() as wait:
    from prefect import flow, task
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    @task
    def empty(number):
        return number

    @flow
    def seven():
        for number in range(7):
            empty(number)

    wait()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
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
    """Print the medians, and the difference round by round."""
    run = [sys.executable, "-c", "from flows.cli import main; main()", "run", "--source", raw]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        seconds([sys.executable, "-c", FLOOR], root)  # the database's migrations, once
        for _ in range(rounds):
            floor = seconds([sys.executable, "-c", FLOOR], root)
            whole = seconds(run, root)
            rerun = seconds(run, root)
            rows.append((floor, whole, whole - floor, rerun))
            print("floor {:.1f} s, run {:.1f} s, more {:.1f} s, rerun {:.2f} s".format(*rows[-1]))
            for folder in ("stages", "models"):
                shutil.rmtree(root / folder)
    floor, whole, more, rerun = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"median: floor {floor:.1f} s, run {whole:.1f} s, more {more:.1f} s, rerun {rerun:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the largest process {peak:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
