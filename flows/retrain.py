"""The flow `retrain`: raw IDX files → a published model. Its diagram is in `flows/diagram.py`.

Each stage is a Prefect task whose finished output is not made again.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import Task, flow
from prefect.runtime import flow_run
from pydantic import Field, ValidationError, WithJsonSchema

from flows.diagram import Call, retraining
from flows.plan import DEFAULT, Choice, Plan, Reason, make_plan, planned
from flows.summary import Summary, refusal, summarize
from pipeline_config.datasets import named_datasets
from pipeline_config.recipe_files import recipe_names
from pipeline_config.sections import IdxflowError
from tasks.dataset.convert import convert
from tasks.dataset.normalize import normalize
from tasks.dataset.validate import validate
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.label_audit import audit
from tasks.model.train import train
from tasks.raw.fetch import fetch
from tasks.release.publish import Published, publish
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.files import root_lock
from tasks.runtime.outcomes import recording
from tasks.runtime.stages import PUBLISH, Stage, StageName

# A deployment's form offers these names. A call from Python may also name a folder or a file.
DatasetChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": list(named_datasets())})]
RecipeChoice = Annotated[
    str, WithJsonSchema({"type": "string", "enum": [DEFAULT, *recipe_names()]})
]
TASKS: dict[str, Task[..., Any]] = {
    task.name: task
    for task in (fetch, validate, convert, normalize, train, evaluate, audit, publish)
}


def run_name() -> str:
    """Return the name of a flow run: data set, recipe and device."""
    asked: dict[str, Any] = flow_run.parameters
    try:
        plan = planned.get() or make_plan(Choice(**{**asked, "overrides": ()}))
    except (IdxflowError, ValidationError):
        return f"{asked['dataset']} · {asked['recipe']} · {asked['device']}"
    return f"{plan.dataset.name} · {plan.recipe.name} · {plan.machine.device}"


@flow(name="retrain", flow_run_name=run_name, timeout_seconds=24 * 3600)
def retrain(
    dataset: DatasetChoice = "mnist",
    recipe: RecipeChoice = DEFAULT,
    device: DeviceChoice = "auto",
    overrides: tuple[str, ...] = (),
    source: str | None = None,
    classes: Annotated[int, Field(ge=2, le=256)] | None = None,
    refresh_from: StageName | None = None,
    force_promote: Reason | None = None,
) -> Summary:
    """Retrain on a data set and publish the model. Stages whose inputs did not change are skipped.

    `overrides` are `a.b=value` changes to the recipe; `source` is a folder that is tried first for
    the data set's files; `refresh_from` names the first stage that runs again whatever is cached;
    `force_promote` is the reason to make the model champion even if the gate refuses it. Raises
    GateRefused, which holds the summary, when the gate refuses the model in this run.
    """
    choice = Choice(**locals())
    plan = planned.get() or make_plan(choice)
    with root_lock(), recording() as outcomes:
        published = pipeline(plan)
        summary = summarize(published.dataset, published.version, outcomes.values())
    if published.refused:
        raise refusal(summary)
    return summary


def pipeline(plan: Plan) -> Published:
    """Run the diagram of the pipeline."""
    published: Published = retraining(plan, run_stages(plan.refreshed))
    return published


def run_stages(refreshed: tuple[str, ...] = ()) -> Call:
    """Return the `call` of a diagram that runs a stage's Prefect task."""

    def call(stage: Stage, **inputs: Any) -> Any:
        if stage.name in refreshed and stage is not PUBLISH:
            inputs["refresh"] = True
        return TASKS[stage.name](**inputs)

    return call
