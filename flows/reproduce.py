"""A published version made once more from its manifest, in a scratch folder, and compared.

It is made by the command that a person would type, from the bundle's own recipe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.catalogue import as_published, read_manifest, read_metrics
from flows.child import run_apart
from flows.comparison import differences
from flows.console import say
from flows.plan import Choice, make_plan
from pipeline_config.datasets import named_datasets
from pipeline_config.gate import gate_for
from pipeline_config.sections import Section, given_path
from pipeline_config.settings import settings
from tasks.bundle.contents import RECIPE, BundleManifest, bundle_folder, models_lock, refuse_damaged
from tasks.bundle.golden import GOLDEN, read_golden
from tasks.release.journal import count_look
from tasks.release.judging import pinned_digest
from tasks.runtime.errors import ConfigError, ReleaseError
from tasks.runtime.files import digest_of, locked, root_lock
from tasks.runtime.keys import Change
from tasks.runtime.store import folder_of, inspect

Verdict = Literal["equal to the bit", "within tolerance", "differs"]
# What of the machine decides bits, as a version's provenance has it.
MACHINE = ("device", "precision", "threads", "cpu")
SHOWN_DIGITS = 12


class Comparison(Section):
    """One thing that the published and the rebuilt version have; digests are shortened."""

    what: str
    published: str
    rebuilt: str
    equal: bool


class Reproduction(Section):
    """What came of it; `changes` are what of code, libraries and machine is not as it was."""

    dataset: str
    version: str
    verdict: Verdict
    reason: str
    comparisons: tuple[Comparison, ...]
    changes: tuple[str, ...]
    kept: str | None = None


def reproduce(folder: Path, source: str | None = None, keep: Path | None = None) -> Reproduction:
    """Rebuild the version whose bundle lies in `folder` and compare the two.

    `source` is where the raw files are; without it the fetch output that the version names serves,
    or the data set's own sources. `keep` is an empty folder to build in, which stays. Raises an
    IdxflowError for a damaged bundle, for raw files that are missing, and where the run fails.
    """
    refuse_damaged(folder)
    manifest = read_manifest(folder)
    with as_published(folder):
        choice = _choice(manifest, folder.resolve(), source)
        threads = manifest.provenance["threads"]
        # What it lacks for the comparison is told before anything runs.
        compare(folder, folder)
    make_plan(choice)
    with root_lock(), _scratch(keep) as root:
        say(f"making {manifest.dataset}/{manifest.version} once more in {root}")
        with as_published(folder):
            _count_look(manifest)
        summary = run_apart(_words(choice), root, threads)
        found = compare(folder, Path(summary["bundle"]))
    return found if keep is None else found.model_copy(update={"kept": str(keep)})


def _count_look(manifest: BundleManifest) -> None:
    """Write down that the test rows are scored once more, where the version is published."""
    dataset, version = manifest.dataset, manifest.version
    if not bundle_folder(dataset, version).is_dir():
        return
    rows = pinned_digest(manifest.determinants.data)
    key = f"reproduce {version} {datetime.now(UTC).isoformat()}"
    with locked(models_lock(dataset)):
        count_look(dataset, "reproduce", manifest.recipe, version, 2, rows, key)


def _choice(manifest: BundleManifest, folder: Path, source: str | None) -> Choice:
    """What to run; a data set without a name is a folder, which must hold what it held."""
    device, recipe = manifest.provenance["device"], str(folder / RECIPE)
    place = None if source is None else given_path(source).absolute()
    if manifest.dataset in named_datasets():
        place = place or _raw_files(manifest)
        where = None if place is None else str(place)
        return Choice(dataset=manifest.dataset, recipe=recipe, device=device, source=where)
    _refuse_other_content(manifest.dataset, place)
    num_classes = len(read_metrics(folder, manifest)["per_class"])
    return Choice(dataset=str(place), recipe=recipe, device=device, classes=num_classes)


def _raw_files(manifest: BundleManifest) -> Path | None:
    """The fetch output that the version was made from, if it is still there and intact."""
    made = manifest.provenance["stages"]["fetch"]
    folder = folder_of("fetch", made["key"])
    found, damage = inspect(folder)
    is_same = found is not None and not damage and found.digest == made["digest"]
    return folder.resolve() if is_same else None


def _refuse_other_content(dataset: str, place: Path | None) -> None:
    """Raise ConfigError unless a folder is the one that became the data set, by what it holds."""
    from tasks.raw.folder import content_of

    content = dataset.rpartition("-")[2]
    found = "no folder" if place is None else f"the content {content_of(place)[: len(content)]}"
    if found != f"the content {content}":
        raise ConfigError(
            "--source" if place is None else f"--source {place}",
            found=found,
            expected=f"the folder that became {dataset}, with the content {content}",
            remedy="Name it with --source FOLDER: nobody else has its files.",
        )


def _words(choice: Choice) -> list[str]:
    """The choice as it is typed behind `idxflow run`."""
    words = ["--dataset", choice.dataset, "--recipe", choice.recipe, "--device", choice.device]
    # Nobody asks there who is champion, and a refusal would read as one of what is compared.
    words += ["--force-promote", "made once more, to be compared"]
    words += [] if choice.source is None else ["--source", choice.source]
    return words + ([] if choice.classes is None else ["--classes", str(choice.classes)])


@contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    """An empty folder; it is removed at the end unless it was asked for."""
    if keep is None:
        settings().scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="reproduce-", dir=settings().scratch) as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(
            f"--keep {keep}",
            found="something there",
            expected="a new or an empty folder, so that nothing in it is taken for the rebuilt one",
            remedy="Name another folder.",
        )
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def compare(published: Path, rebuilt: Path) -> Reproduction:
    """The verdict on two bundles with readable manifests.

    Within tolerance: made of the same raw files, and as accurate to the gate's margin for the data
    set, since another CPU's rounding is like another seed.
    """
    old, new = read_manifest(published), read_manifest(rebuilt)
    rows = _comparisons(old, new)
    before, after = (
        read_metrics(place, made)["accuracy"] for place, made in ((published, old), (rebuilt, new))
    )
    margin = gate_for(old.dataset).accuracy_margin
    verdict: Verdict = "differs"
    reason = (
        f"accuracy {before:.2%} and {after:.2%}, where two seeds may be {100 * margin:.2f} points "
        f"apart; golden outputs {_golden_apart(published, rebuilt)}"
    )
    if all(row.equal for row in rows):
        verdict, reason = "equal to the bit", f"the same {', '.join(row.what for row in rows)}"
    elif old.determinants.data != new.determinants.data:
        reason = "it was made of other raw files"
    elif abs(before - after) <= margin:
        verdict = "within tolerance"
    return Reproduction(
        dataset=old.dataset,
        version=old.version,
        verdict=verdict,
        reason=reason,
        comparisons=tuple(rows),
        changes=tuple(map(str, changes_between(old.provenance, new.provenance))),
    )


def _golden_apart(published: Path, rebuilt: Path) -> str:
    """How far the golden outputs are apart, in words."""
    try:
        old, new = (read_golden(place / GOLDEN) for place in (published, rebuilt))
    except ReleaseError:
        return "not comparable"
    if old.images_NHW.tobytes() != new.images_NHW.tobytes():
        return "of other images"
    return f"up to {abs(old.probabilities_NC - new.probabilities_NC).max():.1e} apart"


def _comparisons(old: BundleManifest, new: BundleManifest) -> list[Comparison]:
    """Raw data, recipe, weights, metrics, the version that follows from them, golden outputs."""
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
        Comparison(
            what=what,
            published=before[:SHOWN_DIGITS],
            rebuilt=after[:SHOWN_DIGITS],
            equal=before == after,
        )
        for what, (before, after) in pairs.items()
    ]


def changes_between(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """What differs between two provenances: the machine, libraries, and modules of our code."""
    machine = differences(
        {name: old[name] for name in MACHINE}, {name: new[name] for name in MACHINE}
    )
    changes = [Change(name, str(before), str(after)) for name, (before, after) in machine.items()]
    for kind, section, digits in (("library", "libraries", None), ("code", "modules", 8)):
        for name, pair in sorted(differences(old[section], new[section]).items()):
            before, after = (str(value or "none")[:digits] for value in pair)
            changes.append(Change(f"{kind} {name}", before, after))
    return changes
