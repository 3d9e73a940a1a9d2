"""The deployments of `prefect.yaml` on a real server, pool and worker: docs/operations.md."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx
import pytest

from pipeline_config.settings import CHECKOUT

pytestmark = pytest.mark.flow


def test_the_document_has_the_commands_that_are_tested_here(station: Any) -> None:
    document = (CHECKOUT / "docs" / "operations.md").read_text()
    for command in station.commands[:4]:
        words = command.partition(" --port")[0]
        assert re.search(rf"^ +prefect (--no-prompt )?{re.escape(words)} ", document, re.M), words


def test_a_deployment_runs_on_demand_and_publishes(station: Any) -> None:
    run = station.submit("retrain/on-demand", "dataset=digits8x8", "device=cpu")
    station.wait_for(run, "COMPLETED")
    pointer = station.root / "models/digits8x8/champion.json"
    version = json.loads(pointer.read_text())["champion"]["version"]
    assert (pointer.parent / version / "report.html").is_file()
    assert station.ask(f"/flow_runs/{run}")["name"] == "digits8x8 · small · cpu"
    kinds = {artifact["type"] for artifact in station.ask("/artifacts/filter")}
    assert {"table", "markdown", "image", "progress"} <= kinds


@pytest.mark.exhaustive
def test_a_batch_of_files_is_answered_by_the_champion(station: Any) -> None:
    """After the test above, which made one."""
    (images,) = station.root.glob("stages/fetch-*/t10k-images-idx3-ubyte")
    out = station.root / "answers.json"
    run = station.submit("predict/batch", "dataset=digits8x8", f'files=["{images}"]', f"out={out}")
    station.wait_for(run, "COMPLETED")
    assert len(json.loads(out.read_text())) == 360


def test_a_cancelled_run_saves_its_training_first(station: Any) -> None:
    long = 'overrides=["training.epochs=10000"]'
    run = station.submit("retrain/on-demand", "dataset=digits8x8", long)
    folder = station.root / "checkpoints"
    station.wait_until(lambda: any(folder.glob("train-*.safetensors")), 600)
    since = time.time()
    station.prefect("flow-run", "cancel", run)
    station.wait_for(run, "CANCELLED")
    (checkpoint,) = folder.glob("train-*.safetensors")
    # The next one by the clock would have come 15 s after the first.
    assert checkpoint.stat().st_mtime > since


@pytest.mark.parametrize(
    "parameter", ["dataset=nope", "recipe=nope", "device=tpu", "refresh_from=bake", "bogus=1"]
)
def test_nonsense_is_refused_at_submission(station: Any, parameter: str) -> None:
    before = len(station.runs_of("on-demand"))
    station.prefect("deployment", "run", "retrain/on-demand", "-p", parameter, fails=True)
    assert len(station.runs_of("on-demand")) == before


def test_the_form_offers_the_names_that_exist(station: Any) -> None:
    deployment = station.ask("/deployments/name/retrain/on-demand")
    form = deployment["parameter_openapi_schema"]["properties"]
    assert "digits8x8" in form["dataset"]["enum"]
    assert "fast" in form["recipe"]["enum"]


def test_no_slot_of_a_deployment_can_be_held_for_ever(station: Any) -> None:
    """Deploying again takes away the limit of a deployment that was made with one."""
    found = station.ask("/deployments/name/retrain/on-demand")
    assert found["global_concurrency_limit"] is None
    place = f"{station.url}/deployments/{found['id']}"
    httpx.patch(place, json={"concurrency_limit": 1}).raise_for_status()
    assert station.ask(f"/deployments/{found['id']}")["global_concurrency_limit"]["limit"] == 1
    station.prefect("deploy", "--all")
    assert station.ask(f"/deployments/{found['id']}")["global_concurrency_limit"] is None


def test_a_cron_schedule_creates_its_runs(station: Any) -> None:
    """With sqlalchemy 2.1 it never does, and only the server's log says so."""
    station.wait_until(lambda: len(station.runs_of("nightly")) > 0, 600)
    assert {run["state_type"] for run in station.runs_of("nightly")} == {"SCHEDULED"}
