"""Keys: what is in them, what changes them, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_config.datasets import named_dataset
from pipeline_config.recipe_files import load_recipe
from tasks.runtime import stages
from tasks.runtime.devices import Machine
from tasks.runtime.stages import ADMIT, AUDIT, EVALUATE, FETCH, STAGES, TRAIN, Stage
from tasks.runtime.store import StageRef

# The first-party modules in each stage's key, by package. A new name here means that a change of
# that module runs the stage again: add one only if the module decides bytes of the stage's output.
# After a move, copy the left side of the failed comparison from pytest's -vv output.
IN_KEY = {
    "fetch": {
        "pipeline_config": "datasets",
        "tasks.raw": "fetch folder idx receive sources tables",
        "tasks.runtime": "files",
    },
    "validate": {
        "pipeline_config": "datasets",
        "tasks.dataset": "expectations profile splits validate",
        "tasks.raw": "idx",
        "tasks.runtime": "files",
    },
    "admit": {
        "pipeline_config": "datasets",
        "tasks.dataset": "admit profile shards",
        "tasks.raw": "idx",
        "tasks.runtime": "files",
    },
    "convert": {
        "pipeline_config": "datasets",
        "tasks.dataset": "convert",
        "tasks.raw": "idx",
        "tasks.runtime": "files",
    },
    "normalize": {"pipeline_config": "recipe", "tasks.dataset": "normalize table"},
    "train": {
        "pipeline_config": "recipe",
        "tasks.dataset": "table",
        "tasks.model": "augmentation checkpoint network numpy_engine torch_engine train training",
        "tasks.runtime": "devices files",
    },
    "evaluate": {
        "pipeline_config": "datasets recipe",
        "tasks": "evaluation",
        "tasks.dataset": "table",
        "tasks.evaluation": "calibration confidence_figures evaluate figures metrics robustness",
        "tasks.model": "network",
        "tasks.runtime": "devices files",
    },
    "audit": {
        "pipeline_config": "datasets recipe",
        "tasks.dataset": "table",
        "tasks.evaluation": "figures label_audit metrics",
        "tasks.model": "network",
        "tasks.runtime": "devices files",
    },
}

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
    monkeypatch.setattr(stages, "CHECKOUT", tmp_path)
    return tmp_path


def digest(module: str = "tasks.stage") -> str:
    stages.code_digests.cache_clear()
    stages._read.cache_clear()
    found = stages.digest_of(stages.code_digests(module))
    stages.code_digests.cache_clear()
    stages._read.cache_clear()
    return found


@pytest.mark.parametrize("stage", (*STAGES, ADMIT, AUDIT), ids=lambda stage: stage.name)
def test_a_key_covers_exactly_the_listed_modules(stage: Stage) -> None:
    found: dict[str, str] = {}
    for name in stages.code_digests(stage.module):
        package, _, module = name.rpartition(".")
        found[package] = f"{found[package]} {module}" if package in found else module
    assert found == IN_KEY[stage.name]


def test_modules_that_are_in_no_key_exist() -> None:
    assert all(stages._source(name) for name in stages.NOT_IN_KEYS)


def test_a_comment_a_docstring_and_layout_change_nothing(house: Path) -> None:
    before = digest()
    (house / "tasks/helper.py").write_text(
        '"""Other words."""\n# why\n\n\ndef double(x):\n    """More."""\n    return (2 * x)\n'
    )
    assert digest() == before


def test_a_changed_helper_changes_the_key_of_its_importer(house: Path) -> None:
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
        found, remedy = f"{x}, which is NEGATIVE", "Change it."
        raise OverflowError(found=found, expected="a number from 0")
    if x > 9:
        raise refused("TOO LARGE")
    return 2 * x if x else ValueError("WORDS")
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *[("a number from 0", "more"), ("WARNING", "x"), ("WORDS", "nothing there")],
        *[("NEGATIVE", "below 0"), ("Change it.", ""), ("TOO LARGE", "too much")],
    ],
)
def test_a_reworded_error_changes_nothing(house: Path, old: str, new: str) -> None:
    (house / "tasks/helper.py").write_text(HELPER)
    before = digest()
    (house / "tasks/helper.py").write_text(HELPER.replace(old, new))
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("x < 0", "x < 1"), ("OverflowError", "ValueError"), ("2 * x", "3 * x"), ("refused", "other")],
)
def test_an_errors_class_and_condition_change_the_key(house: Path, old: str, new: str) -> None:
    (house / "tasks/helper.py").write_text(HELPER)
    before = digest()
    (house / "tasks/helper.py").write_text(HELPER.replace(old, new, 1))
    assert digest() != before


def test_a_learning_rate_is_one_component() -> None:
    before = stages.components_of(TRAIN, train_inputs())
    after = stages.components_of(TRAIN, train_inputs("training.optimizer.learning_rate=0.5"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"training.optimizer.learning_rate"}


def test_threads_are_part_of_the_train_key() -> None:
    inputs = train_inputs()
    other = {**inputs, "machine": MACHINE.model_copy(update={"threads": 1})}
    assert stages.components_of(TRAIN, inputs) != stages.components_of(TRAIN, other)


def test_an_inputs_digest_is_in_the_key_and_its_own_key_is_not() -> None:
    inputs = train_inputs()
    same = {**inputs, "table": TABLE.model_copy(update={"key": "f" * 16})}
    other = {**inputs, "table": TABLE.model_copy(update={"digest": "c" * 64})}
    assert stages.components_of(TRAIN, inputs) == stages.components_of(TRAIN, same)
    assert stages.components_of(TRAIN, inputs) != stages.components_of(TRAIN, other)


def test_each_of_several_references_is_in_the_key() -> None:
    inputs = train_inputs()
    several = {**inputs, "normalized": (TABLE, NORMALIZED)}
    for other in ((NORMALIZED, TABLE), (NORMALIZED, NORMALIZED), (TABLE, NORMALIZED, TABLE)):
        assert stages.components_of(TRAIN, several) != stages.components_of(
            TRAIN, {**inputs, "normalized": other}
        )


def test_sources_and_titles_are_not_in_a_key() -> None:
    mnist = named_dataset("mnist")
    moved = mnist.model_copy(update={"sources": ("https://elsewhere/",), "title": "Other"})
    before = stages.components_of(FETCH, {"dataset": mnist})
    assert before == stages.components_of(FETCH, {"dataset": moved})


def test_a_library_version_is_part_of_the_key() -> None:
    inputs = train_inputs()
    without = replace(TRAIN, libraries=())
    assert "library torch" in stages.components_of(TRAIN, inputs)
    assert stages.components_of(TRAIN, inputs) != stages.components_of(without, inputs)


@pytest.mark.parametrize("stage", [EVALUATE, AUDIT])
def test_pillow_which_writes_the_figures_is_part_of_the_key(stage: Stage) -> None:
    assert "pillow" in stage.libraries


def test_an_input_without_a_stable_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no stable form"):
        stages.components_of(TRAIN, {**train_inputs(), "machine": {1, 2}})
