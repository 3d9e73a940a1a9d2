"""The stage: from a lineage to a bundle, a journal and a pointer, whatever happens in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from pipeline_config.settings import settings
from tasks.release import pages
from tasks.release.journal import journal_path, read_journal, reference_of
from tasks.release.looks import looks_in_words, read_looks
from tasks.release.pages import page_path
from tasks.release.publish import decision_in_markdown, publish
from tasks.release.registry import is_current, rollback
from tasks.runtime.show import recording


def recipe_with(**changes: object) -> Recipe:
    """The recipe of the small lineage, with changed fields."""
    small = ("model.hidden=[6]", "training.epochs=2", "split.validation.rows=10")
    recipe = load_recipe("fast", small)
    return Recipe.model_validate({**recipe.model_dump(), "floors": {}, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of the bundles."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob("*/*/**/*")
        if path.is_file()
    }


def test_the_task_publishes_and_shows_it(make_lineage, monkeypatch):
    lineage = make_lineage(accuracy=0.95)
    with recording() as outcomes:
        published = publish.fn(lineage)
    assert (published.champion, published.event) == (published.version, "promoted")
    assert published.version == lineage.determinants.version
    assert published.path == settings().models / "mnist" / published.version
    (outcome,) = outcomes.values()
    assert (outcome.key, outcome.path) == (published.version, str(published.path))
    assert outcome.reason.startswith("built; promoted: accuracy 0.")
    text = decision_in_markdown(published)
    assert "95.00%" in text
    assert f"{published.version}.html" in text
    monkeypatch.setenv("IDXFLOW_PAGES_URL", "http://127.0.0.1:4201")
    link = f"](http://127.0.0.1:4201/models/mnist/{published.version}.html)"
    assert link in decision_in_markdown(published)


def test_a_second_run_changes_nothing(make_lineage):
    first = publish.fn(make_lineage())
    before = tree(settings().models), journal_path("mnist").read_bytes(), len(read_looks("mnist"))
    again = publish.fn(make_lineage())
    assert again.reason == "it is the champion already"
    assert not again.is_new
    assert before == (
        tree(settings().models),
        journal_path("mnist").read_bytes(),
        len(read_looks("mnist")),
    )
    assert is_current("mnist", first.version) == []


def test_a_refused_model_is_published_but_not_champion(make_lineage):
    first = publish.fn(make_lineage())
    demanding = recipe_with(floors={"mnist": 0.999})
    second = publish.fn(make_lineage(recipe=demanding, accuracy=0.8))
    assert (second.event, second.refused, second.champion) == ("refused", True, first.version)
    assert "0.9990 is the recipe's floor" in second.reason
    assert f"champion: `{first.version}`" in decision_in_markdown(second)
    assert is_current("mnist", second.version) == []
    again = publish.fn(make_lineage(recipe=demanding, accuracy=0.8))
    assert (again.event, again.refused) == ("kept", False)
    assert "decided before, in line 2 of the journal: refused" in again.reason
    looks = len(read_looks("mnist"))
    forced = publish.fn(make_lineage(recipe=demanding, accuracy=0.8), "for a demonstration")
    assert len(read_looks("mnist")) == looks + 1, "it was judged again"
    assert (forced.event, forced.champion) == ("forced", second.version)


def test_a_model_trained_on_the_pinned_rows_is_refused(make_lineage):
    published = publish.fn(make_lineage(pooled=True))
    assert published.event == "refused"
    assert "trained on rows of the pinned test set" in published.reason
    assert [look.by for look in read_looks("mnist")] == ["evaluate"]


def test_a_champion_trained_on_the_pinned_rows_is_not_compared(make_lineage):
    pooled = recipe_with(
        split={
            "test": {"kind": "pooled", "share": 0.3, "seed": 0},
            "validation": {"kind": "last", "rows": 10},
        }
    )
    forced = publish.fn(make_lineage(pooled=True, recipe=pooled), "to see it")
    assert forced.event == "forced"
    published = publish.fn(make_lineage())
    assert published.event == "promoted"
    gate = read_journal("mnist")[-1].gate
    assert gate.reference is None
    assert reference_of(read_journal("mnist")) == published.version
    assert "nothing to compare" in gate.checks[-1].words


def test_both_models_are_scored_on_the_pinned_rows_and_every_look_is_counted(make_lineage):
    first = publish.fn(make_lineage())
    other = recipe_with(description="another", scaling="unit")
    second = publish.fn(make_lineage(recipe=other, accuracy=0.8))
    gate = read_journal("mnist")[-1].gate
    assert (gate.reference, gate.num_rows, gate.looks) == (first.version, 20, 4)
    assert {check.name for check in gate.checks} >= {"accuracy", "loss", "calibration", "floor"}
    looks = [(look.by, look.version, look.networks) for look in read_looks("mnist")]
    assert looks == [
        ("evaluate", first.version, 2),
        ("gate", first.version, 1),
        ("evaluate", second.version, 2),
        ("gate", second.version, 2),
    ]
    assert looks_in_words("mnist") == (
        "Looks at the test rows: 4; versions: 2; recipes: 1; networks scored: 7."
    )


def test_the_page_shows_the_decision(make_lineage):
    first = publish.fn(make_lineage())
    page = page_path("mnist", first.version)
    assert "This version is the champion" in page.read_text()
    bundle = (first.path / "report.html").read_text()
    assert "This version" not in bundle, "a decision is no part of what was built"
    other = recipe_with(description="another", scaling="unit")
    second = publish.fn(make_lineage(recipe=other, accuracy=0.8))
    assert second.champion == second.version
    assert f'version <span class="mono">{second.version}</span> became champion' in page.read_text()
    rollback("mnist", "<b>sevens</b>")
    assert "This version is the champion" in page.read_text()
    assert "&lt;b&gt;sevens&lt;/b&gt;" in page.read_text()
    page.write_text("scribbled over")
    assert is_current("mnist", first.version) == [
        f"{first.version}.html does not show what is in the journal"
    ]
    publish.fn(make_lineage())
    assert "This version is the champion" in page.read_text()


def test_a_rerun_reads_only_its_own_version(make_lineage, monkeypatch):
    """With four hundred published versions it took 1.7 s to find that there is nothing to do."""
    made = publish.fn(make_lineage())
    other = recipe_with(description="another", scaling="unit")
    second = publish.fn(make_lineage(recipe=other, accuracy=0.8))
    seen, real = [], pages.page_path

    def path(dataset: str, version: str) -> Path:
        seen.append(version)
        return real(dataset, version)

    monkeypatch.setattr(pages, "page_path", path)
    assert is_current("mnist", made.version) == []
    assert seen == [made.version]
    page_path("mnist", second.version).unlink()
    assert is_current("mnist", made.version) == []


def test_concurrent_publishers_make_one_release(make_lineage):
    lineage = make_lineage()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(publish.fn, lineage) for _ in range(4)]
    assert {run.result().version for run in runs} == {runs[0].result().version}
    assert len(read_journal("mnist")) == 1
    assert {path.name for path in settings().models.glob("mnist/*")} == {
        runs[0].result().version,
        f"{runs[0].result().version}.html",
        "journal.jsonl",
        "looks.jsonl",
        "champion.json",
    }
    assert is_current("mnist", runs[0].result().version) == []
