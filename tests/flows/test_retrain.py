"""The flow on a real Prefect server: what runs, what is skipped, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from flows.diagram import explain
from flows.plan import Choice, make_plan
from flows.summary import Summary
from pipeline_config.settings import CHECKOUT
from tasks.runtime.errors import ConfigError, GateRefused, ValidationError
from tasks.runtime.stages import STAGE_NAMES, STAGES

pytestmark = pytest.mark.flow
Run = Callable[..., Summary]


def states(summary: Summary) -> dict[str, str]:
    return {row["name"]: row["state"] for row in summary.stages}


def ran(summary: Summary) -> set[str]:
    """The stages that ran, without publish, which always does."""
    return {name for name, state in states(summary).items() if state == "ran"} - {"publish"}


def digests(root: Path) -> dict[str, bytes]:
    """Every file of every bundle; what lies beside them tells the time."""
    models = root / "models"
    return {
        str(path.relative_to(models)): path.read_bytes()
        for path in models.glob("*/*/**/*")
        if path.is_file()
    }


def test_everything_runs_once_and_is_found_again(run: Run, root: Path) -> None:
    first = run()
    assert tuple(states(first)) == STAGE_NAMES
    assert ran(first) == {stage.name for stage in STAGES}
    published = digests(root)
    second = run()
    assert ran(second) == set()
    assert (second.version, second.metrics) == (first.version, first.metrics)
    assert digests(root) == published
    assert champion(root) == first.version == second.champion


def test_explain_agrees_with_the_run(run: Run) -> None:
    choice = Choice(dataset="digits8x8", overrides=("training.epochs=1",))
    before = explain(make_plan(choice))
    assert [verdict.state for verdict in before] == ["miss"] + ["pending"] * 6
    summary = run()
    after = explain(make_plan(choice))
    assert [verdict.state for verdict in after] == ["hit"] * 7
    assert [verdict.key for verdict in after] == [row["key"] for row in summary.stages]
    assert [verdict.path for verdict in after] == [row["path"] for row in summary.stages]


def test_one_flipped_bit_runs_exactly_that_stage_again(run: Run, root: Path) -> None:
    published = run()
    for stage in STAGES:
        row = next(row for row in published.stages if row["name"] == stage.name)
        largest = max(Path(row["path"]).rglob("*"), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        again = run()
        assert ran(again) == {stage.name}
        reason = next(row for row in again.stages if row["name"] == stage.name)["reason"]
        assert "damaged" in reason
        assert largest.name in reason
        assert again.version == published.version


def test_a_flipped_bit_in_the_bundle_rebuilds_the_bundle(run: Run, root: Path) -> None:
    published = run()
    before = digests(root)
    page = Path(published.bundle) / "report.html"
    page.write_bytes(page.read_bytes().replace(b"accuracy", b"accurbcy", 1))
    again = run()
    assert ran(again) == set()
    assert "report.html" in again.stages[-1]["reason"]
    assert digests(root) == before


def test_a_learning_rate_reaches_train_and_what_follows(run: Run) -> None:
    run()
    choice = ("training.epochs=1", "training.optimizer.learning_rate=0.01")
    again = run(overrides=choice)
    assert ran(again) == {"train", "evaluate"}
    reason = next(row for row in again.stages if row["name"] == "train")["reason"]
    assert reason == "training.optimizer.learning_rate: 0.003 → 0.01"


def test_losing_prefects_records_loses_nothing(run: Run, root: Path) -> None:
    run()
    records = [path for path in (root / "results").rglob("*") if path.is_file()]
    assert records
    for number, path in enumerate(records):
        path.write_bytes(b"garbage") if number % 2 else path.unlink()
    assert ran(run()) == set()


def test_an_artifact_that_is_lost_ends_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("prefect.artifacts.create_table_artifact", refused)
    assert run().event == "promoted"


def test_refresh_runs_a_stage_and_those_behind_it(run: Run) -> None:
    first = run()
    again = run(refresh_from="train")
    assert ran(again) == {"train", "evaluate"}
    assert again.version == first.version


def test_the_same_seed_gives_the_same_bytes_elsewhere(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    first = digests(root)
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("IDXFLOW_ROOT", str(elsewhere))
    run()
    assert digests(elsewhere) == first


def test_a_worse_model_is_refused_for_everyone_to_see(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.events.worker import EventsWorker

    told = []
    send = EventsWorker.send
    monkeypatch.setattr(
        EventsWorker, "send", lambda self, event: (told.append(event), send(self, event))
    )
    good = run(overrides=("training.epochs=5",))
    worse = ("training.epochs=1", "training.optimizer.learning_rate=0.00001")
    with pytest.raises(GateRefused, match="passes the gate") as refusal:
        run(overrides=worse)
    bad = refusal.value.result
    assert bad.metrics["accuracy"] < good.metrics["accuracy"]
    assert (bad.event, bad.champion, champion(root)) == ("refused", good.version, good.version)
    (event,) = [event for event in told if event.event == "idxflow.gate.refused"]
    assert event.resource.id == f"idxflow.model.digits8x8.{bad.version}"
    assert event.payload["gate"]["checks"]
    assert_failed_with_a_table()
    again = run(overrides=worse)
    assert (again.version, again.champion) == (bad.version, good.version)
    forced = run(overrides=worse, force_promote="to see it")
    assert (forced.event, champion(root)) == ("forced", bad.version)


def assert_failed_with_a_table() -> None:
    """The last flow run failed, and its gate's table says that the model was refused."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        (last, *_) = client.read_flow_runs(sort="START_TIME_DESC")
        tables = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["gate-digits8x8"]))
        )
    assert last.state is not None
    assert last.state.is_failed()
    assert last.state.name == "Refused"
    assert last.state.message is not None
    assert "was refused" in last.state.message
    assert any("refused" in str(table.description) for table in tables)


def test_the_example_of_the_readme_publishes_a_champion(run: Run, root: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    exec(example, {})
    assert champion(root) is not None


def test_a_first_model_that_is_refused_leaves_no_champion_and_the_error_says_so(run: Run) -> None:
    from flows.retrain import retrain

    with pytest.raises(GateRefused, match="there was no champion") as refused:
        retrain(dataset="digits8x8", overrides=("training.epochs=1",))
    assert refused.value.result.champion is None


def champion(root: Path) -> str:
    """The version that the pointer names."""
    pointer = json.loads((root / "models/digits8x8/champion.json").read_text())
    return str(pointer["champion"]["version"])


def test_a_recipe_that_does_not_compete_is_published_but_not_champion(run: Run) -> None:
    summary = run(overrides=("training.epochs=1", "competes=false"))
    assert Path(summary.bundle).is_dir()
    assert summary.champion is None


def test_a_folder_is_a_data_set_keyed_by_its_content(run: Run, root: Path, tmp_path: Path) -> None:
    raw = Path(next(row for row in run().stages if row["name"] == "fetch")["path"])
    folder = tmp_path / "My digits"
    folder.mkdir()
    for path in raw.glob("*ubyte"):
        (folder / path.name).write_bytes(path.read_bytes())
    choice = {"dataset": str(folder), "recipe": "small"}
    first = run(**choice)
    assert first.bundle.startswith(str(root / "models/my-digits-"))
    assert ran(run(**choice)) == set()
    labels = folder / "t10k-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8] = (content[8] + 1) % 10
    labels.write_bytes(content)
    changed = run(**choice)
    assert ran(changed) == {stage.name for stage in STAGES}
    assert changed.version != first.version


def test_rows_that_break_a_critical_expectation_stop_the_run(
    run: Run, root: Path, tmp_path: Path
) -> None:
    raw = Path(next(row for row in run().stages if row["name"] == "fetch")["path"])
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in raw.glob("*ubyte"):
        (folder / path.name).write_bytes(path.read_bytes())
    labels = folder / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8:] = bytes(label if label != 3 else 8 for label in content[8:])
    labels.write_bytes(content)
    before = {path.name for path in (root / "stages").iterdir()}
    with pytest.raises(ValidationError, match="3"):
        run(dataset=str(folder), recipe="small")
    new = {
        path.name.split("-")[0] for path in (root / "stages").iterdir() if path.name not in before
    }
    assert new == {"fetch"}


def test_nonsense_is_refused_before_anything_runs(run: Run, root: Path) -> None:
    with pytest.raises(ConfigError, match="nope"):
        run(dataset="nope")
    assert not (root / "stages").exists()


def test_the_run_is_named_after_what_it_does(run: Run) -> None:
    from prefect.client.orchestration import get_client

    run(device="cpu")
    with get_client(sync_client=True) as client:
        names = {flow_run.name for flow_run in client.read_flow_runs()}
    assert "digits8x8 · small · cpu" in names
