"""`idxflow up`, `status` and `down`: a real server, worker and page server in a root of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest

from flows.station import ask, known_station, marked, running, station_file
from tasks.release.journal import read_journal

pytestmark = pytest.mark.flow

MAIN = (sys.executable, "-c", "from flows.cli import main; main()")


def free_port() -> int:
    """A port that is free, as is the next one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.fixture
def home(lived_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root that the tests of this file share, in place of a fresh one."""
    monkeypatch.setenv("IDXFLOW_ROOT", str(lived_in))
    return lived_in


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root whose station is ended after the tests, whatever they leave."""
    folder = tmp_path_factory.mktemp("station")
    yield folder
    idxflow("down", root=folder)


def idxflow(*words: str, root: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with nothing of Prefect's in its environment.

    Ctrl-C is ignored, as in the background of a script.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "IDXFLOW_ROOT": str(root), "IDXFLOW_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *MAIN, *words],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def post(path: str, **content: Any) -> Any:
    return ask(known_station(), path, content)


def wait_until(is_so: Callable[[], object], timeout_s: float = 600) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        logs = [log.read_text(errors="replace")[-3000:] for log in station_file("").glob("*.log")]
        assert time.monotonic() < end, "\n".join(logs)
        time.sleep(0.3)


def start_run(deployment: str = "on-demand", **parameters: Any) -> str:
    """Start a run of a deployment on digits8x8; its id."""
    (found,) = post("/deployments/filter", deployments={"name": {"any_": [deployment]}})
    given = {"dataset": "digits8x8", "device": "cpu", **parameters}
    run = post(f"/deployments/{found['id']}/create_flow_run", parameters=given)
    return str(run["id"])


def emit(event: str, resource: str, root: Path, **payload: str) -> None:
    """Emit an event as a person or another program does."""
    words = ["event", "emit", event, "--resource-id", resource]
    environment = {
        "PATH": os.environ["PATH"],
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": known_station().urls["ui"] + "/api",
        "PREFECT_API_AUTH_STRING": station_file("login").read_text(),
    }
    content = json.dumps({"reason": "accuracy fell by 2 points", **payload})
    subprocess.run(
        [sys.executable, "-m", "prefect", *words, "--payload", content],
        env=environment,
        check=True,
        capture_output=True,
    )


def state_of(run: str) -> str:
    return str(ask(known_station(), f"/flow_runs/{run}")["state_name"])


def facts() -> dict[str, Any]:
    """What a second `up` must leave as it is."""
    alike = "id name enabled trigger actions schedules parameters entrypoint work_pool_name"
    return {
        kind: {
            (each["name"], each.get("entrypoint")): {key: each.get(key) for key in alike.split()}
            | ({"updated": each["updated"]} if kind == "automations" else {})
            for each in post(f"/{kind}/filter", limit=100)
        }
        for kind in ("deployments", "automations")
    }


def schedules_without_ids(found: dict[str, Any]) -> dict[str, Any]:
    """Deploying makes each schedule anew, and the events of a trigger are in no order."""
    for automation in found["automations"].values():
        automation["trigger"]["expect"].sort()
    for deployment in found["deployments"].values():
        for schedule in deployment["schedules"]:
            for key in ("id", "created", "updated"):
                schedule.pop(key)
    return found


def test_up_twice_starts_everything_once(home: Path) -> None:
    first = idxflow("up", "--port", str(free_port()), root=home)
    assert "server, reports, worker" in first.stderr
    before, made = running(known_station()), schedules_without_ids(facts())
    assert set(before) == {"server", "reports", "worker"}
    assert {"nightly", "on-demand", "batch"} <= {name for name, _ in made["deployments"]}
    assert len(made["deployments"]) == 6
    assert len(made["automations"]) >= 5
    second = idxflow("up", root=home)
    assert "nothing" in second.stderr
    assert second.stdout == first.stdout
    assert running(known_station()) == before
    assert schedules_without_ids(facts()) == made


def test_the_server_asks_for_the_login(home: Path) -> None:
    station, login = known_station(), station_file("login")
    assert login.stat().st_mode & 0o777 == 0o600
    assert login.parent.stat().st_mode & 0o777 == 0o700
    url = station.urls["ui"]
    assert httpx.get(f"{url}/api/admin/version").status_code == 401
    words = httpx.BasicAuth(*login.read_text().split(":"))
    assert httpx.get(f"{url}/api/admin/version", auth=words).status_code == 200
    # Without the token against forged requests of other pages, even with the login.
    assert httpx.post(f"{url}/api/deployments/filter", auth=words).status_code == 403
    for host in {each.laddr.ip for each in running(station)["server"].net_connections("tcp")}:
        assert host == "127.0.0.1"


def test_a_run_of_a_deployment_finishes_and_its_report_opens(home: Path) -> None:
    run = start_run()
    wait_until(lambda: state_of(run) in ("Completed", "Failed", "Crashed"))
    assert state_of(run) == "Completed"
    found = json.loads(idxflow("status", "--json", root=home).stdout)
    assert [each["alive"] for each in found["processes"]] == [True, True, True]
    assert found["last"][0] | {"time": 0} == {
        "time": 0,
        "state": "Completed",
        "deployment": "on-demand",
        "run": "digits8x8 · small · cpu",
    }
    wait_until(lambda: json.loads(idxflow("status", "--json", root=home).stdout)["next"])
    (digits,) = found["datasets"]
    assert digits["dataset"] == "digits8x8"
    assert digits["last_accuracy"] == [digits["accuracy"]]
    assert 0 <= digits["age_days"] < 1
    assert found["num_bytes"] > 10_000
    (shown,) = post("/artifacts/filter", artifacts={"key": {"any_": ["published-digits8x8"]}})
    found_link = re.search(r"\]\((http\S+)\)", shown["data"])
    assert found_link
    assert httpx.get(found_link[1]).status_code == 200
    report = f"models/digits8x8/{digits['champion']}/report.html"
    reply = httpx.get(f"{found['reports']}/{report}")
    assert reply.status_code == 200
    assert reply.text == (home / report).read_text()


def test_the_page_server_gives_pages_only(home: Path) -> None:
    url = known_station().urls["reports"]
    (folder,) = (home / "models/digits8x8").glob("*/report.html")
    (home / "models/digits8x8/link.html").symlink_to(station_file("login"))
    version = folder.parent.name
    for path in (
        "",
        "models/",
        f"models/digits8x8/{version}/",
        f"models/digits8x8/{version}/model.onnx",
        "models/digits8x8/journal.jsonl",
        "models/digits8x8/link.html",
        "station/login",
        "models/../station/login",
        "models/%2e%2e/station/login",
    ):
        assert httpx.get(f"{url}/{path}").status_code == 404, path
    (home / "monitor").mkdir(exist_ok=True)
    (home / "monitor/digits8x8.html").write_text("a page")
    assert httpx.get(f"{url}/monitor/digits8x8.html").text == "a page"
    page = f"{url}/models/digits8x8/{version}/report.html"
    assert httpx.get(page, headers={"Host": "elsewhere.example"}).status_code == 404


@pytest.fixture(scope="module")
def inbox() -> Iterator[tuple[str, list[str]]]:
    """The address of a webhook on loopback, and what was sent to it."""
    letters: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            letters.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", letters
        server.shutdown()


def test_what_needs_a_person_is_notified(home: Path, inbox: tuple[str, list[str]]) -> None:
    url, letters = inbox
    (kind,) = post("/block_types/filter", block_types={"slug": {"any_": ["custom-webhook"]}})
    schemas = {"block_type_id": {"any_": [kind["id"]]}}
    schema = post("/block_schemas/filter", block_schemas=schemas)[0]
    data = {"name": "x", "url": url, "json_data": {"title": "{{subject}}", "text": "{{body}}"}}
    made = {"block_type_id": kind["id"], "block_schema_id": schema["id"], "data": data}
    post("/block_documents/", name="inbox", **made)
    idxflow("up", "--notify", "custom-webhook/inbox", root=home)
    # Kept, and known to the next `up` without the option.
    idxflow("up", root=home)
    assert known_station().notify == "custom-webhook/inbox"
    model, data_set = "idxflow.model.digits8x8.0123456789ab", "idxflow.data.digits8x8"
    emit("idxflow.gate.refused", model, home)
    emit("idxflow.promotion.waiting", model, home)
    emit("idxflow.drift.detected", data_set, home)
    wait_until(lambda: len(letters) == 3)
    sent = {letter["title"]: letter["text"] for letter in map(json.loads, letters)}
    assert sent[f"idxflow: the gate refused {model}"] == "accuracy fell by 2 points"
    assert sent[f"idxflow: {model} waits for a person"] == "accuracy fell by 2 points"
    assert "2 points" in sent[f"idxflow: drift in {data_set}"]


@pytest.mark.exhaustive
def test_a_night_without_a_run_is_notified(home: Path, inbox: tuple[str, list[str]]) -> None:
    """The automation, with ten seconds in place of 26 hours."""
    known = {each["name"]: each for each in post("/automations/filter", limit=100)}
    nightly = known["idxflow nightly run missing"]
    trigger = {**nightly["trigger"], "within": 10}
    post("/automations/", name="soon", trigger=trigger, actions=nightly["actions"])
    wait_until(lambda: any("26 hours" in letter for letter in inbox[1]))


@pytest.mark.exhaustive
def test_of_the_runs_that_were_missed_the_last_one_runs(home: Path) -> None:
    """Three dates without a worker, the last of them without a server."""
    alive = running(known_station())
    alive["worker"].kill()
    nightly = ask(known_station(), "/deployments/name/retrain/nightly")
    every = {"interval": 5, "anchor_date": "2026-01-01T00:00:00Z"}
    parameters = {"dataset": "digits8x8", "device": "cpu"}
    schedules = [{"schedule": every, "parameters": parameters}]
    ask(known_station(), f"/deployments/{nightly['id']}/schedules", schedules)

    def of_the_nights(*states: str) -> list[str]:
        runs = {"state": {"name": {"any_": [*states]}}}
        runs_of = {"id": {"any_": [nightly["id"]]}}
        return [run["id"] for run in post("/flow_runs/filter", flow_runs=runs, deployments=runs_of)]

    wait_until(lambda: len(of_the_nights("Late")) >= 3)
    alive["server"].kill()
    psutil.wait_procs([alive["worker"], alive["server"]])
    idxflow("up", root=home)
    wait_until(lambda: of_the_nights("Completed"))
    assert len(of_the_nights("Completed")) == 1
    assert len(of_the_nights("Skipped")) >= 2
    assert not of_the_nights("Late", "Running", "Pending")


def test_a_rollback_by_hand_is_an_event(home: Path) -> None:
    start_run(overrides=["training.seed=1"], force_promote="to have two")
    wait_until(lambda: len(read_journal("digits8x8")) == 2)
    idxflow("models", "rollback", "--dataset", "digits8x8", root=home)
    named = {"event": {"name": ["idxflow.model.rolled-back"]}}
    wait_until(lambda: post("/events/filter", filter=named)["events"])
    (event,) = post("/events/filter", filter=named)["events"]
    assert event["payload"]["reason"].startswith("from ")


def test_drift_starts_a_run_that_says_what_would_help(home: Path) -> None:
    """Nothing is labelled since the run of the test above, so it is cached."""
    deployment = ask(known_station(), "/deployments/name/retrain/on-drift")
    of_it = {"deployment_id": {"any_": [deployment["id"]]}}
    emit("idxflow.drift.detected", "idxflow.data.digits8x8", home, dataset="digits8x8")
    wait_until(lambda: post("/flow_runs/filter", flow_runs=of_it))
    (run,) = post("/flow_runs/filter", flow_runs=of_it)
    assert run["parameters"] | {"dataset": "digits8x8"} == run["parameters"]
    wait_until(lambda: state_of(run["id"]) in ("Completed", "Failed", "Crashed"))
    state = ask(known_station(), f"/flow_runs/{run['id']}")["state"]
    assert state["name"] == "Completed"
    assert "--to-label" in state["message"]


def test_a_killed_server_comes_back_with_what_it_knew(home: Path) -> None:
    before = running(known_station())
    made = schedules_without_ids(facts())
    before["server"].kill()
    psutil.wait_procs([before["server"]])
    found = json.loads(idxflow("status", "--json", root=home).stdout)
    assert [each["alive"] for each in found["processes"]] == [False, True, True]
    assert found["last"] is None
    assert found["datasets"]
    assert "started: server" in idxflow("up", root=home).stderr
    after = running(known_station())
    assert after["worker"] == before["worker"]
    assert after["server"] != before["server"]
    assert schedules_without_ids(facts()) == made
    run = start_run()
    wait_until(lambda: state_of(run) in ("Completed", "Failed", "Crashed"))
    assert state_of(run) == "Completed"


def test_one_error_for_what_cannot_be(home: Path) -> None:
    port = known_station().port
    other = idxflow("up", "--port", str(port + 7), root=home, fails=True)
    assert f"port {port} in use by this station" in other.stderr
    unknown = idxflow("up", "--notify", "slack-webhook/nobody", root=home, fails=True)
    assert "no notification block of this name" in unknown.stderr
    assert "custom-webhook/inbox" in unknown.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        busy = idxflow("up", "--port", number, root=home / "another", fails=True)
    assert f"{number} is already in use" in busy.stderr
    for done in (other, unknown, busy):
        assert "Traceback" not in done.stderr


def test_down_ends_what_up_started_and_nothing_else(home: Path) -> None:
    """A run that is going on ends first, and its state says so."""
    run = start_run(overrides=["training.epochs=10000"])
    checkpoints = home / "checkpoints"
    wait_until(lambda: any(checkpoints.glob("train-*.safetensors")))
    processes = marked()
    assert len(processes) == 4
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    idxflow("down", root=home)
    assert not any(process.is_running() for process in processes)
    assert not marked()
    assert "Worker 'idxflow' stopped!" in station_file("worker.log").read_text()
    assert stranger.poll() is None
    stranger.communicate(b"\n")
    again = idxflow("down", root=home)
    assert "nothing" in again.stderr
    found = json.loads(idxflow("status", "--json", root=home).stdout)
    assert not any(each["alive"] for each in found["processes"])
    idxflow("up", root=home)
    assert state_of(run) == "Crashed"
