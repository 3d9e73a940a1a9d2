"""`idxflow run`, `explain` and `audit-labels`, and the options that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from typer import Argument, Exit, Option, Typer

from flows import console
from flows.diagram import explain as look_at_stages
from flows.diagram import explain_audit
from flows.plan import Choice, fold_plans, make_plan, take_in_waiting
from flows.summary import audited, named_suspects, summarize
from pipeline_config.recipe_files import cautions_of
from pipeline_config.sections import checked
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.errors import GateRefused
from tasks.runtime.show import confidence_in_words
from tasks.runtime.stages import StageName

app = Typer()
Data = Annotated[str, Argument(metavar="DATASET", help="A data set's name, or a folder.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object.")]
Verbose = Annotated[bool, Option("--verbose", help="Print Prefect's log, too.")]
# The options of a choice, by the name of its field.
OPTIONS: dict[str, Any] = {
    "dataset": Annotated[str, Option("-d", "--dataset", help="A data set's name, or a folder.")],
    "recipe": Annotated[str, Option("-r", "--recipe", help="A name or file, or the data set's.")],
    "device": Annotated[DeviceChoice, Option(help="Where to train.")],
    "overrides": Annotated[list[str], Option("--set", metavar="KEY=VALUE", help="In the recipe.")],
    "source": Annotated[str | None, Option(metavar="FOLDER", help="Look here first for files.")],
    "classes": Annotated[int | None, Option(min=2, max=256, help="Of a folder.  [default: 10]")],
    "refresh_from": Annotated[StageName | None, Option(help="Run this and what follows again.")],
    "force_promote": Annotated[str | None, Option(help="Make it champion in any case: why.")],
}


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command these OPTIONS, passed on together as `choice`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in names}
            command(**given, choice=checked(Choice, chosen, "the options"))

        signature = inspect.signature(command, eval_str=True)
        parameters = [each for name, each in signature.parameters.items() if name != "choice"]
        for name in names:
            option = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
            default = Choice.model_fields[name].default
            parameters.append(option.replace(default=default, annotation=OPTIONS[name]))
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


@app.command(epilog="Example: idxflow run --recipe fast --set training.epochs=3")
@with_options(*OPTIONS)
def run(
    choice: Choice,
    always: Annotated[bool, Option("--always", help="Run even if all is up to date.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run the pipeline: raw IDX files in, a published model out.

    Stages whose inputs did not change are skipped; if nothing changed at all, nothing is started.
    Exit code 3: the model is published, and the gate refused to make it champion.
    """
    take_in_waiting(choice)
    plan, refusal = make_plan(choice), None
    console.print_cautions(cautions_of(plan.recipe))
    outlook = look_at_stages(plan)
    if always or any(each.state != "hit" for each in outlook):
        from flows.launch import launch

        given = choice.model_dump()
        try:
            summary = launch("flows.retrain:retrain", plan, given, outlook, verbose=verbose)
        except GateRefused as refused:
            refusal, summary = refused, refused.result
    else:
        summary = summarize(plan.dataset.name, str(outlook[-1].key), outlook)
        console.say("everything is up to date, nothing to run (--always runs the flow anyway)")
    console.show(summary, as_json, "name state seconds", summary.stages)
    if not as_json:
        found = {"corrected_accuracy": None, **summary.metrics, **vars(summary)}
        found["confidence"] = confidence_in_words(summary.metrics)
        found["in_it"] = "model.onnx, model.safetensors, README.md, MLmodel"
        console.facts("accuracy validation_accuracy untrained_accuracy corrected_accuracy", found)
        console.facts("macro_f1 loss confidence version event decision report", found)
        console.facts("bundle in_it", found)
    if refusal is not None:
        console.print_error(refusal)
        raise Exit(3)


@app.command(epilog="Example: idxflow explain --set training.optimizer.learning_rate=0.01")
@with_options("dataset", "recipe", "device", "overrides", "source", "classes", "refresh_from")
def explain(choice: Choice, as_json: Json = False) -> None:
    """Print what a run would do, stage by stage, and why.

    Nothing is run. A component of a key that changed is printed with its old and new value. hit:
    found intact; miss: would run; pending: waits for a stage that would.
    """
    outlook = look_at_stages(make_plan(choice))
    rows: list[tuple[object, ...]] = []
    for each in outlook:
        reason = "changed:" if each.changes else each.reason
        rows.append((each.name, each.state, each.key, reason))
        rows += [(None, None, None, change) for change in each.changes]
    console.show(outlook, as_json, "stage state key why", rows)


@app.command(epilog="Example: idxflow audit-labels mnist --folds 5 --limit 20")
@with_options("recipe", "device", "overrides", "source", "classes")
def audit_labels(
    dataset: Data,
    choice: Choice,
    folds: Annotated[int, Option(min=2, max=100, help="How often to train.")] = 5,
    limit: Annotated[int, Option(min=0, help="How many suspects to print.")] = 20,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Rank the training rows whose label is likely wrong.

    Uses confident learning, and draws a gallery. Trains once for each fold, which is kept.
    """
    choice = choice.model_copy(update={"dataset": dataset})
    plan = make_plan(choice)
    plans = fold_plans(plan, folds)
    console.print_cautions(cautions_of(plans[0].recipe))
    outlook, ref = explain_audit(plans)
    if ref is None:
        from flows.launch import launch

        ahead = [each for each in outlook if each.name == "train" and each.state != "hit"]
        trains = f"this trains the recipe {plan.recipe.name} {len(ahead)} times"
        console.say(f"{trains}; what is trained is kept")
        given = {**choice.model_dump(exclude={"refresh_from", "force_promote"}), "folds": folds}
        audit = launch("flows.retrain:audit_labels", plan, given, outlook, verbose=verbose)
    else:
        audit = audited(plan, ref, outlook)
    suspects, found = named_suspects(plan, audit, limit), audit.model_dump(mode="json")
    columns = "row label suggested confidence self_confidence"
    console.show({**found, "first": suspects}, as_json, columns, suspects)
    if not as_json:
        console.facts("num_rows num_suspects estimated_errors out_of_fold_accuracy", found)
        console.facts("num_folds suspects noise gallery", found)
