"""Ctrl-C and SIGTERM (which a cancelled Prefect run gets), put off until there is a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], str | None]]:
    """Hold back the first signal until the block ends; yields what tells its name, or None.

    The block is to look often and to leave soon. At its end the signal is delivered to whoever
    handled it before; a second one is not held back at all. Python lets only the main thread handle
    signals: anywhere else nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    held: list[int] = []
    # Left alone: a signal that is ignored, and a handler that is not Python's (None).
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    earlier = {
        number: handler
        for number, handler in handlers.items()
        if handler not in (None, signal.SIG_IGN)
    }

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        restore()

    for number in earlier:
        signal.signal(number, hold)
    try:
        yield lambda: signal.Signals(held[0]).name if held else None
    finally:
        restore()
        if held:
            signal.raise_signal(held[0])
