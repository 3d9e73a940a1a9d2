"""The declared state of a Prefect server: work pool, deployments and automations.

The server is the one in the environment. Everything is looked up by name first, so that a second
call makes nothing twice. Prefect is imported only where something is done.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline_config.sections import HERE, ConfigError, read_yaml
from pipeline_config.settings import CHECKOUT
from tasks.runtime.errors import ServerError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "idxflow"
AUTOMATIONS = HERE / "automations.yaml"


def declare(notify: str | None) -> None:
    """Bring the server to the declared state. `notify` is a notification block, TYPE/NAME."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        block = _block_id(client, notify) if notify else None
        _make_pool(client)
        _deploy()
        _automate(client, block)
        _skip_missed(client)


def _block_id(client: SyncPrefectClient, notify: str) -> str:
    """Return the id of a notification block. Raises ConfigError if there is none of that name."""
    known = {
        f"{block.block_type.slug}/{block.name}": str(block.id)
        for block in client.read_block_documents()
        if block.block_type and block.block_schema and "notify" in block.block_schema.capabilities
    }
    if notify not in known:
        found = f"no notification block of this name; there are: {', '.join(known) or 'none'}"
        what, expected = f"--notify {notify}", "TYPE/NAME, such as slack-webhook/operators"
        remedy = "Make one in the UI, under Blocks."
        raise ConfigError(what, found=found, expected=expected, remedy=remedy)
    return known[notify]


def _make_pool(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template)
    try:
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return


def _deploy() -> None:
    """Deploy everything in prefect.yaml. Runs that are late or going on stay."""
    words = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(words, cwd=CHECKOUT, check=False, capture_output=True, text=True)
    if done.returncode:
        found = (done.stderr or done.stdout).strip()[-500:]
        what, expected = " ".join(words[2:]), "deployments that Prefect accepts"
        raise ServerError(what, found=found, expected=expected, remedy="Correct prefect.yaml.")


def _automate(client: SyncPrefectClient, block: str | None) -> None:
    """Create the automations that are missing, and update those that differ."""
    from prefect.events.schemas.automations import AutomationCore

    for content in _automations(client, block):
        wanted = AutomationCore.model_validate(content)
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
        # An update restarts the automation's clocks, so an equal one is left alone.
        elif AutomationCore.model_validate(found[0].model_dump()) != wanted:
            client.update_automation(found[0].id, wanted)


def _automations(client: SyncPrefectClient, block: str | None) -> Iterator[dict[str, Any]]:
    """Yield the automations of AUTOMATIONS in Prefect's form."""
    for name, content in read_yaml(AUTOMATIONS).items():
        for action in content.get("actions", ()):
            if deployment := action.pop("deployment", None):
                action["deployment_id"] = client.read_deployment_by_name(deployment).id
        message = content.pop("notify", None)
        if message and block:
            content["actions"] = [
                {"type": "send-notification", "block_document_id": block, **message}
            ]
        yield {"name": name, "actions": [{"type": "do-nothing"}], **content}


def _skip_missed(client: SyncPrefectClient) -> None:
    """End all late runs of a schedule but the last: after three nights away, one is due.

    Runs that a person started stay.
    """
    from prefect.client.schemas import State
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    late = FlowRunFilter.model_validate(
        {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": datetime.now(UTC)},
        }
    )
    runs = client.read_flow_runs(flow_run_filter=late, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    seen = set()
    for run in (run for run in runs if run.auto_scheduled and run.work_pool_name == POOL):
        alike = (run.deployment_id, repr(sorted(run.parameters.items())))
        if alike in seen:
            words = "missed while nothing ran; a later run does the same"
            state = State(type="CANCELLED", name="Skipped", message=words)
            client.set_flow_run_state(run.id, state, force=True)
        seen.add(alike)
