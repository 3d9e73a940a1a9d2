"""`idxflow run`, `explain` and `audit-labels`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from flows import console
from flows.explain import explain as look_at_stages
from flows.explain import explain_audit
from flows.plan import Choice, fold_plans, make_plan
from flows.summary import LabelAudit, Summary, audited, named_suspects, summarize
from pipeline_config.recipe_files import cautions_of
from pipeline_config.sections import checked
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.errors import GateRefused
from tasks.runtime.show import confidence_in_words
from tasks.runtime.stages import Outcome, StageName

# The exit code of a run in which the gate refused the model.
REFUSED = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Print Prefect's log, too.")]
DatasetOption = typer.Option("--dataset", "-d", help="A data set's name, or a folder.")
RecipeOption = typer.Option("--recipe", "-r", help="A name or a file; 'default': the data set's.")
SetOption = typer.Option(
    "--set", metavar="KEY=VALUE", help="Change the recipe: training.epochs=3. May be repeated."
)
SourceOption = typer.Option(
    "--source", metavar="FOLDER", help="Where to look first for the data set's files."
)
ClassesOption = typer.Option(
    "--classes", min=2, max=256, help="The classes of a folder.  [default: 10]"
)
RefreshOption = typer.Option("--refresh-from", help="Run this stage and all after it again.")
ForceOption = typer.Option("--force-promote", help="Make it champion in any case: the reason.")

STAGES = {"stage": "{name}", "state": "{state}", "seconds": "{seconds:.1f}"}
SUSPECTS = {
    "row": "{row}",
    "label": "{label}",
    "suggested": "{suggested}",
    "confidence": "{confidence:.2%}",
    "self-confidence": "{self_confidence:.2%}",
}
# The options of a choice, by the name of its field.
OPTIONS: dict[str, Any] = {
    "dataset": Annotated[str, DatasetOption],
    "recipe": Annotated[str, RecipeOption],
    "device": Annotated[DeviceChoice, typer.Option("--device", help="Where to train.")],
    "overrides": Annotated[list[str], SetOption],
    "source": Annotated[str | None, SourceOption],
    "classes": Annotated[int | None, ClassesOption],
    "refresh_from": Annotated[StageName | None, RefreshOption],
    "force_promote": Annotated[str | None, ForceOption],
}


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of a choice, passed on as `choice`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "choice"]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=Choice.model_fields[name].default,
                annotation=OPTIONS[name],
            )
            for name in names
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in names}
            command(**given, choice=checked(Choice, chosen, "the options"))

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters, *options]
        )
        run.__annotations__ = {each.name: each.annotation for each in (*parameters, *options)}
        return run

    return decorate


@with_options(*OPTIONS)
def run(
    choice: Choice,
    always: Annotated[
        bool, typer.Option("--always", help="Run the flow even if all is up to date.")
    ] = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline: raw IDX files in, a published model out.

    Stages whose inputs did not change are skipped; if nothing changed at all, nothing is started.
    Exit code 3: the model is published, and the gate refused to make it champion.
    """
    console.log_to_console()
    plan = make_plan(choice)
    console.print_cautions(cautions_of(plan.recipe))
    outlook = look_at_stages(plan)
    refusal = None
    if always or any(each.state != "hit" for each in outlook):
        from flows.launch import launch

        parameters = choice.model_dump()
        try:
            summary = launch("flows.retrain:retrain", plan, parameters, outlook, verbose=verbose)
        except GateRefused as refused:
            refusal, summary = refused, refused.result
    else:
        summary = summarize(plan.dataset.name, str(outlook[-1].key), outlook)
        console.say("everything is up to date, nothing to run (--always runs the flow anyway)")
    if as_json:
        console.print_json(summary)
    else:
        print_summary(summary)
    if refusal is not None:
        console.print_error(refusal)
        raise typer.Exit(REFUSED)


@with_options("dataset", "recipe", "device", "overrides", "source", "classes", "refresh_from")
def explain(choice: Choice, as_json: JsonOption = False) -> None:
    """Print what a run would do, stage by stage, and why.

    Nothing is run. A component of a key that changed is printed with its old and new value. hit:
    found intact; miss: would run; pending: waits for a stage that would.
    """
    outlook = look_at_stages(make_plan(choice))
    if as_json:
        console.print_json(outlook)
    else:
        print_outlook(outlook)


@with_options("recipe", "device", "overrides", "source", "classes")
def audit_labels(
    dataset: Annotated[str, typer.Argument(help="A data set's name, or a folder.")],
    choice: Choice,
    folds: Annotated[int, typer.Option(min=2, max=100, help="How often to train.")] = 5,
    limit: Annotated[int, typer.Option(min=0, help="How many suspects to print.")] = 20,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the training rows whose label is likely wrong.

    Uses confident learning, and draws a gallery. Trains once for each fold; what is trained is
    kept.
    """
    console.log_to_console()
    choice = choice.model_copy(update={"dataset": dataset})
    plan = make_plan(choice)
    plans = fold_plans(plan, folds)
    console.print_cautions(cautions_of(plans[0].recipe))
    outlook, found = explain_audit(plans)
    if found is None:
        from flows.launch import launch

        ahead = [each.state for each in outlook if each.name == "train" and each.state != "hit"]
        console.say(
            f"this trains the recipe {plan.recipe.name} {len(ahead)} times, each time on all but "
            f"one of {folds} parts of the training rows; what is trained is kept"
        )
        chosen = choice.model_dump(exclude={"refresh_from", "force_promote"})
        parameters = {**chosen, "folds": folds}
        result = launch("flows.retrain:audit_labels", plan, parameters, outlook, verbose=verbose)
    else:
        result = audited(plan, found, outlook)
    suspects = named_suspects(plan, result, limit)
    if as_json:
        console.print_json({**result.model_dump(mode="json"), "first": suspects})
    else:
        print_audit(result, suspects)


def print_summary(summary: Summary) -> None:
    """Print the stages, the headline figures and the paths of report, models and card."""
    console.table(STAGES, summary.stages)
    metrics = summary.metrics
    validation, corrected = metrics["validation_accuracy"], metrics.get("corrected_accuracy")
    validated = "no validation rows" if validation is None else f"{validation:.2%}"
    second = "" if corrected is None else f"   with corrected labels {corrected:.2%}"
    figures = "{accuracy:.2%}   macro F1 {macro_f1:.4f}   loss {loss:.4f} nats".format(**metrics)
    console.line()
    console.line(f"accuracy on the test split  {figures}")
    console.line(f"validation {validated}   untrained {metrics['untrained_accuracy']:.2%}")
    console.line(f"confidence {confidence_in_words(metrics)}{second}")
    console.line(f"version {summary.version}, {summary.event}: {summary.decision}")
    console.line(f"report  {summary.report}")
    console.line(f"bundle  {summary.bundle}: model.onnx, model.safetensors, model_card.md")


def print_outlook(outlook: Sequence[Outcome]) -> None:
    """Print what each stage would do, with a line for each component of a key that changed."""
    rows: list[tuple[object, ...]] = []
    for each in outlook:
        reason = "changed:" if each.changes else each.reason
        rows.append((each.name, each.state, each.key or "", reason))
        rows += [("", "", "", change) for change in each.changes]
    console.table({"stage": "{0}", "state": "{1}", "key": "{2}", "why": "{3}"}, rows)


def print_audit(audit: LabelAudit, suspects: Sequence[dict[str, Any]]) -> None:
    """Print the first suspects, how many there are, and where the files lie."""
    console.table(SUSPECTS, suspects)
    console.line()
    console.line(
        f"{audit.num_suspects:,} of {audit.num_rows:,} training labels are suspect; about "
        f"{audit.estimated_errors:,.0f} are estimated to be wrong"
    )
    folds = f"({audit.num_folds} folds)"
    console.line(f"out-of-fold accuracy {audit.out_of_fold_accuracy:.2%} {folds}")
    for name in ("suspects", "noise", "gallery"):
        console.line(f"{name:<9} {getattr(audit, name)}")
