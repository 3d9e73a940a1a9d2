"""What a run would do, and why: asked of the store alone, without Prefect and without torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from flows.plan import Plan
from tasks.bundle.contents import bundle_folder, version_of
from tasks.release.registry import is_current
from tasks.runtime.manifest import StageRef
from tasks.runtime.stages import PUBLISH, STAGE_NAMES, STAGES, Stage
from tasks.runtime.store import Change, look


@dataclass(frozen=True)
class Verdict:
    """What a stage would do; a pending one waits for another and has no key yet."""

    name: str
    state: Literal["hit", "miss", "pending"]
    seconds: float
    key: str | None
    path: str | None
    reason: str
    changes: tuple[Change, ...] = ()


def explain(plan: Plan) -> list[Verdict]:
    """A verdict for every stage, in the order of the pipeline."""
    refs: dict[str, StageRef] = {}
    verdicts = [verdict_on(stage, plan, refs) for stage in STAGES]
    return [*verdicts, _publish_verdict(plan, refs)]


def verdict_on(stage: Stage, plan: Plan, refs: dict[str, Any]) -> Verdict:
    """The verdict of a cached stage; a hit adds its reference to `refs`."""
    since = time.perf_counter()
    missing = [name for name in stage.takes.values() if name in STAGE_NAMES and name not in refs]
    if missing:
        return Verdict(stage.name, "pending", 0.0, None, None, f"behind {missing[0]}")
    found = look(stage, plan.inputs(stage, refs), refresh=stage.name in plan.refreshed)
    if found.ref is not None:
        refs[stage.name] = found.ref
    state: Literal["hit", "miss"] = "miss" if found.ref is None else "hit"
    seconds = round(time.perf_counter() - since, 3)
    path = str(found.folder)
    return Verdict(stage.name, state, seconds, found.key, path, found.reason, found.changes)


def _publish_verdict(plan: Plan, refs: dict[str, StageRef]) -> Verdict:
    """Whether the bundle, the journal's decision and the champion's pointer are all in place."""
    since = time.perf_counter()
    missing = [stage.name for stage in STAGES if stage.name not in refs]
    if missing:
        return Verdict(PUBLISH, "pending", 0.0, None, None, f"behind {missing[0]}")
    version = version_of(
        plan.recipe, refs["convert"].facts, refs["train"].manifest, refs["evaluate"].manifest
    )
    reasons = is_current(plan.dataset.name, version, plan.force_promote)
    if PUBLISH in plan.refreshed:
        reasons = ["asked for"]
    path = str(bundle_folder(plan.dataset.name, version))
    seconds = round(time.perf_counter() - since, 3)
    state: Literal["hit", "miss"] = "miss" if reasons else "hit"
    return Verdict(PUBLISH, state, seconds, version, path, "; ".join(reasons) or "found intact")
