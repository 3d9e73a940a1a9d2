"""Foreign words on a terminal: what it would act on is written out, and a line stays a line."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

import pytest

from flows import console
from flows.catalogue import Shown
from flows.commands import models_output
from flows.commands.reproduce import reproduce
from flows.comparison import Comparison
from flows.reproduce import Reproduction
from flows.summary import Summary
from flows.view import View
from tasks.evaluation.evaluate import headline
from tasks.release.journal import Champion, Entry
from tasks.runtime.errors import ReleaseError

# Escapes of 7 and 8 bits, line ends, a direction, half a character, an emoji in words, markup.
EVIL = "a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"
SHOWN = r"a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"


def entry() -> Entry:
    words = dict.fromkeys(("time", "event", "version", "recipe", "reason", "why"), EVIL)
    champion = Champion.model_construct(version=EVIL, recipe="", accuracy=0, since=0)
    return Entry.model_construct(seq=0, accuracy=0, champion=champion, previous="", **words)


WORDS = dict.fromkeys(("version", "bundle", "report", "champion", "event", "decision"), EVIL)


def metrics_of(**changes: object) -> dict[str, object]:
    names = ("accuracy", "macro_f1", "loss", "validation_accuracy", "untrained_accuracy", "ece")
    interval = {"accuracy_interval_95": [0.1, 0.2], "ece_expected_95": [0.1, 0.2]}
    known = {"ece_expected": 0.1, "calibrated": True, "confidence": "calibrated", "temperature": 1}
    return dict.fromkeys(names, 0.5) | interval | known | {"top_pairs": []} | changes


def summary() -> None:
    console.print_summary(Summary.model_construct(metrics=metrics_of(), stages=(), **WORDS))


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
    """Given to our handler alone: what pytest keeps of a log must be text for xdist."""
    console.log_to_console()
    ours = [each for each in logging.getLogger("tasks").handlers if type(each) is console._Telling]
    ours[0].handle(logging.makeLogRecord({"msg": EVIL}))


PRINTED: dict[str, Callable[[], object]] = {
    "a line": lambda: console.say(EVIL),
    "a table": lambda: console.table(("what", "why"), [(EVIL, EVIL)]),
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


@pytest.mark.parametrize(
    ("ece", "calibrated", "words"),
    [
        (0.004, True, "calibrated: calibration error 0.40 points, where chance alone gives up to "),
        (0.0041, True, "not calibrated, though a temperature was fitted: calibration error 0.41 "),
        (0.004, False, "uncalibrated: calibration error 0.40 points"),
    ],
)
def test_only_an_error_within_chance_is_called_calibrated(
    ece: float, calibrated: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = metrics_of(ece=ece, ece_expected_95=[0.001, 0.004], calibrated=calibrated)
    console.print_summary(Summary.model_construct(metrics=metrics, stages=(), **WORDS))
    assert f"confidence {words}" in capsys.readouterr().out
    version = {"accuracy": 0.9, "accuracy_interval_95": (0.8, 0.95), "num_bytes": 1}
    made = dict.fromkeys(("seed", "device", "precision", "threads", "cpu", "code"), "")
    shown = Shown.model_construct(
        metrics=metrics,
        provenance=made,
        history=(),
        dataset="",
        champion=False,
        **dict.fromkeys(("version", "recipe", "bundle", "report"), ""),
        **version,
    )
    models_output.print_version(shown)
    line = next(line for line in capsys.readouterr().out.splitlines() if "confidence" in line)
    assert line.split(maxsplit=1)[1].startswith(words)
    assert f"Confidence: {words}" in headline(metrics | {"num_rows": 9, "num_wrong": 1})


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
    assert len(lines) == 1 + 1 + 4 + 1
