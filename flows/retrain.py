"""The flows `retrain` and `audit-labels`, which run the diagrams of `flows/diagram.py`; `predict`.

Each stage is a Prefect task whose finished output is not made again.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

from prefect import Task, flow
from prefect.runtime import flow_run
from pydantic import Field, WithJsonSchema

from flows.diagram import Call, label_audit, retraining
from flows.plan import DEFAULT, Choice, Plan, Reason, fold_plans, make_plan, planned
from flows.summary import LabelAudit, Summary, audited, summarize
from pipeline_config.datasets import named_datasets
from pipeline_config.recipe_files import recipe_names
from pipeline_config.sections import IdxflowError
from tasks.prediction.answers import Predicted, Request
from tasks.prediction.predict import answer
from tasks.release.registry import CHAMPION, Decision
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.errors import GateRefused
from tasks.runtime.files import root_lock
from tasks.runtime.stages import AUDIT, PUBLISH, STAGES, Stage, StageName, recording

# A deployment's form offers these names. A call from Python may also name a folder or a file.
DatasetChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": list(named_datasets())})]
RecipeChoice = Annotated[
    str, WithJsonSchema({"type": "string", "enum": [DEFAULT, *recipe_names()]})
]
NumClasses = Annotated[int, Field(ge=2, le=256)]
# A stage's task has the name of the stage, in the module that its declaration names.
TASKS: dict[str, Task[..., Any]] = {
    stage.name: getattr(import_module(stage.module), stage.name)
    for stage in (*STAGES, PUBLISH, AUDIT)
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
        what, expected = f"version {summary.version}", "a model that passes the gate"
        raise GateRefused(what, found=summary.decision, expected=expected, result=summary)
    return summary


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
        return TASKS[stage.name](**inputs)

    return call


@flow(name="predict", flow_run_name="{model} → {out}", timeout_seconds=24 * 3600)
def predict(
    files: Annotated[tuple[str, ...], Field(min_length=1)],
    out: str,
    model: str = CHAMPION,
    dataset: str | None = None,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> Predicted:
    """Classify every image of some files or folders and write the answers to `out`.

    `model` is "champion" (of `dataset`), a version, a bundle's folder or an .onnx file. Below the
    confidence `threshold` there is no answer. `out` is a .parquet or .json file.
    """
    return answer(Request(**locals()))
