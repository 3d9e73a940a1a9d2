"""The flows `retrain` and `audit-labels`, which run the diagrams of `flows/diagram.py`.

Each stage is a Prefect task whose finished output is not made again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from prefect import State, Task, flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field, WithJsonSchema

from flows.diagram import Call, label_audit, retraining
from flows.plan import (
    DEFAULT,
    Choice,
    Plan,
    Reason,
    fold_plans,
    make_plan,
    planned,
    take_in_waiting,
)
from flows.summary import LabelAudit, Summary, audited, summarize
from pipeline_config.datasets import dataset_names
from pipeline_config.recipe_files import recipe_names
from pipeline_config.sections import IdxflowError
from tasks.dataset.admit import PAGE, admit
from tasks.dataset.convert import convert
from tasks.dataset.normalize import normalize
from tasks.dataset.shards import decide
from tasks.dataset.validate import validate
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.label_audit import audit
from tasks.model.train import train
from tasks.raw.fetch import fetch
from tasks.release.publish import publish
from tasks.release.registry import Decision
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.errors import GateRefused
from tasks.runtime.files import root_lock
from tasks.runtime.show import recording
from tasks.runtime.stages import ADMIT, PUBLISH, Stage, StageName

# A deployment's form offers these names. A call from Python may also name a folder or a file.
DatasetChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": dataset_names()})]
RecipeChoice = Annotated[
    str, WithJsonSchema({"type": "string", "enum": [DEFAULT, *recipe_names()]})
]
NumClasses = Annotated[int, Field(ge=2, le=256)]
TASKS: dict[str, Task[..., Any]] = {
    task.name: task
    for task in (fetch, validate, admit, convert, normalize, train, evaluate, audit, publish)
}


def run_name() -> str:
    """Return the name of a flow run: data set, recipe and device."""
    given: dict[str, Any] = flow_run.parameters
    with suppress(IdxflowError):
        plan = planned.get() or make_plan(Choice(**given))
        return f"{plan.dataset.name} · {plan.recipe.name} · {plan.machine.device}"
    return "{dataset} · {recipe} · {device}".format(**given)


@flow(name="retrain", flow_run_name=run_name, timeout_seconds=24 * 3600)
def retrain(
    dataset: DatasetChoice = "mnist",
    recipe: RecipeChoice = DEFAULT,
    device: DeviceChoice = "auto",
    overrides: tuple[str, ...] = (),
    source: str | None = None,
    classes: NumClasses | None = None,
    refresh_from: StageName | None = None,
    force_promote: Reason | None = None,
) -> Summary | State[Summary]:
    """Retrain on a data set and publish the model. Stages whose inputs did not change are skipped.

    `overrides` are `a.b=value` changes to the recipe; `source` is a folder that is tried first for
    the data set's files; `refresh_from` names the first stage that runs again whatever is cached;
    `force_promote` is the reason to make the model champion even if the gate refuses it. When the
    gate refuses the model in this run, the run's state is named Refused, and the caller gets
    GateRefused, which holds the summary.
    """
    choice = Choice(**locals())
    plan = planned.get()
    if plan is None:
        take_in_waiting(choice)
        plan = make_plan(choice)
    with root_lock(), recording() as outcomes:
        published = pipeline(plan)
        summary = summarize(published.dataset, published.version, outcomes.values())
    if published.refused:
        words = f"version {summary.version} was refused: {summary.decision}"
        error = GateRefused(f"version {summary.version}", found=summary.decision, result=summary)
        # A state is returned in place of raising the error, so that its traceback is not logged.
        return Failed(name="Refused", message=words, data=error)
    return Completed(message=summary.advice, data=summary) if summary.advice else summary


def pipeline(plan: Plan) -> Decision:
    """Run the stages of a plan."""
    published: Decision = retraining(plan, run_stages(plan.refreshed))
    return published


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
    classes: NumClasses | None = None,
    folds: Annotated[int, Field(ge=2, le=100)] = 5,
) -> LabelAudit:
    """Rank the training rows whose label is likely wrong. Trains the recipe once for each fold.

    The other parameters are those of `retrain`.
    """
    chosen = {name: value for name, value in locals().items() if name != "folds"}
    plan = planned.get() or make_plan(Choice(**chosen))
    with root_lock(), recording() as outcomes:
        ref = label_audit(fold_plans(plan, folds), run_stages())
    return audited(plan, ref, outcomes.values())


def run_stages(refreshed: tuple[str, ...] = ()) -> Call:
    """Return the `call` of a diagram that runs a stage's Prefect task."""

    def call(stage: Stage, **inputs: Any) -> Any:
        if stage.name in refreshed and stage is not PUBLISH:
            inputs["refresh"] = True
        made = TASKS[stage.name](**inputs)
        if stage is ADMIT:
            facts = made.facts
            page = (made.path / PAGE).read_bytes()
            decide(inputs["shard"], facts["verdict"], facts["reason"], facts["rows"], page)
        return made

    return call
