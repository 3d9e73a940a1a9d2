"""The flow `audit-labels`: raw IDX files → the training rows whose label is likely wrong.

Its diagram is in `flows/diagram.py`. Its stages are those of `retrain`.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.diagram import label_audit
from flows.folds import LabelAudit, audited, fold_plans
from flows.plan import DEFAULT, Choice, make_plan, planned
from flows.retrain import run_stages
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.files import root_lock
from tasks.runtime.outcomes import recording


@flow(
    name="audit-labels",
    flow_run_name="{dataset} · {recipe} · {folds} folds",
    timeout_seconds=24 * 3600,
)
def audit_labels(
    dataset: str = "mnist",
    recipe: str = DEFAULT,
    device: DeviceChoice = "auto",
    overrides: tuple[str, ...] = (),
    source: str | None = None,
    classes: Annotated[int, Field(ge=2, le=256)] | None = None,
    folds: Annotated[int, Field(ge=2, le=100)] = 5,
) -> LabelAudit:
    """Rank the likely label errors of a training split. Trains the recipe once for each fold.

    The other parameters are those of `retrain`.
    """
    chosen = {name: value for name, value in locals().items() if name != "folds"}
    plan = planned.get() or make_plan(Choice(**chosen))
    plans = fold_plans(plan, folds)
    with root_lock(), recording() as outcomes:
        ref = label_audit(plans, run_stages())
    return audited(plan, ref, outcomes.values())
