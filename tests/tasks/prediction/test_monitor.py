"""Monitoring what was served: whose answers count, what labels show later, and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline_config.drift import drift_limits
from tasks.dataset.shards import ADMITTED, QUARANTINED, RETRACTED, Shard, arrive, decide
from tasks.prediction import monitor as module
from tasks.prediction.answers import Request, predict_files
from tasks.prediction.classifier import Classifier, load_classifier
from tasks.prediction.drift import Answered
from tasks.prediction.monitor import Monitored, late_labels, monitor
from tasks.prediction.monitor_page import MonitorLine, read_history, write_page
from tasks.prediction.served import Served
from tasks.raw.idx import write_idx
from tasks.release import journal
from tasks.runtime.files import sha256_bytes

MakeBundle = Callable[..., Path]
NAMES = ("<b>zero</b>", "one")
METRICS = {"num_rows": 400, "reliability": [{"confidence": 0.9, "num_rows": 400}]}
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def served(images: np.ndarray, likely: np.ndarray, time: datetime = NOW) -> Served:
    digests = [bytes.fromhex(sha256_bytes(image.tobytes())) for image in images]
    return Served(digests, images, likely, ["v1"] * len(images), [time] * len(images))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)


def likely(answers: np.ndarray, confidence: float = 0.75) -> np.ndarray:
    return np.where(np.arange(2) == answers[:, None], confidence, 1 - confidence).astype(np.float32)


def add(images: np.ndarray, labels: np.ndarray, event: str = ADMITTED) -> Shard:
    shard = arrive("mnist", images, labels.astype(np.uint8))
    decide(shard, event, "")
    return shard


def test_labels_that_come_later_tell_how_right_the_answers_were(images: np.ndarray) -> None:
    answers = np.arange(40) % 2
    found = served(images, likely(answers))
    assert late_labels("mnist", found) is None
    labels = answers[:30].copy()
    labels[:6] = 1 - labels[:6]
    shard = add(images[:30], labels)
    add(images[30:35], 1 - answers[30:35], QUARANTINED)
    late = late_labels("mnist", found)
    assert late is not None
    assert (late.num_rows, late.accuracy, late.estimated_accuracy) == (30, 0.8, 0.75)
    low, high = late.accuracy_interval_95
    assert 0.6 < low < 0.8 < high < 0.95
    assert "30 images were labelled since: 80.0% of their answers are right" in late.words
    # One image with two labels says nothing.
    add(np.stack([images[0], images[39]]), np.array([answers[0], answers[39]]))
    late = late_labels("mnist", found)
    assert late is not None
    assert (late.num_rows, late.accuracy) == (30, 25 / 30)
    # The model may be trained on labels that were there before the answer.
    after = datetime.now(UTC) + timedelta(minutes=1)
    assert late_labels("mnist", served(images, likely(answers), after)) is None
    decide(shard, RETRACTED, "mistake")
    late = late_labels("mnist", found)
    assert late is not None
    assert late.num_rows == 2


@pytest.fixture
def look(images: np.ndarray) -> Callable[..., tuple[MonitorLine, str]]:
    def write(
        verdict: str = "drift", source: str = "", labelled: str = ""
    ) -> tuple[MonitorLine, str]:
        signal = {"name": "auc", "value": 0.9, "usual": 0.5, "limit": 0.6, "alarms": True}
        signals = () if verdict == "too few" else ({**signal, "words": "told <apart>"},)
        facts = {"dataset": "mnist", "model": "mnist/v1", "verdict": verdict, "signals": signals}
        facts |= {"num_images": 40, "num_training_rows": 40, "time": NOW.isoformat()}
        line = MonitorLine(source=source, **facts)
        answered = Answered(images, likely(np.arange(40) % 2))
        page = write_page(line, labelled, [answered, answered], np.arange(80.0), NAMES)
        return line, page.read_text()

    return write


def test_the_page_escapes_and_needs_nothing_else(
    look: Callable[..., tuple[MonitorLine, str]],
) -> None:
    _, page = look(source="<script>alert(1)</script>", labelled="9 were <labelled>")
    assert "<script" not in page
    for text in ("&lt;script&gt;", "&lt;b&gt;zero&lt;/b&gt;", "told &lt;apart&gt;", "✗ drift"):
        assert text in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert "http" not in page
    assert page.count("<img") == 24


def test_the_history_grows_by_a_line_and_outlives_damage(
    look: Callable[..., tuple[MonitorLine, str]], root: Path
) -> None:
    for verdict in ("no drift", "drift", "too few"):
        _, page = look(verdict)
    assert "too few images" in page
    path = root / "monitor" / "mnist.jsonl"
    lines = path.read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["no drift", "drift", "too few"]
    path.write_text("\n".join([lines[0], lines[1].replace("drift", "drifT"), lines[2], ""]))
    _, page = look("drift")
    assert [each.verdict for each in read_history("mnist")] == ["no drift", "too few", "drift"]
    assert "2 looks" in page


@pytest.fixture
def champion(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, digits: np.ndarray, tmp_path: Path
) -> Callable[[bytes], str]:
    """Make a model champion, by which ten digits are answered and kept; its version."""
    training = np.tile(digits, (3, 1, 1))
    monkeypatch.setattr(module, "training_rows", lambda folder, size: training)
    monkeypatch.setattr(module, "from_json", lambda content: METRICS)
    limits = drift_limits().model_copy(update={"min_rows": 10})
    monkeypatch.setattr("tasks.prediction.drift.drift_limits", lambda: limits)
    write_idx(tmp_path / "images", digits)

    def make(weights: bytes) -> str:
        folder = make_bundle(weights=weights)
        made = journal.Candidate(version=folder.name, recipe="fast", accuracy=0.9, competes=True)
        journal.append("mnist", journal.read_journal("mnist"), made, journal.FORCED, reason="")
        return folder.name

    return make


def test_only_the_champions_own_answers_are_taken_as_they_are(
    champion: Callable[[bytes], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert monitor("mnist") == Monitored(dataset="mnist")
    assert "--log" in monitor("mnist").words
    first = champion(b"first")
    predict_files(Request(files=(str(tmp_path / "images"),), log=True))
    asked: list[int] = []
    answered = module._answered

    def counted(classifier: Classifier, images: np.ndarray) -> Answered:
        asked.append(len(images))
        return answered(classifier, images)

    monkeypatch.setattr(module, "_answered", counted)
    found = monitor("mnist")
    assert (found.model, found.num_images, asked) == (load_classifier(first, None).title, 10, [30])
    assert found.page
    assert Path(found.page).is_file()
    champion(b"second")
    monitor("mnist")
    assert asked == [30, 10, 30]
    monitor("mnist", (str(tmp_path / "images"),))
    assert asked == [30, 10, 30, 10, 30]
