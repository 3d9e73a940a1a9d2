"""Several processes at one root, and a clock that is set back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.release.journal import journal_faults, read_journal

Held = Callable[..., None]


@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.exhaustive)])
def test_two_publishers_and_a_gc(lab: Any, held: Held, rounds: int) -> None:
    """Whatever the order, both models are published once and the collector takes nothing of them.

    The collector keeps everything, so that it must not find anything to take.
    """
    for number in range(rounds):
        lab.lay("no-publish")
        jobs = ["first", "second", "sweep"]
        order = jobs[number % 3 :] + jobs[: number % 3]
        for report in lab.at_once(*((job, {}) for job in order)):
            # Which of the two is judged against the other depends on who comes first.
            assert report["code"] == 0 and report["error"] in (None, "GateRefused"), report
        assert lab.halves() == []
        assert lab.temporaries() == []
        found, wanted = lab.digests(), lab.ends("second")
        assert {k: v for k, v in found.items() if k not in DECIDED} == {
            k: v for k, v in wanted.items() if k not in DECIDED
        }
        versions = [version for _, _, version in lab.decisions()]
        assert len(versions) == len(set(versions)) == 2
        assert journal_faults("digits8x8") == []
    held(
        "two publishers and a gc",
        "intact",
        "nothing lost",
        "converges",
        "once",
        "clean",
        times=rounds,
    )


# What depends on who comes first.
DECIDED = ("champion", "decisions")


def test_a_clock_set_back(lab: Any, held: Held) -> None:
    """The order of the lines decides, not their time."""
    lab.lay("first")
    lab.ok("second", fault="clock")
    assert lab.digests() == lab.ends("second")
    first, second = read_journal("digits8x8")
    assert second.time < first.time
    assert journal_faults("digits8x8") == []
    report = lab.ok("second")
    assert report["result"]["ran"] == ["publish"]
    assert lab.digests() == lab.ends("second")
    held("a clock set back", "intact", "nothing lost", "converges", "once")
