"""Printing: control characters from files and users are written out, and a line stays a line."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable

import pytest

from flows import console
from pipeline_config.settings import CHECKOUT
from tasks.runtime.errors import ReleaseError
from tasks.runtime.show import confidence_in_words

# Escapes of 7 and 8 bits, line ends, a direction, half a character, an emoji in words, markup.
EVIL = "a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"
SHOWN = r"a\x1b]0;title\x07\x9b31m\r\nb\u202e\u2028\udcff:bug:[red]"


def log() -> None:
    """Given to our handler alone, since xdist can only send text."""
    console.log_to_console()
    ours = [each for each in logging.getLogger("tasks").handlers if type(each) is console._Printer]
    ours[0].handle(logging.makeLogRecord({"msg": EVIL}))


PRINTED: dict[str, Callable[[], object]] = {
    "a message": lambda: console.say(EVIL),
    "a line": lambda: console.line(EVIL),
    "a table": lambda: console.table("what why", [(EVIL, EVIL)]),
    "an error": lambda: console.print_error(
        ReleaseError(EVIL, found=EVIL, expected=EVIL, remedy=EVIL)
    ),
    "a caution": lambda: console.print_cautions([EVIL]),
    "a log line": log,
}


def test_a_field_is_printed_in_the_format_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"accuracy": 0.98765, "loss": 0.5, "num_bytes": 12345, "index": 1234, "made": None}
    console.table(" ".join(row), [row])
    head, cells = capsys.readouterr().out.splitlines()
    assert head.split() == ["accuracy", "loss", "bytes", "index", "made"]
    assert cells.split() == ["98.77%", "0.5000", "12,345", "1234"]
    console.facts(" ".join(row), {**row, "loss": (0.5, True)})
    assert capsys.readouterr().out.splitlines()[1].split() == ["loss", "0.5000", "yes"]


@pytest.mark.parametrize("what", PRINTED)
def test_control_characters_are_written_out(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    PRINTED[what]()
    printed = "".join(capsys.readouterr())
    assert SHOWN in printed
    for sign in "\x1b\x07\x9b\r\u202e\u2028\udcff":
        assert sign not in printed
    assert "\nb" not in printed


def test_the_commands_print_by_these_functions_only() -> None:
    """Except a recipe's own file, and the JSON of answers, which is escaped."""
    for path in (CHECKOUT / "flows").rglob("*.py"):
        if path.name in {"console.py", "server.py", "declared.py", "station.py"}:  # children
            continue
        others = re.findall(
            r"(?<![\w.])print\(|(?<!to_)console\(\)|stdout|echo\(", path.read_text()
        )
        assert len(others) <= {"data.py": 4}.get(path.name, 0), path


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
    for name in ("a message", "a table", "an error", "a caution"):
        PRINTED[name]()
    printed = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]" not in printed
    assert "\x9b" not in printed
    lines = [line for line in printed.splitlines() if SHOWN in line]
    assert len(lines) == 1 + 1 + 4 + 1


def test_a_narrow_terminal_wraps_texts_and_breaks_no_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", Terminal())
    row = ("fashion-mnist", "e09a6bb2bfec", "because " * 20)
    console.table("dataset version why", [row])
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert any("e09a6bb2bfec" in line for line in lines)


@pytest.mark.parametrize(
    ("ece", "calibrated", "words"),
    [
        (0.004, True, "calibrated: calibration error 0.40 points, where chance alone gives up to "),
        (0.0041, True, "not calibrated, though a temperature was fitted: calibration error 0.41 "),
        (0.004, False, "uncalibrated: calibration error 0.40 points"),
    ],
)
def test_only_an_error_within_chance_is_called_calibrated(
    ece: float, calibrated: bool, words: str
) -> None:
    metrics = {"ece": ece, "ece_expected_95": [0.001, 0.004], "calibrated": calibrated}
    assert confidence_in_words(metrics).startswith(words)
