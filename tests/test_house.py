"""The house rules, held by reading the imports: who may import whom, and what stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_config.settings import CHECKOUT
from tasks.runtime.stages import ADMIT, AUDIT, STAGES

ROOMS = ("raw", "dataset", "model", "evaluation", "release", "prediction")
LAYERS = ("pipeline_config", "tasks", "flows")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_LINES, MAX_FILES = 14_100, 104
SOURCES = sorted(path for layer in LAYERS for path in (CHECKOUT / layer).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "tasks" and len(parts) > 1 and parts[1] in ROOMS else None


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_layers_import_only_what_lies_below(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(CHECKOUT).parts[0])
    above = set(LAYERS[layer + 1 :])
    assert not {name for name in imports_of(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_rooms_import_only_rooms_before_them(path: Path) -> None:
    room = room_of(module_of(path))
    imported = {room_of(name) for name in imports_of(path)} - {None}
    if module_of(path).startswith("tasks.runtime"):
        assert not imported
    elif room is not None:
        assert imported <= set(ROOMS[: ROOMS.index(room) + 1])


def test_a_stage_never_imports_another_stages_task() -> None:
    modules = {stage.module for stage in (*STAGES, ADMIT, AUDIT)} | {"tasks.release.publish"}
    for path in (CHECKOUT / "tasks").rglob("*.py"):
        assert not imports_of(path) & (modules - {module_of(path)}), path


def test_prefect_is_known_where_tasks_are_made_and_shown() -> None:
    """The stage modules themselves know the decorator; publish is no cached stage."""
    knowing = {
        module_of(path)
        for path in (CHECKOUT / "tasks").rglob("*.py")
        if any(name.split(".")[0] == "prefect" for name in imports_of(path))
    }
    assert knowing == {"tasks.runtime.task", "tasks.runtime.show", "tasks.release.publish"}


def test_no_module_outgrows_its_screen() -> None:
    long = {module_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > 250}


def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS)]


def test_no_function_outgrows_its_screen() -> None:
    long = {
        f"{module_of(path)}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in SOURCES
        for function in functions_of(path)
    }
    assert not {name: lines for name, lines in long.items() if lines > 50}


def test_the_house_stays_small() -> None:
    assert len(SOURCES) <= MAX_FILES
    assert sum(len(path.read_text().splitlines()) for path in SOURCES) <= MAX_LINES


def test_one_name_means_one_thing() -> None:
    """A command has the name of the function that it calls; other names occur once."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        if not module_of(path).startswith("flows.cli."):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module_of(path))
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in SOURCES if path.stem in {"utils", "helpers", "common"}]


def test_explain_imports_neither_prefect_nor_torch() -> None:
    program = (
        "import sys\n"
        "from flows.cli import app\n"
        "app(['explain'], standalone_mode=False)\n"
        "heavy = {'prefect', 'torch', 'great_expectations', 'matplotlib', 'sklearn'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
