"""The diagrams of the pipeline and of the label audit, wired once, and what a run of them would do.

    fetch ─► validate ─► convert ─► normalize ─► train ─► evaluate ─► publish
                    └► admit ─┘

`call(stage, **inputs)` runs a stage in a flow, and only looks it up for `explain`. Each arrow is a
small reference to an output. Neither Prefect nor torch is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flows.plan import Plan
from tasks.dataset.shards import QUARANTINED
from tasks.release.assemble import Lineage
from tasks.release.bundle import bundle_folder
from tasks.release.registry import is_current
from tasks.runtime import stages
from tasks.runtime.show import Outcome
from tasks.runtime.stages import Stage
from tasks.runtime.store import StageRef, look

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


class Missing(str):
    """The name of a stage that would run, in place of the reference to its output."""


def explain(plan: Plan) -> list[Outcome]:
    """Return what every stage would do, in the order of the pipeline."""
    outcomes: list[Outcome] = []
    retraining(plan, _look_up(outcomes, plan.refreshed))
    return outcomes


def explain_audit(plans: list[Plan]) -> tuple[list[Outcome], StageRef | None]:
    """Return what every stage would do, and the audit itself if it is there and intact."""
    outcomes: list[Outcome] = []
    found = label_audit(plans, _look_up(outcomes))
    return outcomes, found if isinstance(found, StageRef) else None


def _look_up(outcomes: list[Outcome], refreshed: tuple[str, ...] = ()) -> Call:
    """Return the `call` of a diagram that runs nothing and appends what each stage would do."""

    def call(stage: Stage, **inputs: Any) -> StageRef | Missing:
        since, refresh = time.perf_counter(), stage.name in refreshed
        for value in _leaves(inputs):
            if isinstance(value, Missing):
                reason = f"behind {value}"
                outcomes.append(Outcome(stage.name, "pending", 0.0, None, None, reason))
                return value
        if stage is stages.PUBLISH:
            outcomes.append(_publishing(since, refresh=refresh, **inputs))
            return Missing(stage.name)
        found = look(stage, inputs, refresh=refresh)
        outcomes.append(found.outcome("hit" if found.ref else "miss", since))
        return found.ref or Missing(stage.name)

    return call


def _leaves(inputs: dict[str, Any]) -> Iterator[Any]:
    """Yield the inputs one by one. Of a lineage, the output that depends on all others."""
    for value in inputs.values():
        if isinstance(value, tuple):
            yield from value
        else:
            yield value.evaluated if isinstance(value, Lineage) else value


def _publishing(since: float, *, lineage: Lineage, why: str | None, refresh: bool) -> Outcome:
    """Return whether the bundle, the journal's decision and the champion's file are in place."""
    dataset, version = lineage.dataset.name, lineage.determinants.version
    faults = ["refresh was requested"] if refresh else is_current(dataset, version, why)
    seconds, path = round(time.perf_counter() - since, 3), str(bundle_folder(dataset, version))
    reason = "; ".join(faults) or "found intact"
    return Outcome(stages.PUBLISH.name, "miss" if faults else "hit", seconds, version, path, reason)
