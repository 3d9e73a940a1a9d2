"""What a run would do and why, from the store alone: neither Prefect nor torch is imported."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flows.diagram import retraining
from flows.plan import Plan
from tasks.bundle.contents import bundle_folder, version_of
from tasks.bundle.lineage import Lineage
from tasks.release.registry import is_current
from tasks.runtime.outcomes import Outcome
from tasks.runtime.stages import PUBLISH, Stage
from tasks.runtime.store import StageRef, look


@dataclass(frozen=True)
class Missing:
    """Stands for the output of a stage that would run."""

    stage: str


def explain(plan: Plan) -> list[Outcome]:
    """Return what every stage would do, in the order of the pipeline."""
    lookup = LookOnly(plan.refreshed)
    retraining(plan, lookup)
    return lookup.outcomes


class LookOnly:
    """The `call` of a diagram that runs nothing and collects what each stage would do."""

    def __init__(self, refreshed: tuple[str, ...] = ()) -> None:
        self.refreshed = refreshed
        self.outcomes: list[Outcome] = []

    def __call__(self, stage: Stage, **inputs: Any) -> StageRef | Missing:
        """Look a stage up. Returns its output's reference, or Missing."""
        since = time.perf_counter()
        missing = next((value for value in _leaves(inputs) if isinstance(value, Missing)), None)
        if missing is not None:
            reason = f"behind {missing.stage}"
            self.outcomes.append(Outcome(stage.name, "pending", 0.0, None, None, reason))
            return missing
        refresh = stage.name in self.refreshed
        if stage is PUBLISH:
            self.outcomes.append(_publishing(since, refresh=refresh, **inputs))
            return Missing(stage.name)
        found = look(stage, inputs, refresh=refresh)
        self.outcomes.append(found.outcome("hit" if found.ref else "miss", since))
        return found.ref or Missing(stage.name)


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
    dataset, trained, evaluated = lineage.dataset.name, lineage.trained, lineage.evaluated
    version = version_of(lineage.recipe, lineage.table.facts, trained.manifest, evaluated.manifest)
    reasons = ["refresh was requested"] if refresh else is_current(dataset, version, why)
    return Outcome(
        PUBLISH.name,
        "miss" if reasons else "hit",
        round(time.perf_counter() - since, 3),
        version,
        str(bundle_folder(dataset, version)),
        "; ".join(reasons) or "found intact",
    )
