"""The automations, as Prefect's server reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from flows.declared import AUTOMATIONS
from pipeline_config.sections import read_yaml


@pytest.mark.parametrize(
    ("flow", "deployment", "counts"),
    [("retrain", "nightly", True), ("monitor", "nightly", False), ("retrain", "on-drift", False)],
)
def test_only_the_nightly_retraining_quiets_the_switch(
    flow: str, deployment: str, counts: bool
) -> None:
    content = read_yaml(AUTOMATIONS)["idxflow nightly run missing"]["trigger"]
    trigger = EventTrigger.model_validate({"type": "event", **content})
    related = [
        {
            "prefect.resource.id": f"prefect.{role}.1",
            "prefect.resource.role": role,
            "prefect.resource.name": name,
        }
        for role, name in (("flow", flow), ("deployment", deployment))
    ]
    event = ReceivedEvent(
        occurred=datetime.now(UTC),
        event="prefect.flow-run.Completed",
        resource={"prefect.resource.id": "prefect.flow-run.1"},
        related=related,
        id=uuid4(),
    )
    assert trigger.covers(event) == counts
