"""Timing things against each other in one session: each in turn, round after round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

# The seconds of each round, by name; the first name is ours.
Seconds = dict[str, list[float]]


def in_turn(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    after_each: Callable[[], object] = lambda: None,
) -> Seconds:
    """Run each work once a round, so that a slow minute of the machine meets all of them.

    `after_each` round something may be put back as it was; that is not timed.
    """
    seconds: Seconds = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
        after_each()
    return seconds


def print_ratios(title: str, seconds: Seconds, ours: tuple[str, ...] = ()) -> None:
    """Print median and range of each, and how many times longer it took than each of ours.

    A ratio is the median of the rounds' ratios; `ours` is the first name if not said.
    """
    ours = ours or (next(iter(seconds)),)
    print(f"\n{title}")
    for name, column in seconds.items():
        low, middle, high = min(column), statistics.median(column), max(column)
        line = f"  {name:<28} {middle:9.4f} s  ({low:.4f} to {high:.4f})"
        for mine in ours:
            if name not in ours:
                rounds = zip(column, seconds[mine], strict=True)
                ratio = statistics.median(theirs / own for theirs, own in rounds)
                line += f"   {ratio:.2f} × {mine}"
        print(line)
