"""The diagrams of the pipeline and of the label audit, wired once.

    fetch ─► validate ─► convert ─► normalize ─► train ─► evaluate ─► publish

`call(stage, **inputs)` runs a stage in a flow, and only looks it up for `explain`. Each arrow is a
small reference to an output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flows.plan import Plan
from tasks.release.assemble import Lineage
from tasks.runtime.stages import (
    AUDIT,
    CONVERT,
    EVALUATE,
    FETCH,
    NORMALIZE,
    PUBLISH,
    TRAIN,
    VALIDATE,
)

Call = Callable[..., Any]


def retraining(plan: Plan, call: Call) -> Any:
    """Return what `call` makes of the last stage, publish."""
    data, recipe, machine = plan.dataset, plan.recipe, plan.machine

    raw = call(FETCH, dataset=data, source=plan.source)
    checked = call(VALIDATE, raw=raw, num_classes=data.num_classes, title=data.title)
    table = call(CONVERT, raw=raw, checked=checked, dataset_name=data.name)
    normalized = call(NORMALIZE, table=table, split=recipe.split, scaling=recipe.scaling)
    trained = call(
        TRAIN,
        table=table,
        normalized=normalized,
        model=recipe.model,
        training=recipe.training,
        machine=machine,
    )
    evaluated = call(
        EVALUATE,
        table=table,
        normalized=normalized,
        trained=trained,
        model=recipe.model,
        class_names=data.class_names,
        corrections=data.corrections,
    )
    lineage = Lineage(recipe, data, machine, raw, checked, table, normalized, trained, evaluated)
    return call(PUBLISH, lineage=lineage, why=plan.force_promote)


def label_audit(plans: Sequence[Plan], call: Call) -> Any:
    """Return what `call` makes of the audit of some folds: a plan for each.

                                 ┌► normalize ─► train ─┐
    fetch ─► validate ─► convert ┼► normalize ─► train ─┼─► audit
                                 └► normalize ─► train ─┘
    """
    plan = plans[0]
    data, recipe = plan.dataset, plan.recipe
    raw = call(FETCH, dataset=data, source=plan.source)
    checked = call(VALIDATE, raw=raw, num_classes=data.num_classes, title=data.title)
    table = call(CONVERT, raw=raw, checked=checked, dataset_name=data.name)
    folds = [
        call(NORMALIZE, table=table, split=fold.recipe.split, scaling=recipe.scaling)
        for fold in plans
    ]
    trained = [
        call(
            TRAIN,
            table=table,
            normalized=normalized,
            model=recipe.model,
            training=recipe.training,
            machine=plan.machine,
        )
        for normalized in folds
    ]
    return call(
        AUDIT,
        table=table,
        normalized=tuple(folds),
        trained=tuple(trained),
        model=recipe.model,
        class_names=data.class_names,
    )
