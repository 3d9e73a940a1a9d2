"""Two versions side by side: figures, classes, rows that changed sides, what made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.catalogue import read_manifest, read_metrics
from pipeline_config.sections import Section, read_yaml
from tasks.release.bundle import PROBABILITIES, RECIPE, intact_bundle
from tasks.runtime.errors import ReleaseError

FIGURES = ("accuracy", "macro_f1", "loss", "ece", "brier", "temperature", "validation_accuracy")
Pair = tuple[Any, Any]


class Comparison(Section):
    """What differs between `first` and `second`; pairs are (first's, second's).

    `gained` are the test rows, counted from the first one, that `second` alone names rightly,
    `lost` those that `first` alone does. `code` are the modules that differ.
    """

    first: str
    second: str
    metrics: dict[str, Pair]
    recalls: dict[str, Pair]
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    difference_95: tuple[float, float]
    recipe: dict[str, Pair]
    code: tuple[str, ...]
    libraries: dict[str, Pair]
    machine: dict[str, Pair]
    data: dict[str, Pair]


def compared(first: Path, second: Path) -> Comparison:
    """Two bundles compared; raises ReleaseError where their test rows are not the same."""
    from tasks.release.gate import paired_interval

    one, two = read_manifest(first), read_manifest(second)
    metrics = read_metrics(first, one), read_metrics(second, two)
    for folder in (first, second):
        intact_bundle(folder, RECIPE, PROBABILITIES)
    right = _right_rows(first), _right_rows(second)
    if right[0].keys() != right[1].keys() or one.dataset != two.dataset:
        raise ReleaseError(
            f"{one.version} and {two.version}",
            found="versions that were scored on different test rows",
            expected="two versions of one data set, both with its official test split",
            remedy="Compare versions of one data set; see `idxflow models`.",
        )
    gained = tuple(row for row in right[0] if right[1][row] and not right[0][row])
    lost = tuple(row for row in right[0] if right[0][row] and not right[1][row])
    facts = [
        {name: value for name, value in made.provenance.items() if not isinstance(value, dict)}
        for made in (one, two)
    ]
    for told in facts:
        told.pop("code", None)
    return Comparison(
        first=one.version,
        second=two.version,
        metrics={name: (metrics[0][name], metrics[1][name]) for name in FIGURES},
        recalls={
            a["name"]: (a["recall"], b["recall"])
            for a, b in zip(metrics[0]["per_class"], metrics[1]["per_class"], strict=True)
        },
        gained=gained,
        lost=lost,
        difference_95=paired_interval(len(gained), len(lost), len(right[0])),
        recipe=differences(_flat(read_yaml(first / RECIPE)), _flat(read_yaml(second / RECIPE))),
        code=tuple(differences(one.provenance["modules"], two.provenance["modules"])),
        libraries=differences(one.provenance["libraries"], two.provenance["libraries"]),
        machine=differences(facts[0], facts[1]),
        data=differences(one.provenance["data"], two.provenance["data"]),
    )


def _right_rows(folder: Path) -> dict[int, bool]:
    """Whether each test row is named rightly, by its index; read from the kept probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, names = folder / PROBABILITIES, ["index", "label", "prediction"]
    try:
        with pq.ParquetFile(path) as file:
            kinds = [file.schema_arrow.field(name).type for name in names]
            num_rows = file.metadata.num_rows
            # Probabilities of honest rows take more than a byte each, however they are packed.
            if not all(map(pa.types.is_integer, kinds)) or not 0 < num_rows < path.stat().st_size:
                raise ValueError(f"{num_rows:,} rows of {kinds}")
            table = file.read(columns=names)
    except (OSError, KeyError, ValueError) as error:
        raise ReleaseError(
            str(path),
            found="no readable probabilities",
            expected="a row for each test row",
            remedy="Bundles of very large test splits have none; `idxflow verify` tells damage.",
        ) from error
    columns = [table[name].to_pylist() for name in names]
    start = min(columns[0])
    return {row - start: label == named for row, label, named in zip(*columns, strict=True)}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    """The entries that differ, in order."""
    names = [*first, *(name for name in second if name not in first)]
    return {
        name: (first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    }


def _flat(content: Any, name: str = "") -> dict[str, str]:
    """The leaves of a recipe under their dotted names."""
    if isinstance(content, dict):
        leaves: dict[str, str] = {}
        for key, value in content.items():
            leaves |= _flat(value, f"{name}.{key}" if name else str(key))
        return leaves
    return {name: yaml.safe_dump(content, default_flow_style=True).removesuffix("...\n").strip()}
