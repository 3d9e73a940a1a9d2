"""What became of each stage in a run: said in the log, and collected where somebody records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one stage in one run."""

    name: str
    state: Literal["ran", "cached"]
    seconds: float
    key: str
    path: str
    reason: str


@dataclass
class Ledger:
    """The outcomes of one run, in order; a key told of twice keeps its first outcome."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome unless its key has one."""
        self.outcomes.setdefault(f"{outcome.name}-{outcome.key}", outcome)


_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


@contextmanager
def recording() -> Iterator[Ledger]:
    """Collect the outcomes of every stage that runs or is found inside."""
    ledger = Ledger()
    token = _ledger.set(ledger)
    try:
        yield ledger
    finally:
        _ledger.reset(token)


def record(outcome: Outcome) -> None:
    """Say what became of a stage, in the log and to the run that is recording, if one is."""
    logger.info(
        "%-9s %-6s %6.1f s  %s", outcome.name, outcome.state, outcome.seconds, outcome.reason
    )
    ledger = _ledger.get()
    if ledger is not None:
        ledger.add(outcome)
