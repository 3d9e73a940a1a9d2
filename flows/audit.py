"""The label audit: raw IDX files → the training rows whose label is likely wrong.

                                ┌► normalize ─► train ─┐
    fetch ─► validate ─► convert ┼► normalize ─► train ─┼─► audit
                                └► normalize ─► train ─┘
                                     once for each fold

The stages are the pipeline's own, so a fold that is trained is not trained again.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.diagram import label_audit
from flows.folds import LabelAudit, audited, fold_plans
from flows.plan import DEFAULT, Choice, make_plan
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
    """Rank the likely label errors of a training split; trains the recipe once for each fold.

    The other parameters are those of `retrain`.
    """
    plan = make_plan(
        Choice(
            dataset=dataset,
            recipe=recipe,
            device=device,
            overrides=overrides,
            source=source,
            classes=classes,
        )
    )
    plans = fold_plans(plan, folds)
    with root_lock(), recording() as outcomes:
        ref = label_audit(plans, run_stages())
    return audited(plan, ref, outcomes.values())
