"""Keys: what changes them, what does not, and that they are never made of something unstable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_config.datasets import named_dataset
from pipeline_config.recipe_files import load_recipe
from tasks.runtime import keys
from tasks.runtime.devices import Machine
from tasks.runtime.stages import AUDIT, EVALUATE, FETCH, NORMALIZE, STAGES, TRAIN, Stage
from tasks.runtime.store import StageRef

TABLE = StageRef(stage="convert", key="0" * 16, digest="a" * 64)
NORMALIZED = StageRef(stage="normalize", key="0" * 16, digest="b" * 64)
MACHINE = Machine(device="cpu", precision="float32", threads=2, cpu="x86_64 avx2")


def train_inputs(*overrides: str) -> dict[str, object]:
    recipe = load_recipe("fast", overrides)
    return {
        "table": TABLE,
        "normalized": NORMALIZED,
        "model": recipe.model,
        "training": recipe.training,
        "machine": MACHINE,
    }


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two modules: `tasks.stage` imports `tasks.helper`."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/__init__.py").write_text("")
    (tmp_path / "tasks/stage.py").write_text("from tasks.helper import double\n")
    (tmp_path / "tasks/helper.py").write_text(
        '"""Words."""\ndef double(x):\n    """Words."""\n    return 2 * x\n'
    )
    monkeypatch.setattr(keys, "CHECKOUT", tmp_path)
    return tmp_path


def digest(module: str = "tasks.stage") -> str:
    keys.code_digests.cache_clear()
    keys._read.cache_clear()
    found = keys.digest_of(keys.code_digests(module))
    keys.code_digests.cache_clear()
    keys._read.cache_clear()
    return found


def test_a_comment_a_docstring_and_layout_change_nothing(house: Path) -> None:
    before = digest()
    (house / "tasks/helper.py").write_text(
        '"""Other words."""\n# why\n\n\ndef double(x):\n    """More."""\n    return (2 * x)\n'
    )
    assert digest() == before


def test_a_changed_helper_changes_the_key_of_who_imports_it(house: Path) -> None:
    before = digest()
    (house / "tasks/helper.py").write_text("def double(x):\n    return x + x\n")
    assert digest() != before


def test_a_module_that_is_not_imported_changes_nothing(house: Path) -> None:
    before = digest()
    (house / "tasks/other.py").write_text("x = 1\n")
    assert digest() == before


@pytest.mark.parametrize(
    "statement",
    [
        "import tasks.helper",
        "from tasks import helper",
        "from .helper import double",
        "from . import helper",
        "def later():\n    from tasks.helper import double",
    ],
)
def test_every_way_to_import_is_seen(house: Path, statement: str) -> None:
    (house / "tasks/stage.py").write_text(statement + "\n")
    before = digest()
    (house / "tasks/helper.py").write_text("def double(x):\n    return x + x\n")
    assert digest() != before


HELPER = """
import logging
logger = logging.getLogger(__name__)

def double(x):
    if x < 0:
        logger.warning("%s", WARNING)
        raise OverflowError(found=f"{x}", expected="a number from 0")
    return 2 * x if x else ValueError("WORDS")
"""


@pytest.mark.parametrize(
    ("old", "new"), [("a number from 0", "more"), ("WARNING", "x"), ("WORDS", "nothing there")]
)
def test_a_reworded_error_changes_nothing(house: Path, old: str, new: str) -> None:
    (house / "tasks/helper.py").write_text(HELPER)
    before = digest()
    (house / "tasks/helper.py").write_text(HELPER.replace(old, new))
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new"), [("x < 0", "x < 1"), ("OverflowError", "ValueError"), ("2 * x", "3 * x")]
)
def test_what_an_error_depends_on_still_counts(house: Path, old: str, new: str) -> None:
    (house / "tasks/helper.py").write_text(HELPER)
    before = digest()
    (house / "tasks/helper.py").write_text(HELPER.replace(old, new, 1))
    assert digest() != before


def test_what_carries_a_stage_is_in_no_key() -> None:
    """A library that is added to one stage, or a line in the Prefect UI, retrains nothing."""
    for stage in (*STAGES, AUDIT):
        assert not keys.NOT_IN_KEYS & keys.code_digests(stage.module).keys()
    assert all(keys._source(name) for name in keys.NOT_IN_KEYS), "each of them is a module"


def test_each_stage_covers_its_own_module_and_the_recipes_types() -> None:
    for stage in STAGES:
        assert stage.module in keys.code_digests(stage.module)
    assert "pipeline_config.recipe" in keys.code_digests(TRAIN.module)
    assert "tasks.model.network" in keys.code_digests(TRAIN.module)
    assert "tasks.model.network" not in keys.code_digests(NORMALIZE.module)


def test_a_learning_rate_is_one_component() -> None:
    before = keys.components_of(TRAIN, train_inputs())
    after = keys.components_of(TRAIN, train_inputs("training.optimizer.learning_rate=0.5"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"training.optimizer.learning_rate"}


def test_threads_are_part_of_the_train_key() -> None:
    inputs = train_inputs()
    other = {**inputs, "machine": MACHINE.model_copy(update={"threads": 1})}
    assert keys.components_of(TRAIN, inputs) != keys.components_of(TRAIN, other)


def test_an_inputs_digest_counts_and_its_key_does_not() -> None:
    inputs = train_inputs()
    same = {**inputs, "table": TABLE.model_copy(update={"key": "f" * 16})}
    other = {**inputs, "table": TABLE.model_copy(update={"digest": "c" * 64})}
    assert keys.components_of(TRAIN, inputs) == keys.components_of(TRAIN, same)
    assert keys.components_of(TRAIN, inputs) != keys.components_of(TRAIN, other)


def test_each_of_several_references_counts() -> None:
    inputs = train_inputs()
    several = {**inputs, "normalized": (TABLE, NORMALIZED)}
    for other in ((NORMALIZED, TABLE), (NORMALIZED, NORMALIZED), (TABLE, NORMALIZED, TABLE)):
        assert keys.components_of(TRAIN, several) != keys.components_of(
            TRAIN, {**inputs, "normalized": other}
        )


def test_places_and_words_are_not_in_a_key() -> None:
    mnist = named_dataset("mnist")
    moved = mnist.model_copy(update={"sources": ("https://elsewhere/",), "title": "Other"})
    before = keys.components_of(FETCH, {"dataset": mnist})
    assert before == keys.components_of(FETCH, {"dataset": moved})


def test_a_library_version_is_part_of_the_key() -> None:
    inputs = train_inputs()
    without = replace(TRAIN, libraries=())
    assert "library torch" in keys.components_of(TRAIN, inputs)
    assert keys.components_of(TRAIN, inputs) != keys.components_of(without, inputs)


@pytest.mark.parametrize("stage", [EVALUATE, AUDIT])
def test_pillow_writes_the_figures_and_is_part_of_the_key(stage: Stage) -> None:
    assert "pillow" in stage.libraries


def test_something_without_a_stable_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no stable form"):
        keys.components_of(TRAIN, {**train_inputs(), "machine": {1, 2}})
