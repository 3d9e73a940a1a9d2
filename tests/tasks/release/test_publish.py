"""The stage: from a lineage to a bundle, a journal and a pointer, whatever happens in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline_config.settings import settings
from tasks.release import assemble, registry
from tasks.release.bundle import read_bundle, version_of
from tasks.release.journal import journal_path, read_journal
from tasks.release.publish import headline, publish, publish_model
from tasks.release.registry import is_current, pointer_path
from tasks.runtime.outcomes import recording


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the journal, which tells the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "journal.jsonl"
    }


def test_the_task_publishes_and_says_so(make_lineage):
    lineage = make_lineage(accuracy=0.95)
    with recording() as ledger:
        published = publish.fn(**vars(lineage))
    assert (published.champion, published.champion_version) == (True, published.version)
    assert published.version == version_of(
        lineage.recipe,
        lineage.table.facts,
        lineage.trained.manifest,
        lineage.evaluated.manifest,
    )
    assert published.path == settings().models / "mnist" / published.version
    (outcome,) = ledger.outcomes.values()
    assert (outcome.key, outcome.path) == (published.version, str(published.path))
    assert outcome.reason.startswith("built; promoted: accuracy 0.9500")
    text = headline(published)
    assert "95.00 %" in text
    assert str(published.path / "report.html") in text


def test_a_second_run_changes_nothing(make_lineage):
    first = publish_model(make_lineage())
    before = tree(settings().models), journal_path("mnist").read_bytes()
    again = publish_model(make_lineage())
    assert again == first.model_copy(update={"reason": "it is the champion already"})
    assert (tree(settings().models), journal_path("mnist").read_bytes()) == before
    assert is_current("mnist", first.version, competes=True) == []


def test_a_worse_model_is_published_and_kept_off(make_lineage):
    first = publish_model(make_lineage(accuracy=0.95))
    second = publish_model(make_lineage(accuracy=0.9))
    assert not second.champion
    assert second.champion_version == first.version
    assert second.reason.startswith("accuracy 0.9000 on the test split < 0.9500")
    assert f"champion: `{first.version}`" in headline(second)
    assert is_current("mnist", second.version, competes=True) == []


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (assemble, "copy_outputs"),
        (assemble, "write_model_files"),
        (assemble, "write_pages"),
        (assemble, "list_files"),
        (registry, "append_line"),
        (registry, "write_atomically"),
    ],
)
def test_killed_anywhere_the_next_run_converges(make_lineage, monkeypatch, tmp_path, module, step):
    lineage = make_lineage()
    real = getattr(module, step)

    def killed(*given, **named):
        if module is assemble:
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, step, killed)
        with pytest.raises(Killed):
            publish_model(lineage)
    assert not pointer_path("mnist").exists()
    bundles = [path for path in settings().models.glob("mnist/*") if path.is_dir()]
    assert all(read_bundle("mnist", path.name)[1] == [] for path in bundles)
    published = publish_model(lineage)
    assert is_current("mnist", published.version, competes=True) == []
    assert len(read_journal("mnist")) == 1
    converged = tree(settings().models)
    monkeypatch.setenv("IDXFLOW_ROOT", str(tmp_path / "undisturbed"))
    publish_model(make_lineage())
    assert tree(settings().models) == converged


def test_two_publishers_at_once_make_one_release(make_lineage):
    lineage = make_lineage()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(publish_model, lineage) for _ in range(4)]
    assert {run.result().version for run in runs} == {runs[0].result().version}
    assert len(read_journal("mnist")) == 1
    assert {path.name for path in settings().models.glob("mnist/*")} == {
        runs[0].result().version,
        "journal.jsonl",
        "champion.json",
    }
    assert is_current("mnist", runs[0].result().version, competes=True) == []
