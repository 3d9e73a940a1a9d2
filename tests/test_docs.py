"""The documents say what is there: files, commands, recipes, data sets, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from flows.cli import app
from pipeline_config.datasets import named_datasets
from pipeline_config.recipe_files import recipe_names
from pipeline_config.settings import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
FILES = sorted(
    path
    for layer in ("flows", "tasks", "pipeline_config")
    for path in (CHECKOUT / layer).rglob("*")
    if path.suffix in {".py", ".html", ".md"} and path.name != "__init__.py"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_the_tree_has_a_line_for_every_file(path: Path) -> None:
    lines = re.findall(rf"^ +{re.escape(path.name)} +\S.*$", README, re.MULTILINE)
    assert len(lines) >= 1


def test_the_tree_names_nothing_that_is_gone() -> None:
    tree = README[README.index("## The house") :]
    named = re.findall(r"^ {4,}([\w.-]+\.(?:py|html|md|yaml)) ", tree, re.MULTILINE)
    assert named
    there = {path.name for path in FILES}
    there |= {path.name for path in (CHECKOUT / "pipeline_config").glob("*.yaml")}
    there |= {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    assert set(named) <= there


def test_every_command_and_data_set_is_in_the_readme() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in [*commands, "mnist", "fashion-mnist", "digits8x8"]:
        assert name in README
    assert set(named_datasets()) >= {"mnist", "fashion-mnist", "digits8x8", "kmnist"}
    for recipe in recipe_names():
        assert re.search(rf"\b{recipe}\b", README), recipe
