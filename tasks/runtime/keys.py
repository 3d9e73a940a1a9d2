"""The key of a stage: a digest over all that determines its bytes, and nothing else.

A key is made of named components (code by module, library versions, digests of the inputs, the
choices it reads, the machine where results differ by it). They are kept in the stage's manifest, so
that a miss can say which of them changed, old → new.
"""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline_config.settings import CHECKOUT
from tasks.runtime.files import digest_of, sha256_bytes
from tasks.runtime.stages import Stage

FIRST_PARTY = ("tasks", "pipeline_config")
# What carries a stage and decides no byte of its output. A stage's own declaration shows in the
# other components; that of another stage is in no key.
CARRIERS = {
    "pipeline_config.errors",
    "pipeline_config.settings",
    *(
        f"tasks.runtime.{name}"
        for name in (
            *("artifacts", "cache", "errors", "interrupts", "keys", "manifest"),
            *("outcomes", "progress", "stages", "store"),
        )
    ),
}
KEY_DIGITS = 16
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Components = dict[str, str | int | float | bool | None]


def components_of(stage: Stage, inputs: Mapping[str, Any]) -> Components:
    """The components of a stage's key for the values of its task's parameters.

    Only the parameters that the stage declares in `takes` count; TypeError for one without a stable
    form, so that no key is ever made of a memory address.
    """
    found: Components = {}
    for module, digest in code_digests(stage.module).items():
        found[f"code {module}"] = digest
    for file in stage.data:
        found[f"code {file}"] = sha256_bytes((CHECKOUT / file).read_bytes())
    found["library python"] = ".".join(platform.python_version_tuple()[:2])
    for library in stage.libraries:
        found[f"library {library}"] = _version(library)
    for name in stage.takes:
        for dotted, value in _flat(name, inputs[name]):
            if not dotted.startswith(stage.ignores):
                found[dotted] = value
    return found


@cache
def _version(library: str) -> str:
    """The version of an installed library; asked for by every stage, and a search on disk."""
    return version(library)


def key_of(components: Components) -> str:
    """The key: 16 hex digits of the components' SHA-256."""
    return digest_of(components)[:KEY_DIGITS]


def _flat(name: str, value: Any) -> Iterator[tuple[str, str | int | float | bool | None]]:
    """The leaves of `value`, each under its dotted name; a stage's reference is its digest.

    It is named after its stage, or, where it is one of several, after its place among them.
    """
    if isinstance(value, BaseModel):
        content = value.model_dump(mode="json")
        if {"stage", "key", "digest"} == set(content):
            yield f"input {name if '.' in name else content['stage']}", content["digest"]
        else:
            yield from _flat(name, content)
    elif isinstance(value, Mapping):
        for part in sorted(value):
            yield from _flat(f"{name}.{part}", value[part])
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _flat(f"{name}.{position}", item)
        yield f"{name}.length", len(value)
    elif value is None or isinstance(value, str | int | float | bool):
        yield name, value
    else:
        raise TypeError(f"{name} is a {type(value).__name__}, which has no stable form for a key")


@cache
def code_digests(module: str) -> dict[str, str]:
    """The digest of a module and of the first-party modules that it imports, transitively.

    CARRIERS are left out, and so is what only they import.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in found or name in CARRIERS or path is None:
            continue
        found[name], imports = _read(path, name)
        waiting.extend(imports)
    return dict(sorted(found.items()))


def _source(module: str) -> Path | None:
    """The file of a first-party module; None for a name inside a module or somebody else's."""
    if module.partition(".")[0] not in FIRST_PARTY:
        return None
    stem = CHECKOUT.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """A module's digest, blind to comments, layout and docstrings, and the names it imports."""
    tree = ast.parse(path.read_bytes())
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports: list[str] = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return sha256_bytes(ast.dump(_Unworded().visit(tree)).encode()), tuple(imports)


class _Unworded(ast.NodeTransformer):
    """Takes the words of errors and of the log out of a syntax tree: they decide no byte."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        """Keep which error is raised, or which function makes it."""
        return ast.Raise(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Keep the class of an error that is made without being raised here."""
        self.generic_visit(node)
        return node.func if getattr(node.func, "id", "").endswith("Error") else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Leave out a line for the log."""
        owner = getattr(getattr(node.value, "func", None), "value", None)
        return ast.Pass() if getattr(owner, "id", "") == "logger" else self.generic_visit(node)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The node and every statement below it; expressions are left out, they hold no import."""
    yield node
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, block, ())
        for statement in inner if isinstance(inner, list) else ():
            yield from _statements(statement)
