"""The documents name only what exists: files, commands, recipes, data sets, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flows.cli import app
from pipeline_config.datasets import dataset_names
from pipeline_config.recipe_files import load_recipe, recipe_names
from pipeline_config.settings import CHECKOUT, Settings

README = (CHECKOUT / "README.md").read_text()
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
ROOMS = sorted(path.parent for path in (CHECKOUT / "tasks").glob("*/__init__.py"))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def lines_of_code(page: Path) -> Iterator[str]:
    """The commands of a page: indented by four spaces, without what comes after a #."""
    for line in page.read_text().splitlines():
        if line.startswith("    "):
            yield from (part.strip() for part in line.partition("   #")[0].split(";"))


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_tree_has_a_line_for_every_room(room: Path) -> None:
    assert re.search(rf"^    tasks/{room.name}/ +\S", README, re.MULTILINE)


def test_the_tree_names_nothing_that_is_gone() -> None:
    tree = README[README.index("## The house") :]
    named = re.findall(r"^    (\S+/) ", tree, re.MULTILINE)
    assert named
    for name in named:
        assert (CHECKOUT / name).is_dir(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for name in re.findall(r"`((?:flows|tasks|tests|pipeline_config|benchmarks)/[\w./-]+)`", text):
        assert (CHECKOUT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in lines_of_code(page):
        if not line.startswith("idxflow "):
            continue
        words = line.split()[1:]
        command = COMMANDS[words[0]]
        while len(words) > 1 and words[1] in getattr(command, "commands", {}):
            words = words[1:]
            command = command.commands[words[0]]
        options = {name for each in command.params for name in each.opts}
        given = {word for word in words[1:] if re.fullmatch(r"--[a-z-]+", word)}
        assert given <= options, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_and_recipes_exist(page: Path) -> None:
    text = page.read_text()
    for override in re.findall(r"--set '?([a-z_.]+=[^\s']+)", text):
        if "a.b=" not in override:
            load_recipe("fast", (override,))
    for name in re.findall(r"--recipe ([a-z0-9-]+)\b(?![./])", text):
        assert name in [*recipe_names(), "recipe"], name


def test_every_command_data_set_and_recipe_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name in COMMANDS:
        assert f"idxflow {name}" in text
    for name in [*dataset_names(), *recipe_names()]:
        assert re.search(rf"\b{name}\b", text), name


def test_settings_are_named_as_they_are() -> None:
    known = {f"IDXFLOW_{name.upper()}" for name in Settings.model_fields}
    for page in PAGES:
        assert set(re.findall(r"IDXFLOW_[A-Z_]+\b", page.read_text())) <= known | {"IDXFLOW_"}
