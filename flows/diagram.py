"""The diagrams of the pipeline and of the label audit, wired once.

    fetch ─► validate ─► convert ─► normalize ─► train ─► evaluate ─► publish
                    └► admit ─┘

`call(stage, **inputs)` runs a stage in a flow, and only looks it up for `explain`. Each arrow is a
small reference to an output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flows.plan import Plan
from tasks.dataset.shards import QUARANTINED
from tasks.release.assemble import Lineage
from tasks.runtime import stages
from tasks.runtime.store import StageRef

Call = Callable[..., Any]


def retraining(plan: Plan, call: Call) -> Any:
    """Return what `call` makes of the last stage, publish."""
    data, recipe = plan.dataset, plan.recipe
    raw, checked, shards, table = _table(plan, call)
    normalized, trained = _trained(plan, table, call)
    evaluated = call(
        stages.EVALUATE,
        table=table,
        normalized=normalized,
        trained=trained,
        model=recipe.model,
        class_names=data.class_names,
        corrections=data.corrections,
    )
    made = (raw, checked, table, normalized, trained, evaluated)
    lineage = Lineage(recipe, data, plan.machine, *made, shards)
    return call(stages.PUBLISH, lineage=lineage, why=plan.force_promote)


def label_audit(plans: Sequence[Plan], call: Call) -> Any:
    """Return what `call` makes of the audit of some folds: a plan for each.

                                 ┌► normalize ─► train ─┐
    fetch ─► validate ─► convert ┼► normalize ─► train ─┼─► audit
                                 └► normalize ─► train ─┘
    """
    data, model = plans[0].dataset, plans[0].recipe.model
    *_, table = _table(plans[0], call)
    normalized, trained = zip(*(_trained(plan, table, call) for plan in plans), strict=True)
    return call(
        stages.AUDIT,
        table=table,
        normalized=normalized,
        trained=trained,
        model=model,
        class_names=data.class_names,
    )


def _table(plan: Plan, call: Call) -> tuple[Any, Any, tuple[Any, ...], Any]:
    """Return the outputs of the stages that depend on the data set and its shards alone.

    The shards that train are in the order in which they were judged. In the table their order does
    not matter.
    """
    data = plan.dataset
    raw = call(stages.FETCH, dataset=data, source=plan.source)
    checked = call(stages.VALIDATE, raw=raw, num_classes=data.num_classes, title=data.title)
    judged = [call(stages.ADMIT, raw=raw, checked=checked, shard=shard) for shard in plan.shards]
    pairs = zip(plan.shards, judged, strict=True)
    shards = tuple(ref for shard, ref in pairs if shard.released or not is_quarantined(ref))
    sources = {"raw": raw, "checked": checked, "shards": tuple(sorted(shards, key=str))}
    return raw, checked, shards, call(stages.CONVERT, **sources, dataset_name=data.name)


def is_quarantined(admitted: Any) -> bool:
    """Return whether the output of an admit stage says so; not of one that would run."""
    return isinstance(admitted, StageRef) and admitted.facts["verdict"] == QUARANTINED


def _trained(plan: Plan, table: Any, call: Call) -> tuple[Any, Any]:
    """Return the outputs of the stages normalize and train."""
    split, scaling = plan.recipe.split, plan.recipe.scaling
    normalized = call(stages.NORMALIZE, table=table, split=split, scaling=scaling)
    trained = call(
        stages.TRAIN,
        table=table,
        normalized=normalized,
        model=plan.recipe.model,
        training=plan.recipe.training,
        machine=plan.machine,
    )
    return normalized, trained
