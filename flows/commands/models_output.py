"""What `idxflow models` prints for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flows.catalogue import Shown, Version
from flows.comparison import Comparison, Pair
from flows.console import console, table, visible
from tasks.release.journal import Entry
from tasks.runtime.show import confidence_in_words

# So many rows that changed sides are named; `--json` has them all.
MAX_ROWS = 20


def print_versions(versions: Iterable[Version]) -> None:
    """Print a line for each version."""
    rows = []
    for version in versions:
        low, high = version.accuracy_interval_95
        rows.append(
            (
                version.dataset,
                version.version,
                version.recipe,
                f"{version.accuracy:.2%}",
                f"{100 * low:.2f} to {100 * high:.2f} %",
                f"{version.num_bytes / 1e6:.1f}",
                _minute(version.made),
                "champion" if version.champion else "",
            )
        )
    table(
        (
            "data set",
            "version",
            "recipe",
            "accuracy",
            "95 % interval",
            "MB",
            "made (UTC)",
            "standing",
        ),
        rows,
    )


def print_version(shown: Shown) -> None:
    """Print a version's figures, where it comes from, and its history."""
    metrics, made = shown.metrics, shown.provenance
    low, high = shown.accuracy_interval_95
    rows = [
        ("version", f"{shown.dataset}/{shown.version}{' (champion)' if shown.champion else ''}"),
        ("recipe", f"{shown.recipe}, seed {made['seed']}"),
        ("accuracy", f"{shown.accuracy:.2%}, 95 % interval {100 * low:.2f} to {100 * high:.2f} %"),
        ("macro F1", f"{metrics['macro_f1']:.4f}"),
        ("loss", f"{metrics['loss']:.4f} nats"),
        ("confidence", confidence_in_words(metrics)),
        (
            "machine",
            f"{made['device']}, {made['precision']}, {made['threads']} threads, {made['cpu']}",
        ),
        ("code", made["code"]),
        ("size", f"{shown.num_bytes / 1e6:.1f} MB"),
        ("bundle", shown.bundle),
        ("report", shown.report),
    ]
    table(("", ""), rows)
    console().print()
    print_history(shown.history)


def print_history(entries: Sequence[Entry]) -> None:
    """Print a line for each decision, oldest first."""
    table(
        ("line", "when (UTC)", "version", "recipe", "what", "why", "champion after"),
        [
            (
                entry.seq,
                _minute(entry.time),
                entry.version,
                entry.recipe,
                entry.event,
                entry.reason,
                entry.champion.version if entry.champion else "none",
            )
            for entry in entries
        ],
    )


def print_comparison(found: Comparison) -> None:
    """Print what differs between two versions."""
    out = console()
    table(("figure", found.first, found.second), _figures(found.metrics))
    out.print()
    table(("recall of", found.first, found.second), _figures(found.recalls))
    low, high = (100 * bound for bound in found.difference_95)
    out.print(
        f"\n{len(found.gained)} test rows gained, {len(found.lost)} lost: accuracy differs by "
        f"{low:+.2f} to {high:+.2f} points (Tango 1998, 95 %)"
    )
    for name, rows in (("gained", found.gained), ("lost", found.lost)):
        more = f" and {len(rows) - MAX_ROWS} more" if len(rows) > MAX_ROWS else ""
        out.print(f"{name:<7} {', '.join(map(str, rows[:MAX_ROWS])) or 'none'}{more}")
    for title, pairs in (
        ("recipe", found.recipe),
        ("machine", found.machine),
        ("library", found.libraries),
        ("data", found.data),
    ):
        if pairs:
            out.print()
            table((title, found.first, found.second), [(key, *pair) for key, pair in pairs.items()])
    changed = ", ".join(found.code) or "the same"
    out.print(f"\ncode    {visible(changed)}", markup=False)


def _figures(pairs: dict[str, Pair]) -> list[tuple[str, ...]]:
    return [
        (name, *("none" if value is None else f"{value:.4f}" for value in pair))
        for name, pair in pairs.items()
    ]


def _minute(time: str | None) -> str:
    return time[:16].replace("T", " ") if time else ""
