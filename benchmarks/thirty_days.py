"""Thirty days in an hour: digits that drift, three ways to live with them, and kills.

Each simulated day 500 real digits are served, which turn and get thinner from the eleventh day on.
Their labels arrive three days later, as a shard: one has shuffled labels, one comes twice, one has
test rows in it, and one is cut off. The same days are lived through in three ways:

- never: the model of the first night answers for ever;
- plain: trained anew each night on everything that arrived, and taken without a gate;
- ours: `idxflow up` with a root of its own; each night the deployment retrain/nightly, each day
  monitor/images on the unlabelled images. Server, worker, or all processes with the run are
  killed at random moments, and only `idxflow up` follows.

    python benchmarks/thirty_days.py --days 30 FOLDER

FOLDER has the four raw files of MNIST. `thirty-days.json` and `thirty-days.png` are written to
`--out`, by default to this folder. The seed decides days, faults and kills.

Axes: N rows, images of H×W pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import ndimage
from thirty_days_plot import draw, explained, judged

from flows.station import ask, known_station, marked, running
from pipeline_config.datasets import FILES
from pipeline_config.recipe_files import load_recipe
from tasks.raw.idx import read_splits, write_idx
from tasks.release.bundle import ONNX, bundle_folder
from tasks.release.journal import read_pointer
from tasks.release.onnx_model import read_model

NAME, RECIPE = "digits", "fast"
ROWS, MANY, LATE, VALIDATION = 500, 5_000, 3, 5_000
SHUFFLED, TWICE, TEST_ROWS, CUT = "labels shuffled", "comes twice", "has test rows", "cut off"
# What is killed, and how often of ten kills. A power cut ends the run too.
TARGETS = {"server": 4, "worker": 3, "server worker": 2, "power cut": 1}
# How often a run is disturbed, the last moment for it, and how long no process of it means "gone".
KILL_SHARE, LATEST_KILL_S, GONE_S = 0.3, {"images": 8, "nightly": 22}, 30
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
COMMAND = (sys.executable, "-c", "from flows.cli import main; main()")
Pixels = NDArray[np.uint8]


class Delivery(NamedTuple):
    """Rows that arrive in one night; `is_cut`: half of the file of images is missing."""

    name: str
    images_NHW: Pixels
    labels_N: Pixels
    is_cut: bool = False


def digest(image: Pixels) -> bytes:
    """The SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).digest()


def drifted(images_NHW: Pixels, amount: float) -> Pixels:
    """Images turned by up to 25° and with thinner strokes; an amount of 0 changes nothing."""
    if not amount:
        return images_NHW
    images = images_NHW.astype(np.float64)
    images = (1 - amount / 2) * images + amount / 2 * ndimage.grey_erosion(images, size=(1, 2, 2))
    turned = ndimage.rotate(images, 25 * amount, axes=(1, 2), reshape=False, order=1)
    return np.clip(np.round(turned), 0, 255).astype(np.uint8)


class World:
    """The rows of each day, and what arrives in each night. Days count from 1."""

    def __init__(self, folder: Path, num_days: int, seed: int) -> None:
        splits = read_splits(folder, 10)
        self.images, self.labels = (np.array(each) for each in splits["train"])
        self.test = tuple(np.array(each) for each in splits["test"])
        self.num_days, self.quiet = num_days, num_days // 3
        order = np.random.default_rng(seed).permutation(len(self.labels))
        sizes = [MANY, *[ROWS] * num_days]
        self.many, *self.served, self.created = np.split(order, np.cumsum(sizes))
        shares = {SHUFFLED: 0.25, TWICE: 0.375, TEST_ROWS: 0.5, CUT: 0.625}
        self.faults = {round(num_days * share): fault for fault, share in shares.items()}
        self.right = {
            digest(image): int(label)
            for day in range(1, num_days + 1)
            for image, label in zip(*self.day(day), strict=True)
        }
        self.test_digests = {digest(image) for image in self.test[0]}

    def rows(self, which: Any, day: int) -> tuple[Pixels, Pixels]:
        """Some rows as they look on a day."""
        amount = max(0, day - self.quiet) / (self.num_days - self.quiet)
        return drifted(self.images[which], amount), self.labels[which]

    def day(self, day: int) -> tuple[Pixels, Pixels]:
        """The rows that are served on a day."""
        return self.rows(self.served[day - 1], day)

    def arrives(self, night: int) -> list[Delivery]:
        """What arrives in a night: the labelled rows of LATE days before, and what is wrong."""
        day = night - LATE
        found = []
        if self.faults.get(day - 1) == TWICE:
            found.append(Delivery(f"once-more-{day - 1:02}", *self.day(day - 1)))
        if day < 1:
            return found
        (images, labels), fault = self.day(day), self.faults.get(day)
        if fault == SHUFFLED:
            labels = np.random.default_rng(day).permutation(labels)
        if fault == TEST_ROWS:
            pairs = zip(self.test, (images, labels), strict=True)
            images, labels = (np.concatenate([test[:20], own[20:]]) for test, own in pairs)
        return [*found, Delivery(f"day-{day:02}", images, labels, fault == CUT)]

    def bad_rows(self, digests: Sequence[bytes], labels: Sequence[int]) -> dict[str, int]:
        """How many of some rows that were trained on should not have been."""
        known = zip(digests, labels, strict=True)
        return {
            "wrong label": sum(self.right.get(each, label) != label for each, label in known),
            "test row": sum(each in self.test_digests for each in digests),
            "twice": len(digests) - len(set(digests)),
        }


class Plain:
    """Trains each night on all rows that arrived, as they arrived, without a gate."""

    def __init__(self, world: World) -> None:
        rows = world.created[:-VALIDATION]
        self.images, self.labels = [world.images[rows]], [world.labels[rows]]
        self.answers: Callable[[Pixels], Any] | None = None

    def night(self, arrived: Sequence[Delivery]) -> None:
        """Add what arrived, of a file that is cut off what is there, and train."""
        import torch
        from torch.utils.data import TensorDataset

        from tasks.model.network import build_network, initialize, probabilities
        from tasks.model.training import Trainer

        for each in arrived:
            whole = len(each.labels_N) // 2 if each.is_cut else len(each.labels_N)
            self.images.append(each.images_NHW[:whole])
            self.labels.append(each.labels_N[:whole])
        torch.set_num_threads(1)
        images, labels = np.concatenate(self.images), np.concatenate(self.labels)
        recipe = load_recipe(RECIPE)
        scale = float(images.mean()), float(images.std())
        network = build_network(recipe.model, images[0].size, 10, *scale)
        initialize(network, recipe.model, recipe.training.seed)
        flat = torch.from_numpy(images.reshape(len(images), -1))
        rows = TensorDataset(flat, torch.from_numpy(labels.astype(np.int64)))
        shape = (images.shape[1], images.shape[2])
        none = TensorDataset(flat[:0], flat[:0])
        Trainer(network, recipe.training, shape, rows, none).fit(lambda *_: None)
        network.eval()
        self.answers = lambda given: probabilities(network, given.reshape(len(given), -1))

    def bad_rows(self, world: World) -> dict[str, int]:
        """How many bad rows it was trained on."""
        images, labels = np.concatenate(self.images[1:]), np.concatenate(self.labels[1:])
        return world.bad_rows([digest(image) for image in images], labels.tolist())


class Ours:
    """The station of `idxflow up`, which is killed at moments that the seed decides."""

    def __init__(self, root: Path, world: World, seed: int) -> None:
        self.root, self.chance = root, np.random.default_rng([seed, 1])
        self.kills: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        given = root / "given"
        given.mkdir()
        created = world.images[world.created], world.labels[world.created]
        for file, array in zip(FILES, (*created, *world.test), strict=True):
            write_idx(given / file, array)
        idxflow("data", "create", NAME, str(given), "--recipe", RECIPE)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        idxflow("up", "--port", str(port if port < 65_000 else port - 10_000))

    def run(self, day: int, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment, perhaps kill something, and wait for its end; its id."""
        (found,) = told("/deployments/filter", deployments={"name": {"any_": [deployment]}})
        path = f"/deployments/{found['id']}/create_flow_run"
        run = str(told(path, parameters=parameters)["id"])
        started, words = time.monotonic(), {"day": day, "run": deployment}
        is_killed = day > 0 and self.chance.random() < KILL_SHARE
        moment_s = self.chance.uniform(0, LATEST_KILL_S[deployment])
        target = str(self.chance.choice([*TARGETS], p=np.array([*TARGETS.values()]) / 10))
        if is_killed:
            time.sleep(max(0, started + moment_s - time.monotonic()))
            self.kills.append({**words, "target": target, "state": self._kill(target, run)})
            self.kills[-1]["after_s"] = round(moment_s, 1)
        name = self._end_of(run, was_killed=is_killed)
        seconds = round(time.monotonic() - started, 1)
        self.runs.append({**words, "state": name, "seconds": seconds})
        return run

    def _kill(self, target: str, run: str) -> str:
        """Send SIGKILL, then call `idxflow up`; the run's state just before."""
        state = str(told(f"/flow_runs/{run}")["state_name"])
        known = running(known_station())
        doomed = marked() if target == "power cut" else [known[name] for name in target.split()]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(doomed)
        idxflow("up")
        return state

    def _end_of(self, run: str, *, was_killed: bool) -> str:
        """Wait; the name of the run's last state, "gone" if its process was killed."""
        alive = time.monotonic()
        while True:
            found = told(f"/flow_runs/{run}")
            if found["state_type"] in ENDED:
                return str(found["state_name"])
            known = running(known_station()).values()
            is_alive = any(each not in known for each in marked())
            if is_alive or found["state_type"] == "SCHEDULED":
                alive = time.monotonic()
            if was_killed and time.monotonic() - alive > GONE_S:
                return "gone"
            time.sleep(0.5)

    def look(self, day: int, images_NHW: Pixels) -> dict[str, Any]:
        """What the deployment monitor/images says of the images of a day."""
        folder = self.root / "served" / f"day-{day:02}"
        folder.mkdir(parents=True)
        write_idx(folder / FILES[0], images_NHW)
        run = self.run(day, "images", dataset=NAME, files=[str(folder)])
        wanted = {"flow_run_id": {"any_": [run]}, "key": {"any_": ["drift"]}}
        shown = told("/artifacts/filter", artifacts=wanted)
        if not shown:
            return {"verdict": "not seen"}
        signals = json.loads(shown[0]["data"])
        found = {each["name"]: each["value"] for each in signals}
        alarms = [each["name"] for each in signals if each["alarms"]]
        return {**found, "alarms": alarms, "verdict": "drift" if alarms else "no drift"}

    def night(self, day: int, arrived: Sequence[Delivery]) -> None:
        """Drop what arrived in `incoming/`, and run the deployment retrain/nightly."""
        for each in arrived:
            folder = self.root / "incoming" / NAME / f"{each.name}.part"
            folder.mkdir(parents=True)
            write_idx(folder / FILES[0], each.images_NHW)
            write_idx(folder / FILES[1], each.labels_N)
            if each.is_cut:
                os.truncate(folder / FILES[0], (folder / FILES[0]).stat().st_size // 2)
            folder.rename(folder.with_suffix(""))
        self.run(day, "nightly", dataset=NAME, device="cpu")

    def bad_rows(self, world: World) -> dict[str, int]:
        """The largest number of bad rows in any table that was ever trained on."""
        worst: dict[str, int] = {}
        for path in self.root.glob("stages/convert-*/shards.parquet"):
            rows = pq.read_table(path, columns=["sha256", "label"])
            bad = world.bad_rows(rows["sha256"].to_pylist(), rows["label"].to_pylist())
            worst = {kind: max(number, worst.get(kind, 0)) for kind, number in bad.items()}
        return worst


def told(path: str, **content: Any) -> Any:
    """What the server answers. Like Prefect's own client, a call is repeated while it is busy."""
    end = time.monotonic() + 120
    while True:
        try:
            return ask(known_station(), path, **content)
        except httpx.HTTPError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def idxflow(*words: str, may_fail: bool = False) -> str:
    """A command in a process of its own; its output."""
    done = subprocess.run([*COMMAND, *words], check=False, capture_output=True, text=True)
    if done.returncode and not may_fail:
        raise SystemExit(f"idxflow {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def champion() -> str:
    """The version in `champion.json`, as another program reads it."""
    pointer = read_pointer(NAME)
    assert pointer is not None
    return pointer.champion.version


def model_of(version: str) -> Callable[[Pixels], Any]:
    """The published model of a version."""
    return read_model((bundle_folder(NAME, version) / ONNX).read_bytes(), ONNX).probabilities


def live(ours: Ours, world: World) -> dict[str, Any]:
    """Live through all days in the three ways; the figures of each day."""
    ours.run(0, "nightly", dataset=NAME, device="cpu")
    first, plain, days = model_of(champion()), Plain(world), []
    plain.night([])
    for day in range(1, world.num_days + 1):
        today, many = world.day(day), world.rows(world.many, day)
        version, morning = champion(), datetime.now(UTC).isoformat()
        ways = {"never": first, "plain": plain.answers, "ours": model_of(version)}

        def right(rows: tuple[Pixels, Pixels], ways: Any = ways) -> dict[str, float]:
            parts = {way: answers(rows[0]).argmax(axis=1) for way, answers in ways.items()}
            return {way: float((answered == rows[1]).mean()) for way, answered in parts.items()}

        found = {"day": day, "morning": morning, "champion": version}
        found |= {"on the day's rows": right(today), "on 5,000 rows": right(many)}
        found |= {"without drift": right(world.rows(world.many, 0)), "test": right(world.test)}
        found["monitor"] = ours.look(day, today[0])
        arrived = world.arrives(day)
        found["arrived"] = [each.name for each in arrived]
        with ThreadPoolExecutor() as pool:
            night = pool.submit(ours.night, day, arrived)
            plain.night(arrived)  # here, since training listens to signals
            night.result()
        days.append(found)
        print(json.dumps(found), flush=True)
    train = len([*ours.root.glob("stages/train-*")])
    return {
        "days": days,
        "faults": world.faults,
        "quiet_days": world.quiet,
        "kills": ours.kills,
        "runs": ours.runs,
        "trainings": {"never": 1, "plain": world.num_days + 1, "ours": train},
        "bad_rows": {"plain": plain.bad_rows(world), "ours": ours.bad_rows(world)},
        "explained": explained(NAME, days),
        "shards": json.loads(idxflow("data", "history", NAME, "--json")),
        "damage": json.loads(idxflow("scrub", "--json", may_fail=True))["damage"],
    }


def main() -> None:
    """Live through the days in a scratch root, and write figures and plot."""
    parser = argparse.ArgumentParser(description="Thirty days in an hour.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"IDXFLOW_ROOT": folder, "IDXFLOW_THREADS": "1"}
        os.environ["PREFECT_WORKER_QUERY_SECONDS"] = "2"  # in place of 10: the days are short
        world = World(given.folder, given.days, given.seed)
        try:
            ours = Ours(Path(folder), world, given.seed)
            found = live(ours, world)
        finally:
            idxflow("down")
    found["targets"] = judged(found)
    (given.out / "thirty-days.json").write_text(json.dumps(found, indent=1))
    draw(found, given.out / "thirty-days.png")
    print(json.dumps(found["targets"], indent=1))


if __name__ == "__main__":
    main()
