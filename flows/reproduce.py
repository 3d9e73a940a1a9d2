"""A published version built again from its manifest, in a scratch folder, and compared.

It is built by the flow `retrain`, from the bundle's own recipe.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from flows.catalogue import as_published, read_manifest, read_metrics
from flows.console import say
from flows.explain import explain
from flows.launch import launch
from flows.plan import Choice, make_plan
from pipeline_config.datasets import named_datasets
from pipeline_config.gate import gate_for
from pipeline_config.sections import ConfigError, Section, given_path
from pipeline_config.settings import settings
from tasks.release.bundle import (
    GOLDEN,
    RECIPE,
    BundleManifest,
    bundle_folder,
    intact_bundle,
    models_lock,
)
from tasks.release.journal import count_look, pinned_digest
from tasks.runtime.files import digest_of, locked, root_lock
from tasks.runtime.keys import changes_between
from tasks.runtime.store import folder_of, inspect

MACHINE = ("device", "precision", "threads", "cpu")
SHOWN_DIGITS = 12
# The signals that end a reproduction, beside Ctrl-C. Their scratch folder is removed, too.
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Part(Section):
    """A part of the published and of the rebuilt version, by shortened digests."""

    what: str
    published: str
    rebuilt: str
    equal: bool


class Reproduction(Section):
    """The comparison of a version with its rebuilt one.

    `changes` are what of code, libraries and machine is different now.
    """

    dataset: str
    version: str
    verdict: Literal["equal to the bit", "within tolerance", "differs"]
    reason: str
    comparisons: tuple[Part, ...]
    changes: tuple[str, ...]
    kept: str | None = None


def reproduce(folder: Path, source: str | None = None, keep: Path | None = None) -> Reproduction:
    """Rebuild the version whose bundle lies in `folder`, and compare the two.

    `source` is where the raw files are. Without it they come from the fetch output that the
    manifest names, or from the data set's own sources. `keep` is an empty folder to build in, which
    is kept. Raises an IdxflowError for a damaged bundle, for missing raw files, and where the run
    fails.
    """
    intact_bundle(folder)
    manifest = read_manifest(folder)
    with as_published(folder):
        choice = _choice(manifest, folder.resolve(), source)
        threads = manifest.provenance["threads"]
        rows = pinned_digest(manifest.determinants.data)
        compare(folder, folder)  # raises for what the comparison needs and the bundle lacks
    make_plan(choice)
    with root_lock(), _scratch(keep) as root:
        say(f"building {manifest.dataset}/{manifest.version} again in {root}")
        _count_look(manifest, rows)
        with _other_root(root, threads):
            plan = make_plan(choice)
            wanted = choice.model_dump()
            summary = launch("flows.retrain:retrain", plan, wanted, explain(plan), verbose=False)
        found = compare(folder, Path(summary.bundle))
    return found if keep is None else found.model_copy(update={"kept": str(keep)})


@contextmanager
def _other_root(root: Path, threads: int) -> Iterator[None]:
    """Set another root and number of threads, and no Prefect server, for this process.

    A signal that would end the process raises SystemExit, so that the scratch folder is removed.
    """

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    earlier = dict(os.environ)
    handlers = {
        number: signal.signal(number, end)
        for number in ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {"IDXFLOW_ROOT": str(root), "IDXFLOW_THREADS": str(threads)}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= earlier
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _count_look(manifest: BundleManifest, rows: str) -> None:
    """Count that the test rows are scored again, where the version is published."""
    dataset, version = manifest.dataset, manifest.version
    if bundle_folder(dataset, version).is_dir():
        key = f"reproduce {version} {datetime.now(UTC).isoformat()}"
        with locked(models_lock(dataset)):
            count_look(dataset, "reproduce", manifest.recipe, version, 2, rows, key)


def _choice(manifest: BundleManifest, folder: Path, source: str | None) -> Choice:
    """Return what to run. A data set without a name is a folder with the same content."""
    chosen: dict[str, Any] = {
        "recipe": str(folder / RECIPE),
        "device": manifest.provenance["device"],
        "force_promote": "built again, for a comparison",  # the gate has no say here
    }
    place = None if source is None else given_path(source).absolute()
    if manifest.dataset in named_datasets():
        place = place or _raw_files(manifest)
        where = None if place is None else str(place)
        return Choice(dataset=manifest.dataset, source=where, **chosen)
    _refuse_other_content(manifest.dataset, place)
    num_classes = len(read_metrics(folder, manifest)["per_class"])
    return Choice(dataset=str(place), classes=num_classes, **chosen)


def _raw_files(manifest: BundleManifest) -> Path | None:
    """Return the fetch output that the version was made from, if it is there and intact."""
    made = manifest.provenance["stages"]["fetch"]
    folder = folder_of("fetch", made["key"])
    found, damage = inspect(folder)
    is_same = found is not None and not damage and found.digest == made["digest"]
    return folder.resolve() if is_same else None


def _refuse_other_content(dataset: str, place: Path | None) -> None:
    """Raise ConfigError unless a folder has the content that the data set is named after."""
    from tasks.raw.folder import content_of

    content = dataset.rpartition("-")[2]
    found = "no folder" if place is None else f"the content {content_of(place)[: len(content)]}"
    if found != f"the content {content}":
        raise ConfigError(
            "--source" if place is None else f"--source {place}",
            found=found,
            expected=f"the folder that became {dataset}, with the content {content}",
            remedy="Name it with --source FOLDER.",
        )


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    """Yield an empty folder, which is removed at the end unless it is `keep`."""
    if keep is None:
        settings().scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="reproduce-", dir=settings().scratch) as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(
            f"--keep {keep}",
            found="something there",
            expected="a new or an empty folder",
            remedy="Name another folder.",
        )
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def compare(published: Path, rebuilt: Path) -> Reproduction:
    """Return the comparison of two bundles.

    Within tolerance: made of the same raw files, and as accurate to the gate's margin for the data
    set, since another CPU's rounding has the effect of another seed.
    """
    old, new = read_manifest(published), read_manifest(rebuilt)
    parts = _parts(old, new)
    before = read_metrics(published, old)["accuracy"]
    after = read_metrics(rebuilt, new)["accuracy"]
    margin = gate_for(old.dataset).accuracy_margin
    reason = (
        f"accuracy {before:.2%} and {after:.2%}, where two seeds may be {100 * margin:.2f} points "
        "apart"
    )
    verdict = "within tolerance" if abs(before - after) <= margin else "differs"
    if all(part.equal for part in parts):
        verdict, reason = "equal to the bit", f"the same {', '.join(part.what for part in parts)}"
    elif old.determinants.data != new.determinants.data:
        verdict, reason = "differs", "it was made of other raw files"
    changes = changes_between(_origin(old.provenance), _origin(new.provenance))
    return Reproduction(
        dataset=old.dataset,
        version=old.version,
        verdict=verdict,
        reason=reason,
        comparisons=tuple(parts),
        changes=tuple(map(str, changes)),
    )


def _parts(old: BundleManifest, new: BundleManifest) -> list[Part]:
    pairs = {
        "raw data": (digest_of(old.determinants.data), digest_of(new.determinants.data)),
        "recipe": (old.determinants.recipe, new.determinants.recipe),
        "weights": (old.determinants.model, new.determinants.model),
        "metrics": (old.determinants.metrics, new.determinants.metrics),
        "version": (old.version, new.version),
    }
    if GOLDEN in old.files:
        pairs["golden outputs"] = (old.files[GOLDEN].sha256, new.files[GOLDEN].sha256)
    return [
        Part(what=what, published=a[:SHOWN_DIGITS], rebuilt=b[:SHOWN_DIGITS], equal=a == b)
        for what, (a, b) in pairs.items()
    ]


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return machine, libraries and code of a provenance, under the names of a key's components."""
    libraries, modules = provenance["libraries"], provenance["modules"]
    return {
        **{name: provenance[name] for name in MACHINE},
        **{f"library {name}": version for name, version in libraries.items()},
        **{f"code {name}": digest for name, digest in modules.items()},
    }
