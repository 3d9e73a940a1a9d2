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

from flows.folds import LabelAudit, audited, fold_plans
from flows.plan import DEFAULT, Choice, Plan, make_plan
from tasks.dataset.convert import convert
from tasks.dataset.normalize import normalize
from tasks.dataset.validate import validate
from tasks.evaluation.label_audit import audit
from tasks.model.train import train
from tasks.raw.fetch import fetch
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.files import in_use
from tasks.runtime.manifest import StageRef
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
    with in_use(), recording() as ledger:
        ref = cross_validated(fold_plans(plan, folds))
    return audited(plan, ref, ledger.outcomes.values())


def cross_validated(plans: list[Plan]) -> StageRef:
    """The diagram above, in code."""
    data, machine = plans[0].dataset, plans[0].machine

    raw = fetch(data, plans[0].source)
    checked = validate(raw, data.num_classes, data.title)
    table = convert(raw, checked, data.name)
    recipes = [plan.recipe for plan in plans]
    normalized = tuple(normalize(table, recipe.split, recipe.scaling) for recipe in recipes)
    trained = tuple(
        train(table, rows, recipe.model, recipe.training, machine)
        for recipe, rows in zip(recipes, normalized, strict=True)
    )
    return audit(table, normalized, trained, recipes[0].model, data.class_names)
