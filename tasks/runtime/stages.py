"""The stages, and the key of each: a digest of all that determines its output's bytes.

A key is made of named components: code by module, versions of libraries, digests of inputs, choices
that the stage reads, and the machine. The output's manifest keeps them for `explain`.

Neither Prefect nor torch is imported here, so that `explain` takes milliseconds.
"""

from __future__ import annotations

import ast
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from pipeline_config.settings import CHECKOUT
from tasks.runtime.files import digest_of, sha256_bytes

StageName = Literal["fetch", "validate", "convert", "normalize", "train", "evaluate", "publish"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
FIRST_PARTY = ("tasks", "pipeline_config")
# These modules run every stage and decide no byte of its output.
NOT_IN_KEYS = {"pipeline_config.sections", "pipeline_config.settings"} | {
    f"tasks.runtime.{name}" for name in ("errors", "manifest", "show", "stages", "store", "task")
}
KEY_DIGITS = 16
# The names of texts that an error is raised with; the other one is that of a tuple's node.
ERROR_WORDS = {"what", "found", "expected", "remedy", ""}
DIGEST = re.compile(r"^([0-9a-f]{8})[0-9a-f]{56}$")

Components = dict[str, str | int | float | bool | None]
version_of_library = cache(version)  # each lookup searches the disk


@dataclass(frozen=True)
class Stage:
    """One stage.

    `module` holds its task; the module's first-party source, transitively, is part of the key.
    `libraries` are those whose version decides the output's bytes.
    `data` are files of the checkout that are read like code, such as a page's template.
    `ignores` are dotted inputs that are places or words, and so not part of the key.
    """

    name: StageName | Literal["admit", "audit"]
    module: str
    libraries: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()


FETCH = Stage(
    "fetch",
    "tasks.raw.fetch",
    ignores=(
        "source",
        "dataset.title",
        "dataset.sources",
        "dataset.class_names",
        "dataset.default_recipe",
        "dataset.num_classes",
        "dataset.image_shape",
        "dataset.corrections",
    ),
)
VALIDATE = Stage(
    "validate",
    "tasks.dataset.validate",
    libraries=("numpy", "pandas", "pyarrow", "great-expectations", "jinja2", "pillow"),
    data=("tasks/dataset/expectations.yaml", "tasks/dataset/validation.html"),
    ignores=("title",),
)
# Once for each shard of new rows, before convert.
ADMIT = Stage(
    "admit",
    "tasks.dataset.admit",
    libraries=("numpy", "pandas", "pyarrow", "jinja2", "pillow"),
    data=("tasks/dataset/admission.html",),
    ignores=("shard.dataset", "shard.released"),
)
CONVERT = Stage("convert", "tasks.dataset.convert", libraries=("numpy", "pyarrow"))
NORMALIZE = Stage(
    "normalize", "tasks.dataset.normalize", libraries=("numpy", "pyarrow", "scikit-learn")
)
TRAIN = Stage("train", "tasks.model.train", libraries=("numpy", "scipy", "torch", "safetensors"))
EVALUATE = Stage(
    "evaluate",
    "tasks.evaluation.evaluate",
    libraries=("numpy", "torch", "scikit-learn", "matplotlib", "pillow", "pyarrow"),
    ignores=("corrections.source",),
)
PUBLISH = Stage("publish", "tasks.release.publish")
# Beside the pipeline: made from a normalize and a train stage for each fold.
AUDIT = Stage(
    "audit",
    "tasks.evaluation.label_audit",
    libraries=("numpy", "torch", "matplotlib", "pillow", "pyarrow"),
)

# The stages of a run that are cached, in order. Publish is never cached.
STAGES = (FETCH, VALIDATE, CONVERT, NORMALIZE, TRAIN, EVALUATE)


@dataclass(frozen=True)
class Change:
    """A component of a stage's key that changed. Digests are shortened to eight digits."""

    component: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.component}: {self.old} → {self.new}"


def components_of(stage: Stage, inputs: Mapping[str, Any]) -> Components:
    """Return the components of a stage's key for the inputs of its task.

    Raises TypeError for an input without a stable form, such as a set or an object.
    """
    found: Components = {f"code {name}": sha for name, sha in code_digests(stage.module).items()}
    for file in stage.data:
        found[f"code {file}"] = sha256_bytes((CHECKOUT / file).read_bytes())
    found["library python"] = ".".join(platform.python_version_tuple()[:2])
    found |= {f"library {name}": version_of_library(name) for name in stage.libraries}
    for name, given in inputs.items():
        leaves = _flat(name, given)
        found |= {leaf: value for leaf, value in leaves if not leaf.startswith(stage.ignores)}
    return found


def key_of(components: Components) -> str:
    """Return the key: 16 hex digits of the components' SHA-256."""
    return digest_of(components)[:KEY_DIGITS]


def changes_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the components that differ, sorted by name. A SHA-256 is cut to eight digits."""
    pairs = {name: (old.get(name, "none"), new.get(name, "none")) for name in old.keys() | new}
    return tuple(
        Change(name, *(DIGEST.sub(r"\1", str(value)) for value in pair))
        for name, pair in sorted(pairs.items())
        if pair[0] != pair[1]
    )


def _flat(name: str, value: Any) -> Iterator[tuple[str, str | int | float | bool | None]]:
    """Yield the leaves of an input under their dotted names.

    A reference to an output gives its digest, under `input` and the name of its stage, or its
    position where it is one of several.
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
    """Return the digests of a module and of the first-party modules that it imports, transitively.

    NOT_IN_KEYS are left out, and so is what only they import.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path and name not in found and name not in NOT_IN_KEYS:
            found[name], imports = _read(path, name)
            waiting.extend(imports)
    return dict(sorted(found.items()))


def _source(module: str) -> Path | None:
    """Return the file of a first-party module; None for any other name."""
    stem = CHECKOUT.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    is_ours = module.partition(".")[0] in FIRST_PARTY
    return next((path for path in candidates if is_ours and path.is_file()), None)


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Return a module's digest, without comments, layout and words, and the names it imports."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree, imports = ast.parse(path.read_bytes()), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # An imported name may be a module.
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return sha256_bytes(ast.dump(_Wordless().visit(tree)).encode()), tuple(imports)


class _Wordless(ast.NodeTransformer):
    """Removes docstrings, log lines and the words of errors, which decide no byte."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        names = {getattr(each, "id", "") for target in node.targets for each in ast.walk(target)}
        is_text = isinstance(node.value, ast.Constant | ast.JoinedStr | ast.Tuple | ast.IfExp)
        for each in ast.walk(node.value) if is_text and names <= ERROR_WORDS else ():
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                each.value = ""
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_error = getattr(node.func, "id", "").endswith(("Error", "InterruptedTraining"))
        return node.func if is_error else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        owner = getattr(getattr(node.value, "func", None), "value", None)
        is_words = isinstance(node.value, ast.Constant) or getattr(owner, "id", "") == "logger"
        return None if is_words else self.generic_visit(node)
