"""The folds of a label audit: a plan for each, what would run, and the result. Without Prefect."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.diagram import label_audit
from flows.explain import look_up
from flows.plan import Plan
from flows.summary import stages_of
from pipeline_config.recipe import OfficialTest, Split, StratifiedFold
from pipeline_config.sections import ConfigError, Section
from tasks.runtime.stages import Outcome
from tasks.runtime.store import StageRef


class LabelAudit(Section):
    """The result of an audit, as `idxflow audit-labels --json` prints it beside the suspects.

    `estimated_errors` is how many labels confident learning estimates to be wrong. The
    `num_suspects` rows that it can name are in `suspects`, a Parquet file.
    """

    dataset: str
    recipe: str
    num_folds: int
    num_rows: int
    num_suspects: int
    estimated_errors: float
    out_of_fold_accuracy: float
    suspects: str
    noise: str
    gallery: str
    stages: tuple[dict[str, Any], ...]


def fold_plans(plan: Plan, num_folds: int) -> list[Plan]:
    """Return the plan with each fold of the training split in turn as its validation rows.

    The recipe's own split is replaced, and the test split is not used. Raises ConfigError for a
    recipe whose outputs are not probabilities.
    """
    recipe = plan.recipe
    if not recipe.training.gives_logits:
        raise ConfigError(
            f"recipe {recipe.name}",
            found=f"the loss {recipe.training.loss}, which gives no probabilities",
            expected="the loss cross_entropy or nll: confident learning compares probabilities",
            remedy="Choose another recipe, for example --recipe fast.",
        )
    training = recipe.training.model_copy(update={"keep_epochs": False})
    plans = []
    for fold in range(num_folds):
        validation = StratifiedFold(
            kind="fold", fold=fold, folds=num_folds, seed=recipe.training.seed
        )
        split = Split(test=OfficialTest(kind="official"), validation=validation)
        of_fold = recipe.model_copy(update={"split": split, "training": training})
        plans.append(plan.model_copy(update={"recipe": of_fold}))
    return plans


def explain_audit(plans: list[Plan]) -> tuple[list[Outcome], StageRef | None]:
    """Return what every stage would do, and the audit itself if it is there and intact."""
    outcomes: list[Outcome] = []
    found = label_audit(plans, look_up(outcomes))
    return outcomes, found if isinstance(found, StageRef) else None


def audited(plan: Plan, ref: StageRef, outcomes: Iterable[Outcome]) -> LabelAudit:
    """Return the result of an audit and of what each stage did."""
    from tasks.evaluation.confident_learning import GALLERY, NOISE, SUSPECTS

    return LabelAudit(
        dataset=plan.dataset.name,
        recipe=plan.recipe.name,
        **ref.facts,
        suspects=str(ref.path / SUSPECTS),
        noise=str(ref.path / NOISE),
        gallery=str(ref.path / GALLERY),
        stages=stages_of(outcomes),
    )


def named_suspects(plan: Plan, audit: LabelAudit, limit: int) -> list[dict[str, Any]]:
    """Return the first `limit` suspects, with the names of their classes."""
    from tasks.evaluation.confident_learning import read_suspects

    names = plan.dataset.class_names
    return [
        {**row, "label": names[row["label"]], "suggested": names[row["suggested"]]}
        for row in read_suspects(Path(audit.suspects), limit)
    ]
