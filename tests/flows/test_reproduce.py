"""Reproduce: a version built again by a real run, and what is printed if it differs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

import flows.reproduce as module
from flows import console
from flows.cli.models import reproduce as command
from flows.plan import Choice, Plan
from flows.reproduce import compare, reproduce
from flows.summary import Summary
from pipeline_config.datasets import FILES
from pipeline_config.gate import gate_for
from tasks.raw.folder import folder_dataset
from tasks.raw.idx import write_idx
from tasks.release.bundle import GOLDEN, BundleManifest, inspect_bundle
from tasks.release.looks import read_looks
from tasks.runtime import devices
from tasks.runtime.errors import ConfigError, DeviceError, GateRefused, ReleaseError
from tasks.runtime.manifest import list_files

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def published(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a version trained for one epoch, in a root of its own."""
    from flows.retrain import retrain

    root = tmp_path_factory.mktemp("published")
    results = temporary_settings({PREFECT_LOCAL_STORAGE_PATH: root / "results"})
    with pytest.MonkeyPatch.context() as patch, results:
        patch.setenv("IDXFLOW_ROOT", str(root))
        with suppress(GateRefused):
            retrain(dataset="digits8x8", device="cpu", overrides=("training.epochs=1",))
    return next(root.glob("models/digits8x8/*/manifest.json")).parent


@pytest.fixture
def bundle(published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of it, to be changed; the root is the one that it was published in."""
    monkeypatch.setenv("IDXFLOW_ROOT", str(published.parents[2]))
    return Path(shutil.copytree(published, tmp_path / "bundle"))


def resealed(folder: Path, **provenance: Any) -> None:
    """Give a bundle the manifest that its files would have had, with another provenance."""
    manifest, _ = inspect_bundle(folder)
    assert manifest is not None
    files = list_files(folder)
    given = {"model": files["model.safetensors"].sha256, "metrics": files["metrics.json"].sha256}
    dataset = provenance.pop("dataset", manifest.dataset)
    given["data"] = provenance.pop("data", manifest.determinants.data)
    determinants = manifest.determinants.model_copy(update=given)
    made = BundleManifest.of(
        determinants,
        dataset=dataset,
        recipe=manifest.recipe,
        provenance=manifest.provenance | provenance,
        files=files,
    )
    (folder / "manifest.json").write_bytes(made.content())


def in_this_process(
    flow: str, plan: Plan, parameters: dict[str, Any], *_: Any, **__: Any
) -> Summary:
    """Run the flow on the tests' own server, which spares the start of another."""
    from flows.retrain import retrain

    results = Path(os.environ["IDXFLOW_ROOT"]) / "results"
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: results}):
        return retrain(**parameters)


def test_a_version_made_again_is_equal_to_the_bit(
    bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a manifest that names other code, as if a module had been edited since.

    The child shares the tests' server, to spare them the start of another.
    """
    manifest, _ = inspect_bundle(bundle)
    assert manifest is not None
    modules = manifest.provenance["modules"] | {"tasks.model.training": "0" * 64}
    libraries = manifest.provenance["libraries"] | {"numpy": "1.0"}
    resealed(bundle, modules=modules, libraries=libraries)
    keep = tmp_path / "kept"
    monkeypatch.setattr(module, "launch", in_this_process)
    console.log_to_console()
    command(str(bundle), keep=keep, as_json=True)
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["verdict"] == "equal to the bit", found
    assert all(row["equal"] for row in found["comparisons"])
    assert {row["what"] for row in found["comparisons"]} == {
        *("raw data", "recipe", "weights", "metrics", "version", "golden outputs")
    }
    assert [change.partition(":")[0] for change in found["changes"]] == [
        *("code tasks.model.training", "library numpy")
    ]
    assert found["changes"][1].startswith("library numpy: 1.0 → ")
    assert "train" in err, "progress is told on standard error"
    assert "refused" not in err, "its floor is above what one epoch gives"
    assert (keep / "stages").is_dir()
    assert read_looks("digits8x8")[-1].by == "reproduce", "the test rows were scored once more"
    with pytest.raises(ConfigError, match="something there"):
        reproduce(bundle, keep=keep)


def spoilt(bundle: Path, tmp_path: Path, accuracy_less: float) -> Path:
    """A copy of a bundle with other weights and another accuracy."""
    other = Path(shutil.copytree(bundle, tmp_path / f"less {accuracy_less}"))
    metrics = json.loads((other / "metrics.json").read_bytes())
    metrics["accuracy"] -= accuracy_less
    (other / "metrics.json").write_text(json.dumps(metrics))
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    resealed(other)
    return other


def test_other_bits_are_held_against_the_gates_margin(bundle: Path, tmp_path: Path) -> None:
    margin = gate_for("digits8x8").accuracy_margin
    near = compare(bundle, spoilt(bundle, tmp_path, margin * 0.9))
    far = compare(bundle, spoilt(bundle, tmp_path, margin * 1.1))
    assert (near.verdict, far.verdict) == ("within tolerance", "differs")
    assert f"{100 * margin:.2f} points" in near.reason
    assert near.changes == ()
    differing = {row["what"] for row in near.comparisons if not row["equal"]}
    assert differing == {"weights", "metrics", "version"}
    other = Path(shutil.copytree(bundle, tmp_path / "other data"))
    resealed(other, data=dict.fromkeys(FILES, "0" * 64))
    assert compare(bundle, other).verdict == "differs"


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_another_machine_is_named(bundle: Path, tmp_path: Path, before: str, after: str) -> None:
    """Both machines are made up: the one that runs the tests may be either."""
    other = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    resealed(bundle, cpu="x86_64 avx2", precision=before, threads=2)
    resealed(other, cpu="arm64 asimd", precision=after, threads=3)
    found = compare(bundle, other)
    assert found.verdict == "equal to the bit"
    assert [change.partition(":")[0] for change in found.changes] == ["cpu", "precision", "threads"]


Calls = list[tuple[Choice, str]]


@pytest.fixture
def calls(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What would be run and with how many threads; the bundle itself is the result."""
    made: Calls = []

    def instead(
        flow: str, plan: Plan, parameters: dict[str, Any], *_: Any, **__: Any
    ) -> SimpleNamespace:
        assert not any(Path(os.environ["IDXFLOW_ROOT"]).iterdir())
        assert not [name for name in os.environ if name.startswith("PREFECT_")]
        made.append((Choice(**parameters), os.environ["IDXFLOW_THREADS"]))
        return SimpleNamespace(bundle=str(bundle))

    monkeypatch.setattr(module, "launch", instead)
    return made


def test_the_raw_files_are_those_that_were_fetched_or_the_sources(
    calls: Calls, bundle: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fetched,) = Path(os.environ["IDXFLOW_ROOT"]).glob("stages/fetch-*")
    manifest, _ = inspect_bundle(bundle)
    assert manifest is not None
    assert reproduce(bundle).verdict == "equal to the bit"
    choice, threads = calls[-1]
    assert threads == str(manifest.provenance["threads"])
    assert (choice.source, choice.device) == (str(fetched), "cpu")
    assert choice.recipe == str(bundle / "recipe.yaml")
    reproduce(bundle, source=str(tmp_path))
    assert calls[-1][0].source == str(tmp_path)
    monkeypatch.setenv("IDXFLOW_ROOT", str(root))
    shutil.copytree(fetched, root / "stages" / fetched.name)
    reproduce(bundle)
    assert calls[-1][0].source == str(root / "stages" / fetched.name)
    (root / "stages" / fetched.name / FILES[0]).write_bytes(b"")
    reproduce(bundle)
    assert calls[-1][0].source is None


def test_a_folder_of_ones_own_is_asked_for(
    calls: Calls,
    bundle: Path,
    tmp_path: Path,
    small_rows: Callable[[int], tuple[Any, Any]],
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for names, num_rows in ((FILES[:2], 60), (FILES[2:], 40)):
        for name, array in zip(names, small_rows(num_rows), strict=True):
            write_idx(mine / name, array)
    resealed(bundle, dataset=folder_dataset(mine).name)
    moved = mine.rename(tmp_path / "moved")
    reproduce(bundle, source=str(moved))
    choice, _ = calls.pop()
    assert (choice.dataset, choice.classes, choice.source) == (str(moved), 10, None)
    with pytest.raises(ConfigError, match="found no folder"):
        reproduce(bundle)
    write_idx(moved / FILES[1], small_rows(60)[1][::-1])
    with pytest.raises(ConfigError, match="the folder that became mine-"):
        reproduce(bundle, source=str(moved))
    assert not calls


def test_what_cannot_be_compared_is_refused_before_anything_runs(
    calls: Calls, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_cuda", lambda: False)
    with pytest.raises(ReleaseError, match="it is missing"):
        reproduce(tmp_path / "nowhere")
    resealed(bundle, device="cuda")
    with pytest.raises(DeviceError, match="cuda"):
        reproduce(bundle)
    (bundle / GOLDEN).write_bytes(b"")
    with pytest.raises(ReleaseError, match=GOLDEN):
        reproduce(bundle)
    assert not calls


def test_a_version_that_differs_ends_with_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = SimpleNamespace(bundle=str(spoilt(bundle, tmp_path, 0.5)))
    monkeypatch.setattr(module, "launch", lambda *_, **__: other)
    with pytest.raises(ReleaseError, match="built again: found accuracy"):
        command(str(bundle))
    out, _ = capfd.readouterr()
    assert "differs: accuracy" in out
    assert "code, libraries and machine are the same" in out


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_neither_a_scratch_folder_nor_a_server(
    bundle: Path, root: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """The signal to the whole group, as a terminal sends it, in the middle of the training."""
    text = (bundle / "recipe.yaml").read_text().replace("epochs: 1\n", "epochs: 10000\n")
    assert "epochs: 10000" in text
    (bundle / "recipe.yaml").write_text(text)
    resealed(bundle)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from flows.reproduce import reproduce\n"
        "reproduce(Path(sys.argv[1]))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(bundle)],
        env={**environment, "IDXFLOW_CHECKPOINT_S": "0.5"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 600
    while not any(root.glob("scratch/*/checkpoints/train-*.safetensors")):
        assert parent.poll() is None, parent.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    below = psutil.Process(parent.pid).children(recursive=True)
    os.killpg(parent.pid, number)
    _, err = parent.communicate(timeout=600)
    assert parent.returncode == 128 + number, err
    assert "Traceback" not in err
    assert not any((root / "scratch").iterdir())
    assert not psutil.wait_procs(below, timeout=120)[1]
