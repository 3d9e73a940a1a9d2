"""What a run would do and why, from the store alone: neither Prefect nor torch is imported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flows.diagram import Call, label_audit, retraining
from flows.plan import Plan
from tasks.release.assemble import Lineage
from tasks.release.bundle import bundle_folder
from tasks.release.registry import is_current
from tasks.runtime.show import Outcome
from tasks.runtime.stages import PUBLISH, Stage
from tasks.runtime.store import StageRef, look


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
        if stage is PUBLISH:
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
    return Outcome(PUBLISH.name, "miss" if faults else "hit", seconds, version, path, reason)
