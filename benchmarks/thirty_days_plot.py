"""What was to be shown by `thirty_days.py`, and its plot, from the figures of each day.

python benchmarks/thirty_days_plot.py thirty-days.json      # draws thirty-days.png again
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tasks.release.journal import read_journal

WAYS = {"never": ("never retrained", "#767676"), "plain": ("nightly, no gate", "#c8641e")}
WAYS |= {"ours": ("ours", "#1f5fa8")}
ON_MANY, ON_DAY = "on 5,000 rows", "on the day's rows"
A_POINT, ESTIMATE_POINTS, HOLDS_BELOW, LATEST_DAYS = 0.01, 0.015, 0.8, 2


def explained(dataset: str, days: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who was champion on each morning and why, from the journal alone."""
    entries, found = read_journal(dataset), []
    for day in days:
        time_of = [datetime.fromisoformat(entry.time) for entry in entries]
        morning = datetime.fromisoformat(day["morning"])
        last = [entry for entry, time in zip(entries, time_of, strict=True) if time <= morning][-1]
        assert last.champion is not None
        made = next(entry for entry in entries if entry.seq == last.champion.since)
        facts = {"champion": last.champion.version, "event": made.event, "reason": made.reason}
        found.append({"day": day["day"], **facts, "last": f"{last.event}: {last.reason}"})
    return found


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target, what was found, and whether it was met.

    A run that was lost to its kill needs nobody: the next one does its work. Any other run that
    did not complete, and damage that is left at the end, counts as a repair.
    """
    days, quiet = found["days"], found["quiet_days"]
    seen = [day for day in days if day["monitor"]["verdict"] != "not seen"]
    drift = [day["day"] for day in seen if day["monitor"]["verdict"] == "drift"]
    false = [day for day in drift if day <= quiet]
    first = min((day for day in drift if day > quiet), default=None)
    lost = {way: first_loss(days, way) for way in ("never", "ours")}
    known = [day for day in lost.values() if day is not None]
    in_time = not known or (first is not None and first <= min(known) + LATEST_DAYS)
    errors = {
        day["day"]: day["monitor"]["estimated_accuracy"] - day[ON_MANY]["ours"]
        for day in seen
        if day["monitor"]["auc"] < HOLDS_BELOW
    }
    worst = max(errors.values(), key=abs, default=0.0)
    alike = [
        each["champion"] == day["champion"] and bool(each["reason"])
        for each, day in zip(found["explained"], days, strict=True)
    ]
    bad, states = sum(found["bad_rows"]["ours"].values()), [run["state"] for run in found["runs"]]
    killed = {(kill["day"], kill["run"]) for kill in found["kills"]}
    lost_runs = [run for run in found["runs"] if run["state"] not in ("Completed", "Refused")]
    others = [run for run in lost_runs if (run["day"], run["run"]) not in killed]
    repairs = len(found["damage"]) + len(others)
    ended = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    words = f"first seen on day {first}; a point is lost on day {lost['never']} by the model that "
    words += f"is never retrained, on day {lost['ours']} by our champion"
    off = f"over {len(errors)} days with AUC < {HOLDS_BELOW} at most {100 * worst:+.2f} points off"
    targets = [
        (
            "no bad row was trained on",
            f"{bad} bad rows; plain: {found['bad_rows']['plain']}",
            not bad,
        ),
        ("no false alarm on the quiet days", f"{len(false)} in {quiet} days", not false),
        ("drift is seen within two days of the first lost point", words, in_time),
        (
            "the estimate is within 1.5 points of the accuracy on 5,000 rows while AUC < 0.8",
            off,
            abs(worst) <= ESTIMATE_POINTS,
        ),
        ("no manual repair", f"{repairs}; {len(found['kills'])} kills; runs: {ended}", not repairs),
        (
            "every day's champion is explained from the journal alone",
            f"{sum(alike)} of {len(days)} days",
            all(alike),
        ),
    ]
    return [dict(zip(("target", "found", "met"), each, strict=True)) for each in targets]


def first_loss(days: list[dict[str, Any]], way: str) -> int | None:
    """The first day on which a model is a point worse than without drift, on 5,000 rows."""
    lost = (day["day"] for day in days if day["without drift"][way] - day[ON_MANY][way] >= A_POINT)
    return next(lost, None)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw accuracy, estimate and AUC by day."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    days = found["days"]
    numbers = [day["day"] for day in days]
    settings = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        size = {"height_ratios": [3, 1.6, 1.2]}
        figure, axes = plt.subplots(
            3, 1, figsize=(9, 9), sharex=True, gridspec_kw=size, layout="constrained"
        )
        _accuracy(axes[0], found, numbers)
        _estimate(axes[1], days)
        _auc(axes[2], days)
        axes[2].set_xlabel("day")
        axes[2].set_xlim(0.5, numbers[-1] * 1.2)
        axes[2].set_xticks([*range(5, numbers[-1] + 1, 5)] or numbers)
        figure.savefig(path, dpi=110, facecolor="white")
        plt.close(figure)


def _accuracy(axes: Any, found: dict[str, Any], numbers: list[int]) -> None:
    """The accuracy of each way, with what happened below."""
    days, quiet = found["days"], found["quiet_days"]
    ends = []
    for way, (_, colour) in WAYS.items():
        values = [100 * day[ON_MANY][way] for day in days]
        points = [100 * day[ON_DAY][way] for day in days]
        axes.plot(numbers, values, color=colour, linewidth=2)
        axes.plot(numbers, points, ".", color=colour, alpha=0.35)
        ends.append(values[-1])
    low, high = axes.get_ylim()
    room = (high - low) / 18
    places = np.array(ends)
    for place, below in zip(np.argsort(ends)[1:], np.argsort(ends)[:-1], strict=True):
        places[place] = max(places[place], places[below] + room)
    for (words, colour), place, end in zip(WAYS.values(), places, ends, strict=True):
        text = f" {words}, {end:.1f} %"
        axes.text(numbers[-1] + 0.2, place, text, color=colour, va="center")
    axes.axvspan(0.5, quiet + 0.5, color="#eef2f6", zorder=0)
    axes.text(quiet / 2 + 0.5, (low + high) / 2, "no drift", ha="center", color="#555555")
    for place, (day, fault) in enumerate(found["faults"].items()):
        night, colour = int(day) + 3, "#a02020"
        axes.plot(night, low, "v", color=colour, markersize=6)
        words = f"shard {fault}" + "\n" * (1 + place % 2)
        axes.text(night, low, words, color=colour, ha="center", va="bottom", fontsize=8)
    if lost := first_loss(days, "never"):
        axes.axvline(lost, color="#bbbbbb", linewidth=1, zorder=0)
        words = f" day {lost}: never retrained\n has lost a point"
        axes.text(lost, high, words, va="top", color="#555555", fontsize=9)
    for kill in found["kills"]:
        axes.plot(kill["day"], low - 2.2 * room, "x", color="black", clip_on=False, markersize=6)
    axes.text(numbers[-1] + 0.5, low - 2.2 * room, " × SIGKILL", va="center", fontsize=9)
    axes.set_ylim(low - 2.6 * room, high)
    axes.set_ylabel("accuracy, %")
    axes.set_title(
        "Accuracy on 5,000 digits that look as on that day (dots: the day's 500)", loc="left"
    )


def _estimate(axes: Any, days: list[dict[str, Any]]) -> None:
    """The estimate without labels beside the truth."""
    truth = [(day["day"], 100 * day[ON_MANY]["ours"]) for day in days]
    seen = [
        (day["day"], 100 * day["monitor"]["estimated_accuracy"])
        for day in days
        if "estimated_accuracy" in day["monitor"]
    ]
    for points, words, style in ((truth, "true, 5,000 rows", "-"), (seen, "estimated", "o")):
        colour = "#1f5fa8" if style == "-" else "#7a3b9c"
        axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4)
        place = points[-1][1]
        axes.text(days[-1]["day"] + 0.2, place, f" {words}", color=colour, va="center")
    axes.set_ylabel("accuracy, %")
    axes.set_title("Our champion: estimated from 500 images without labels", loc="left")


def _auc(axes: Any, days: list[dict[str, Any]]) -> None:
    """The AUC, and the days on which the monitor said drift."""
    seen = [day for day in days if "auc" in day["monitor"]]
    for verdict, colour in (("no drift", "#1f5fa8"), ("drift", "#a02020")):
        points = [
            (day["day"], day["monitor"]["auc"])
            for day in seen
            if day["monitor"]["verdict"] == verdict
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4)
            day, place = points[0]
            words = f"{verdict}\n" if verdict == "no drift" else f"{verdict}, from day {day}  "
            side: Any = {"ha": "left", "va": "bottom"} if "\n" in words else {"ha": "right"}
            axes.text(day, place, words, color=colour, **side)
    axes.axhline(HOLDS_BELOW, color="#bbbbbb", linewidth=1)
    words = " above: the estimate\n is too high"
    axes.text(days[-1]["day"] + 0.2, HOLDS_BELOW, words, va="center", color="#555555", fontsize=9)
    axes.set_ylabel("AUC")
    axes.set_title("Can the day's images be told from the training rows?", loc="left")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw(json.loads(source.read_text()), source.with_suffix(".png"))
