"""Foreign words on a terminal: what it would act on is written out, and a line stays a line."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

import pytest

from flows import console
from flows.commands import models_output
from flows.commands.reproduce import reproduce
from flows.comparison import Comparison
from flows.reproduce import Reproduction
from flows.summary import Summary
from flows.view import View
from tasks.release.journal import Champion, Entry
from tasks.runtime.errors import ReleaseError

# Escapes of 7 and 8 bits, line ends, a direction, half a character, an emoji in words, markup.
EVIL = "a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"
SHOWN = r"a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"


def entry() -> Entry:
    words = dict.fromkeys(("time", "event", "version", "recipe", "reason", "why"), EVIL)
    champion = Champion.model_construct(version=EVIL, recipe="", accuracy=0, since=0)
    return Entry.model_construct(seq=0, accuracy=0, champion=champion, previous="", **words)


def summary() -> None:
    metrics = dict.fromkeys(
        ("accuracy", "macro_f1", "loss", "validation_accuracy", "untrained_accuracy", "ece"), 0.5
    ) | {"calibrated": True, "confidence": "calibrated", "ece_expected": 0.1}
    metrics["ece_expected_95"] = [0.1, 0.2]
    words = dict.fromkeys(("version", "bundle", "report", "champion", "event", "decision"), EVIL)
    console.print_summary(Summary.model_construct(metrics=metrics, stages=(), **words))


def view() -> None:
    words = dict.fromkeys(("dataset", "split", "dtype", "label", "grid"), EVIL)
    made = View.model_construct(shape=(1,), counts=((EVIL, 1),), index=0, art="@\n@", **words)
    console.print_view(made)


def comparison() -> None:
    made = Comparison.model_construct(
        first="a", second="b", gained=(), lost=(), difference_95=(0, 1), code=(EVIL,)
    )
    pairs = {EVIL: (EVIL, EVIL)}
    kinds = dict.fromkeys(("recipe", "libraries", "machine", "data"), pairs)
    update = kinds | {"metrics": {}, "recalls": {EVIL: (0.1, 0.2)}}
    models_output.print_comparison(made.model_copy(update=update))


def reproduction() -> None:
    words = dict.fromkeys(("dataset", "version", "verdict", "reason"), EVIL)
    made = Reproduction.model_construct(comparisons=(), changes=(EVIL,), **words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.reproduce.reproduce", lambda *_: made)
        patch.setattr("flows.commands.reproduce.find_bundle", lambda _: None)
        reproduce("v")


def log() -> None:
    console.log_to_console()
    logging.getLogger("tasks.anything").warning("%s", EVIL)


PRINTED: dict[str, Callable[[], object]] = {
    "a line": lambda: console.say(EVIL),
    "a table": lambda: console.table(("what", "why"), [(EVIL, (EVIL, EVIL))]),
    "an error": lambda: console.print_error(
        ReleaseError(EVIL, found=EVIL, expected=EVIL, remedy=EVIL)
    ),
    "a caution": lambda: console.print_cautions([EVIL]),
    "a history": lambda: models_output.print_history([entry()]),
    "a summary": summary,
    "a view": view,
    "a comparison": comparison,
    "a reproduction": reproduction,
    "a log line": log,
}


@pytest.mark.parametrize("what", PRINTED)
def test_what_a_terminal_acts_on_is_written_out(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PRINTED[what]()
    printed = "".join(capsys.readouterr())
    assert SHOWN in printed
    for sign in "\x1b\x07\x9b\r\u202e\u2028\udcff":
        assert sign not in printed
    assert "\nb" not in printed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_only_our_own_colours_and_lines_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    for name in ("a line", "a table", "an error", "a caution"):
        PRINTED[name]()
    printed = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]" not in printed
    assert "\x9b" not in printed
    lines = [line for line in printed.splitlines() if SHOWN in line]
    assert len(lines) == 1 + 2 + 4 + 1
