"""The outcome of each stage in a run, or in a look at what a run would do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from tasks.runtime.keys import Change

logger = logging.getLogger(__name__)


State = Literal["ran", "cached", "hit", "miss", "pending"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one stage: in a run `ran` or `cached`, in a look `hit`, `miss` or `pending`.

    A pending stage waits for one that would run, and has no key yet.
    """

    name: str
    state: State
    seconds: float
    key: str | None
    path: str | None
    reason: str
    changes: tuple[Change, ...] = ()


_outcomes: ContextVar[dict[str, Outcome] | None] = ContextVar("outcomes", default=None)


@contextmanager
def recording() -> Iterator[dict[str, Outcome]]:
    """Collect the outcomes of all stages inside, in order; a key keeps its first outcome."""
    outcomes: dict[str, Outcome] = {}
    token = _outcomes.set(outcomes)
    try:
        yield outcomes
    finally:
        _outcomes.reset(token)


def record(outcome: Outcome) -> None:
    """Log an outcome, and add it to those that are being collected."""
    logger.info(
        "%-9s %-6s %6.1f s  %s", outcome.name, outcome.state, outcome.seconds, outcome.reason
    )
    outcomes = _outcomes.get()
    if outcomes is not None:
        outcomes.setdefault(f"{outcome.name}-{outcome.key}", outcome)
