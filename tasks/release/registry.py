"""The published versions, and which is champion: decided by the gate or by a person."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline_config.datasets import dataset_names
from pipeline_config.sections import Section, did_you_mean, given_path
from tasks.release import bundle, journal
from tasks.release.gate import Judgement
from tasks.release.journal import Candidate, Entry, append, champion_of, follow
from tasks.release.pages import stale_pages
from tasks.release.rivals import reference_after, rivals_of, saw_retracted
from tasks.runtime.errors import ConfigError, ReleaseError
from tasks.runtime.files import locked
from tasks.runtime.manifest import MANIFEST

CHAMPION = "champion"
DEFAULT_DATASET = "mnist"

# Judges the candidate against the reference, or by itself if there is no intact one. The second
# version is the champion.
Judge = Callable[[str | None, str | None], Judgement]


class Decision(Section):
    """The decision about a version, and the champion after it; `is_new`: made in this call."""

    dataset: str
    version: str
    event: str
    champion: str | None
    reason: str
    is_new: bool

    @property
    def path(self) -> Path:
        """The folder of the version's bundle."""
        return bundle.bundle_folder(self.dataset, self.version)

    @property
    def refused(self) -> bool:
        """Whether the gate refused it in this call."""
        return self.is_new and self.event == journal.REFUSED


def known_dataset(name: str) -> str:
    """Return the name. Raises ConfigError if no data set of that name is published or known."""
    known = {*bundle.published_datasets(), *dataset_names()}
    if name not in known:
        found = "a data set that has no models and is not in the catalogue"
        remedy = did_you_mean(name, known) + "See `idxflow models`."
        expected = f"one of {', '.join(sorted(known))}"
        raise ConfigError(f"--dataset {name}", found=found, expected=expected, remedy=remedy)
    return name


def find_bundle(text: str, dataset: str | None = None) -> Path:
    """Return the folder of the bundle that `text` names.

    That is `champion` (of `dataset`, by default mnist), a version or the unique beginning of one,
    DATASET/VERSION, or a bundle's folder. Raises ReleaseError if it names none or several.
    """
    if text == CHAMPION:
        dataset = dataset or DEFAULT_DATASET
        if champion := champion_of(journal.read_journal(dataset)):
            return bundle.bundle_folder(dataset, champion.version)
        found, remedy = "no published champion", f"Publish one: `idxflow run --dataset {dataset}`."
        raise ReleaseError(dataset, found=found, expected="a champion", remedy=remedy)
    given = given_path(text)
    if (given / MANIFEST).is_file():
        return given.resolve()
    scope, _, version = text.rpartition("/")
    known = bundle.published_bundles(scope or dataset)
    folders = [path for path in known if version and path.name.startswith(version)]
    if len(folders) == 1:
        return folders[0]
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in folders)
    found = names or "no published version and no bundle's folder of that name"
    expected = "a version, the beginning of one, DATASET/VERSION, or a bundle's folder"
    what, remedy = f"version {text!r}", "See `idxflow models`."
    raise ReleaseError(what, found=found, expected=expected, remedy=remedy)


def candidate_of(dataset: str, version: str, competes: bool, *, by_hand: bool = False) -> Candidate:
    """Return a published version as a candidate. Raises ReleaseError unless it is intact."""
    folder = bundle.bundle_folder(dataset, version)
    recipe = bundle.intact_bundle(folder).recipe
    accuracy = json.loads((folder / bundle.METRICS).read_bytes())["accuracy"]
    return Candidate(
        version=version, recipe=recipe, accuracy=accuracy, competes=competes, by_hand=by_hand
    )


def settle(dataset: str, candidate: Candidate, judge: Judge, why: str | None = None) -> Decision:
    """Judge a candidate once and record the decision. `why` makes it champion in any case."""
    version = candidate.version
    with locked(bundle.models_lock(dataset)):
        entries = journal.repaired(dataset)
        known = decided(dataset, entries, version, why)
        if known is None:
            _judge(dataset, entries, candidate, judge, why)
        follow(dataset, entries, version)
    event, reason = known or (entries[-1].event, entries[-1].reason)
    facts = {"dataset": dataset, "version": version, "event": event, "reason": reason}
    champion = champion_of(entries)
    return Decision(champion=champion and champion.version, is_new=known is None, **facts)


def decided(
    dataset: str, entries: list[Entry], version: str, why: str | None
) -> tuple[str, str] | None:
    """Return the earlier decision about a version, (event, reason); None if it has to be judged.

    A version is judged once: reruns never alternate between two champions, and a rollback holds
    until a person gives a reason to undo it. After a shard of the champion was retracted, a version
    without it is judged once more.
    """
    champion = champion_of(entries)
    if champion is not None and champion.version == version:
        return journal.PROMOTED, "it is the champion already"
    known = [entry for entry in entries if entry.version == version]
    if why is not None or not known:
        return None
    since = saw_retracted(dataset, champion.version) if champion is not None else []
    if since and known[-1].time <= since[-1] and not saw_retracted(dataset, version):
        return None
    before = f"decided before, in line {known[-1].seq} of the journal"
    return journal.KEPT, f"{before}: {known[-1].event}, {known[-1].reason}"


def _judge(
    dataset: str, entries: list[Entry], candidate: Candidate, judge: Judge, why: str | None
) -> None:
    """Append the decision on a candidate that is judged for the first time or promoted by force."""
    if not candidate.competes and why is None:
        reason = f"recipe {candidate.recipe} does not compete"
        return append(dataset, entries, candidate, journal.KEPT, reason=reason)
    rival, champion = rivals_of(dataset, entries)
    if rival is not None:
        try:
            # Damage to a figure of the reference does not matter to the comparison.
            folder = bundle.bundle_folder(dataset, rival)
            bundle.intact_bundle(folder, bundle.ONNX, bundle.RECIPE)
        except ReleaseError:
            if why is None:
                raise
            rival = None
    gate, facts = judge(rival, champion), {}
    event = journal.WAITING if candidate.by_hand else journal.PROMOTED
    event = event if gate.passed else journal.REFUSED
    reason = gate.reason + ("; there was no champion" if champion is None else "")
    if why is not None:
        passed = "it passed the gate" if gate.passed else "it did not pass the gate"
        event, reason = journal.FORCED, f"by force: {why}; {passed}: {reason}"
    if gate.is_better and event not in journal.NOT_PROMOTED:
        facts = {"reference": candidate.version}
    append(dataset, entries, candidate, event, reason=reason, why=why, gate=gate, **facts)
    return None


def promote(dataset: str, candidate: Candidate, why: str) -> Entry | None:
    """Make a version champion in any case; None if it is champion already.

    The event is `approved` for a version that passed the gate and waits, otherwise `forced`.
    """
    if not why.strip():
        what, remedy = f"promoting {dataset}/{candidate.version}", 'Say why: --why "…".'
        found, expected = "an empty reason", "a few words for the journal"
        raise ReleaseError(what, found=found, expected=expected, remedy=remedy)
    with locked(bundle.models_lock(dataset)):
        entries = journal.repaired(dataset)
        champion = champion_of(entries)
        is_new = champion is None or champion.version != candidate.version
        if is_new:
            version = candidate.version
            known = [entry.event for entry in entries if entry.version == version]
            event = journal.APPROVED if known[-1:] == [journal.WAITING] else journal.FORCED
            facts = {"reference": reference_after(dataset, entries, version), "why": why}
            append(dataset, entries, candidate, event, reason=f"by hand: {why}", **facts)
        follow(dataset, entries, candidate.version)
    return entries[-1] if is_new else None


def rollback(dataset: str, why: str | None = None, version: str | None = None) -> Entry | None:
    """Make the champion before this one champion again; returns the journal's entry.

    Called again it goes one champion further back, unless the earlier call was killed: then that
    one is completed. Nothing happens and None is returned if `version` is given and not champion.
    Raises ReleaseError where there is no champion before, or where its bundle is not intact.
    """
    with locked(bundle.models_lock(dataset)):
        entries = journal.repaired(dataset)
        reigns = journal.reigns_of(entries)
        present, former = next(reigns, None), next(reigns, None)
        is_other = version is not None and (present is None or present.champion.version != version)
        was_killed = version is None and journal.is_unfinished(dataset, entries)
        if is_other or (was_killed and entries[-1].event == journal.ROLLED_BACK):
            follow(dataset, entries)
            return None if is_other else entries[-1]
        if present is None or former is None:
            found = f"none before {present.champion.version}" if present else "none"
            remedy = "See `idxflow models history`; `idxflow models promote` takes any version."
            what, expected = f"the champion of {dataset}", "a champion with one before it"
            raise ReleaseError(what, found=found, expected=expected, remedy=remedy)
        target = former.champion
        bundle.intact_bundle(bundle.bundle_folder(dataset, target.version))
        reason = f"from {present.champion.version} back to {target.version}"
        facts = {"reason": reason + (f": {why}" if why else ""), "why": why}
        append(dataset, entries, target, journal.ROLLED_BACK, reference=former.reference, **facts)
        follow(dataset, entries)
    return entries[-1]


def is_current(dataset: str, version: str, why: str | None = None) -> list[str]:
    """Return why publishing `version` again would change something. Neither locks nor writes."""
    damage = bundle.inspect_bundle(bundle.bundle_folder(dataset, version))[1]
    if damage:
        return [f"bundle {version}: {line}" for line in damage]
    entries = journal.read_journal(dataset)
    if decided(dataset, entries, version, why) is None:
        return [f"the journal has no decision about {version}"]
    stale = stale_pages(dataset, entries, [version])
    faults = [f"{path.name} does not show what is in the journal" for path, *_ in stale]
    fault = journal.pointer_fault(dataset, entries)
    return [fault, *faults] if fault else faults
