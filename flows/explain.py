"""What a run would do and why, from the store alone: neither Prefect nor torch is imported."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flows.diagram import Call, retraining
from flows.plan import Plan
from tasks.release.assemble import Lineage
from tasks.release.bundle import bundle_folder
from tasks.release.registry import is_current
from tasks.runtime.stages import PUBLISH, Outcome, Stage
from tasks.runtime.store import StageRef, look


@dataclass(frozen=True)
class Missing:
    """Takes the place of the output of a stage that would run."""

    stage: str


def explain(plan: Plan) -> list[Outcome]:
    """Return what every stage would do, in the order of the pipeline."""
    outcomes: list[Outcome] = []
    retraining(plan, look_up(outcomes, plan.refreshed))
    return outcomes


def look_up(outcomes: list[Outcome], refreshed: tuple[str, ...] = ()) -> Call:
    """Return the `call` of a diagram that runs nothing and appends what each stage would do.

    The call returns the reference to the stage's output, or Missing.
    """

    def call(stage: Stage, **inputs: Any) -> StageRef | Missing:
        since, ref = time.perf_counter(), None
        missing = next((value for value in _leaves(inputs) if isinstance(value, Missing)), None)
        refresh = stage.name in refreshed
        if missing is not None:
            reason = f"behind {missing.stage}"
            outcomes.append(Outcome(stage.name, "pending", 0.0, None, None, reason))
        elif stage is PUBLISH:
            outcomes.append(_publishing(since, refresh=refresh, **inputs))
        else:
            found = look(stage, inputs, refresh=refresh)
            ref = found.ref
            outcomes.append(found.outcome("hit" if ref else "miss", since))
        return ref or missing or Missing(stage.name)

    return call


def _leaves(inputs: dict[str, Any]) -> Iterable[Any]:
    """Yield the inputs one by one, also those in a tuple or in a lineage."""
    for value in inputs.values():
        if isinstance(value, Lineage):
            yield from vars(value).values()
        elif isinstance(value, tuple):
            yield from value
        else:
            yield value


def _publishing(since: float, *, lineage: Lineage, why: str | None, refresh: bool) -> Outcome:
    """Return whether the bundle, the journal's decision and the champion's file are in place."""
    dataset, version = lineage.dataset.name, lineage.determinants.version
    reasons = ["refresh was requested"] if refresh else is_current(dataset, version, why)
    return Outcome(
        PUBLISH.name,
        "miss" if reasons else "hit",
        round(time.perf_counter() - since, 3),
        version,
        str(bundle_folder(dataset, version)),
        "; ".join(reasons) or "found intact",
    )
