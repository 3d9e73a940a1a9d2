"""How often the test rows were looked at: a line a look, only ever added to.

Every look at the test split makes the next figure on it a little less of a surprise. Nothing is
chosen on it, and this says how often somebody could have.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pipeline_config.base import Record
from pipeline_config.settings import settings
from tasks.release.journal import append_line


class Look(Record):
    """One scoring of the test rows by evaluate, gate or reproduce; `key` tells it from others.

    `networks` were scored: the trained one, the untrained one, those of kept epochs; or candidate
    and champion at the gate. `rows` is the digest of the test rows.
    """

    time: str
    by: str
    recipe: str
    version: str
    networks: int
    rows: str
    key: str


def ledger_path(dataset: str) -> Path:
    """The ledger's file."""
    return settings().models / dataset / "looks.jsonl"


def read_ledger(dataset: str) -> list[Look]:
    """Every look, oldest first; a torn or damaged line does not count."""
    try:
        lines = ledger_path(dataset).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    looks = []
    for line in lines:
        try:
            looks.append(Look.model_validate_json(line))
        except ValidationError:
            continue
    return looks


def ledger_faults(dataset: str) -> list[str]:
    """What is wrong with the ledger, in words; [] for one that is whole."""
    path = ledger_path(dataset)
    num_lost = path.read_bytes().count(b"\n") - len(read_ledger(dataset)) if path.exists() else 0
    return [f"{num_lost} of its lines are damaged and not counted"] if num_lost else []


def count_look(
    dataset: str, by: str, recipe: str, version: str, networks: int, rows: str, key: str
) -> None:
    """Write a look down unless it is there; the caller holds the lock of the data set's models."""
    if any(look.key == key for look in read_ledger(dataset)):
        return
    time = datetime.now(UTC).isoformat(timespec="seconds")
    look = Look(
        time=time, by=by, recipe=recipe, version=version, networks=networks, rows=rows, key=key
    )
    append_line(ledger_path(dataset), look.model_dump_json().encode() + b"\n")


def looks_in_words(dataset: str) -> str:
    """How often the test rows were scored so far, in a sentence."""
    looks = read_ledger(dataset)
    versions, recipes = {look.version for look in looks}, {look.recipe for look in looks}
    return (
        f"The test rows were looked at {_times(len(looks))}, for {len(versions)} "
        f"version{'s' * (len(versions) != 1)} of {len(recipes)} "
        f"recipe{'s' * (len(recipes) != 1)}; {sum(look.networks for look in looks)} networks "
        "were scored on them."
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
