"""A published version built again from its manifest, in a scratch folder, and compared.

It is built by the flow `retrain`, from the bundle's own recipe.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

from flows.catalogue import as_published, read_manifest, read_metrics
from flows.console import say
from flows.diagram import explain
from flows.launch import launch
from flows.plan import Choice, make_plan
from pipeline_config.datasets import dataset_names
from pipeline_config.gate import gate_for
from pipeline_config.sections import ConfigError, Section, given_path
from pipeline_config.settings import settings
from tasks.dataset.shards import RELEASED, Shard, arrive, decide, read_shard
from tasks.raw.folder import content_of
from tasks.release import bundle
from tasks.release.bundle import GOLDEN, BundleManifest
from tasks.release.looks import count_look, pinned_digest
from tasks.release.margins import LEVEL, by_chance
from tasks.runtime.devices import Machine
from tasks.runtime.files import digest_of, locked, root_lock
from tasks.runtime.stages import changes_between
from tasks.runtime.store import folder_of, inspect


class Reproduction(Section):
    """The comparison of a version with its rebuilt one, part by part, with shortened digests.

    `changes` are what of code, libraries and machine is different now.
    """

    dataset: str
    version: str
    verdict: Literal["equal to the bit", "within tolerance", "differs"]
    reason: str
    comparisons: tuple[dict[str, Any], ...]
    changes: tuple[str, ...]


def reproduce(folder: Path, source: str | None = None, keep: Path | None = None) -> Reproduction:
    """Rebuild the version whose bundle lies in `folder`, and compare the two.

    `source` is where the raw files are: by default the fetch output that the manifest names, or the
    data set's own sources. `keep` is an empty folder to build in, which is kept. Raises an
    IdxflowError for a damaged bundle, for missing raw files, and where the run fails.
    """
    manifest = bundle.intact_bundle(folder)
    dataset, version = manifest.dataset, manifest.version
    with as_published(folder):
        choice = _choice(manifest, folder, source)
        threads = manifest.provenance["threads"]
        rows = pinned_digest(manifest.determinants.data)
        compare(folder, folder)  # raises for what the comparison needs and the bundle lacks
    make_plan(choice)
    with root_lock(), _scratch(keep) as root:
        say(f"building {dataset}/{version} again in {root}")
        if bundle.bundle_folder(dataset, version).is_dir():
            key = f"reproduce {version} {time.time_ns()}"
            with locked(bundle.models_lock(dataset)):
                count_look(dataset, "reproduce", manifest.recipe, version, 2, rows, key)
        shards = [read_shard(shard) for shard in _shards_of(manifest)]
        created = settings().root / "data" / dataset
        if created.is_dir():
            shutil.copytree(created, root / "data" / dataset)
        with _other_root(root, threads):
            for images_NHW, labels_N in shards:
                decide(arrive(dataset, images_NHW, labels_N), RELEASED, "built again")
            plan, wanted = make_plan(choice), choice.model_dump()
            summary = launch("flows.retrain:retrain", plan, wanted, explain(plan), verbose=False)
        return compare(folder, Path(summary.bundle))


def _choice(manifest: BundleManifest, folder: Path, source: str | None) -> Choice:
    """Return what to run. A data set without a name is a folder with the same content."""
    dataset, num_classes = manifest.dataset, None
    place = None if source is None else given_path(source).absolute()
    if dataset in dataset_names():
        place = place or _fetched(manifest)
    else:
        if place is None or not content_of(place).startswith(dataset.rpartition("-")[2]):
            found = "no folder" if place is None else f"other content in {place}"
            expected = f"the folder that became {dataset}"
            raise ConfigError("--source", found=found, expected=expected)
        dataset, place = str(place), None
        num_classes = len(read_metrics(folder, manifest)["per_class"])
    return Choice(
        dataset=dataset,
        recipe=str(folder.resolve() / bundle.RECIPE),
        device=manifest.provenance["device"],
        source=None if place is None else str(place),
        classes=num_classes,
        force_promote="built again, for a comparison",  # the gate has no say here
    )


def _shards_of(manifest: BundleManifest) -> list[Shard]:
    """Return the shards that the version was trained on, in their order."""
    names = manifest.provenance.get("shards", {})
    return [Shard(dataset=manifest.dataset, digest=name) for name in names]


def _fetched(manifest: BundleManifest) -> Path | None:
    """Return the fetch output that the version was made from, if it is there and intact."""
    made = manifest.provenance["stages"]["fetch"]
    folder = folder_of("fetch", made["key"])
    found, damage = inspect(folder)
    return folder if found and not damage and found.digest == made["digest"] else None


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    """Yield an empty folder, which is removed at the end unless it is `keep`."""
    if keep is None:
        settings().scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="reproduce-", dir=settings().scratch) as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        expected = "a new or an empty folder"
        raise ConfigError(f"--keep {keep}", found="something there", expected=expected)
    yield keep.resolve()


@contextmanager
def _other_root(root: Path, threads: int) -> Iterator[None]:
    """Set another root and number of threads, and no Prefect server, for this process.

    A signal that would end the process raises SystemExit, so that the scratch folder is removed.
    """

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    with ExitStack() as undo:
        undo.callback(os.environ.update, dict(os.environ))
        undo.callback(os.environ.clear)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                undo.callback(signal.signal, number, signal.signal(number, end))
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            del os.environ[name]
        os.environ |= {"IDXFLOW_ROOT": str(root), "IDXFLOW_THREADS": str(threads)}
        yield


def compare(published: Path, rebuilt: Path) -> Reproduction:
    """Return the comparison of two bundles.

    Within tolerance: made of the same raw files, and as accurate to the gate's margin for the data
    set, since another CPU's rounding has the effect of another seed.
    """
    old, new = read_manifest(published), read_manifest(rebuilt)
    metrics = read_metrics(published, old)
    before, num_rows = metrics["accuracy"], metrics["num_rows"]
    after = read_metrics(rebuilt, new)["accuracy"]
    margin = gate_for(old.dataset).accuracy_margin
    if margin is None:
        margin = by_chance(round(before * num_rows), num_rows, LEVEL)
    apart = f"where two seeds may be {100 * margin:.2f} points apart"
    reason = f"accuracy {before:.2%} and {after:.2%}, {apart}"
    verdict = "within tolerance" if abs(before - after) <= margin else "differs"
    parts = _parts(old, new)
    if all(part["equal"] for part in parts):
        verdict = "equal to the bit"
        reason = f"the same {', '.join(part['what'] for part in parts)}"
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


def _parts(old: BundleManifest, new: BundleManifest) -> list[dict[str, Any]]:
    """Return the digests of each part in both versions, shortened, and whether they are equal."""
    one, two = old.determinants, new.determinants
    pairs = {
        "raw data": (digest_of(one.data), digest_of(two.data)),
        "recipe": (one.recipe, two.recipe),
        "weights": (one.model, two.model),
        "metrics": (one.metrics, two.metrics),
        "version": (old.version, new.version),
        "golden outputs": (old.files[GOLDEN].sha256, new.files[GOLDEN].sha256),
    }
    return [
        {"what": what, "published": a[:12], "rebuilt": b[:12], "equal": a == b}
        for what, (a, b) in pairs.items()
    ]


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return machine, libraries and code of a provenance, under the names of a key's components."""
    found = {name: provenance[name] for name in Machine.model_fields}
    found |= {f"library {name}": version for name, version in provenance["libraries"].items()}
    return found | {f"code {name}": digest for name, digest in provenance["modules"].items()}
