"""The evaluate stage, run alone on a small table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline_config.datasets import Corrections
from pipeline_config.recipe_files import load_recipe
from tasks.evaluation.evaluate import evaluate, scores_markdown
from tasks.model.network import build_network, initialize, save_weights
from tasks.runtime.errors import RawDataError, TrainingError
from tasks.runtime.stages import CONVERT, NORMALIZE, TRAIN
from tasks.runtime.store import StageRef, build, inspect

MODEL = load_recipe("fast", ("model.hidden=[8]",)).model
DIGITS = tuple("0123456789")
SHAPE = (4, 6)
FIGURES = (
    "confusion_matrix",
    "coverage",
    "robustness",
    "history",
    "misclassified",
    "per_class",
    "reliability",
    "samples",
)


@pytest.fixture
def undrawn(monkeypatch):
    """Draw no figures, which would take most of the time of a test."""
    monkeypatch.setattr("tasks.evaluation.evaluate.draw_figures", lambda *_: None)


def network(num_classes, seed=0):
    net = build_network(MODEL, SHAPE[0] * SHAPE[1], num_classes, mean=127.5, std=70.0)
    initialize(net, MODEL, seed)
    return net


def write_split(path: Path, images, labels):
    """Write a split like the convert stage does, without the columns of the profile."""
    columns = {
        "index": pa.array(np.arange(len(labels))),
        "label": pa.array(labels.astype(np.uint8)),
        "image": pa.array([image.tobytes() for image in images], pa.binary(SHAPE[0] * SHAPE[1])),
    }
    pq.write_table(pa.table(columns), path)


class World:
    """The outputs of convert, normalize and train that an evaluation reads."""

    def __init__(self, num_classes=10, num_train=60, num_test=40, validated=True):
        chance = np.random.default_rng(3)
        self.names = (
            DIGITS if num_classes == 10 else tuple(f"class {i}" for i in range(num_classes))
        )
        num_rows = num_train + num_test
        self.labels = np.arange(num_rows) % num_classes
        self.images = chance.integers(0, 256, (num_rows, *SHAPE)).astype(np.uint8)
        self.num_train, self.validated = num_train, validated
        self.test = np.arange(num_train, num_rows)
        self.net, self.kept = network(num_classes, seed=1), []
        upstream = StageRef(stage="fetch", key="0" * 16, digest="0" * 64)
        inputs = {"raw": upstream, "checked": upstream, "dataset_name": "small"}
        self.table = build(CONVERT, inputs, self.write_table)
        inputs = {"table": self.table, "split": "official", "scaling": "none"}
        self.normalized = build(NORMALIZE, inputs, self.write_split)

    def write_table(self, folder):
        for name, rows in (("train", slice(self.num_train)), ("test", slice(self.num_train, None))):
            write_split(folder / f"{name}.parquet", self.images[rows], self.labels[rows])
        num_test = len(self.labels) - self.num_train
        return {
            "num_classes": len(self.names),
            "image_shape": list(SHAPE),
            "rows": {"train": self.num_train, "test": num_test},
        }

    def write_split(self, folder):
        held = 10 if self.validated else 0
        np.save(folder / "train.npy", np.arange(self.num_train - held))
        np.save(folder / "validation.npy", np.arange(self.num_train - held, self.num_train))
        np.save(folder / "test.npy", self.test)
        return {"pooled": bool((self.test < self.num_train).any())}

    def trained(self):
        def write(folder):
            save_weights(network(len(self.names)).state_dict(), folder / "untrained.safetensors")
            save_weights(self.net.state_dict(), folder / "model.safetensors")
            entry = 0.5 if self.validated else None
            line = {"epoch": 1, "train_loss": 0.7, "learning_rate": 0.1}
            line |= {"validation_loss": entry, "validation_accuracy": entry}
            (folder / "history.json").write_text(json.dumps([line]))
            for epoch, net in enumerate(self.kept, start=1):
                (folder / "epochs").mkdir(exist_ok=True)
                save_weights(net.state_dict(), folder / "epochs" / f"{epoch:03}.safetensors")
            temperature = float(self.net[-1].temperature)
            return {
                "validation_accuracy": entry,
                "calibrated": self.validated,
                "temperature": temperature,
            }

        inputs = {"table": self.table, "normalized": self.normalized, "model": MODEL}
        return build(TRAIN, {**inputs, "training": "quick", "machine": "none"}, write)

    def evaluate(self, corrections=None):
        return evaluate.fn(
            self.table, self.normalized, self.trained(), MODEL, self.names, corrections
        )


def read_metrics(ref):
    return json.loads((ref.path / "metrics.json").read_bytes())


def test_metrics_and_facts(undrawn):
    world = World()
    ref = world.evaluate()
    metrics = read_metrics(ref)
    assert metrics["num_rows"] == 40
    assert metrics["validation_accuracy"] == 0.5
    assert len(metrics["classic_pairs"]) == 3
    assert ref.facts == {
        name: value for name, value in metrics.items() if not isinstance(value, list)
    }
    assert {"accuracy", "macro_f1", "loss", "untrained_accuracy", "untrained_macro_f1"} <= set(
        ref.facts
    )


def logits_of(world, rows):
    """Return the network's logits before the temperature."""
    with torch.no_grad():
        hidden = world.net.eval()[:-1]
        return hidden(torch.from_numpy(world.images[rows].reshape(len(rows), -1)))


def test_metrics_with_and_without_the_temperature(undrawn):
    world = World()
    world.net[-1].temperature.fill_(2.5)
    metrics = read_metrics(world.evaluate())
    assert (metrics["temperature"], metrics["calibrated"]) == (2.5, True)
    assert metrics["confidence"] == "calibrated"
    logits, labels = logits_of(world, world.test), torch.from_numpy(world.labels[world.test])
    nll = torch.nn.functional.cross_entropy
    assert metrics["loss"] == pytest.approx(float(nll(logits / 2.5, labels)), abs=1e-5)
    assert metrics["loss_before"] == pytest.approx(float(nll(logits, labels)), abs=1e-5)
    confidence = logits.softmax(dim=1).max(dim=1).values.mean()
    bins = metrics["reliability_before"]
    mean = sum(row["num_rows"] * row["confidence"] for row in bins) / metrics["num_rows"]
    assert mean == pytest.approx(float(confidence), abs=1e-5)
    assert metrics["ece"] != metrics["ece_before"]
    assert metrics["brier"] != metrics["brier_before"]
    low, high = metrics["ece_expected_95"]
    assert 0 <= low <= metrics["ece_expected"] <= high


def test_without_validation_rows_the_confidence_is_uncalibrated(undrawn):
    ref = World(validated=False).evaluate()
    metrics = read_metrics(ref)
    assert (metrics["temperature"], metrics["calibrated"]) == (1.0, False)
    assert metrics["confidence"] == "uncalibrated"
    assert metrics["validation_accuracy"] is None
    assert "uncalibrated" in scores_markdown(metrics)
    assert "no validation rows" in scores_markdown(metrics)
    for name in ("loss", "brier", "ece", "reliability"):
        assert metrics[name] == metrics[f"{name}_before"]


def test_corrected_labels_give_a_second_score(undrawn):
    world = World()
    plain = read_metrics(world.evaluate())
    assert not [name for name in plain if name.startswith("corrected")]
    predicted = int(logits_of(world, world.test[:1]).argmax())
    wrong = (predicted + 1) % 10
    corrections = Corrections(source="somebody", labels={0: wrong}, disputed=(1, 2))
    found = read_metrics(world.evaluate(corrections))
    assert {name: found[name] for name in plain} == plain
    assert (found["corrected_rows"], found["corrected_labels"]) == (38, 1)
    assert "On 38 rows with corrected labels" in scores_markdown(found)


def test_the_source_of_corrections_is_not_in_the_key(undrawn):
    world = World()
    ref = world.evaluate(Corrections(source="somebody", labels={0: 1}, disputed=()))
    assert world.evaluate(Corrections(source="x", labels={0: 1}, disputed=())).key == ref.key
    assert world.evaluate(Corrections(source="x", labels={0: 2}, disputed=())).key != ref.key


def test_kept_epochs_are_scored_one_by_one(undrawn):
    world = World()
    world.kept = [network(10, seed=seed) for seed in (0, 3, 1)]
    metrics = read_metrics(world.evaluate())
    curve = metrics["test_curve"]
    assert [row["epoch"] for row in curve] == [1, 2, 3]
    for name in ("accuracy", "macro_f1", "loss"):
        assert curve[0][name] == metrics[f"untrained_{name}"]
        assert curve[2][name] == metrics[name]


def test_probabilities_are_those_of_the_test_rows(undrawn):
    world = World()
    ref = world.evaluate()
    found = pq.read_table(ref.path / "probabilities.parquet")
    types = ["int64", "uint8", "uint8", *["float"] * 10]
    assert [str(field.type) for field in found.schema] == types
    assert found.column_names == ["index", "label", "prediction", *(f"p{i}" for i in range(10))]
    assert not any(field.nullable for field in found.schema)
    rows = world.test
    assert found["index"].to_pylist() == list(range(len(rows)))
    assert found["label"].to_numpy().tolist() == world.labels[rows].tolist()
    with torch.no_grad():
        logits = world.net.eval()(torch.from_numpy(world.images[rows].reshape(len(rows), -1)))
    shares = np.stack([found[f"p{i}"].to_numpy() for i in range(10)], axis=1)
    np.testing.assert_allclose(shares, logits.softmax(dim=1).numpy(), rtol=1e-5)
    predictions = found["prediction"].to_numpy()
    assert predictions.tolist() == shares.argmax(axis=1).tolist()
    assert read_metrics(ref)["num_wrong"] == (predictions != world.labels[rows]).sum()


def test_rows_of_a_pooled_split_keep_their_places(undrawn):
    world = World()
    world.test = np.array([3, 99, 0, 61])
    world.normalized = build(
        NORMALIZE, {"table": world.table, "split": "pooled", "scaling": "none"}, world.write_split
    )
    found = pq.read_table(world.evaluate().path / "probabilities.parquet")
    assert found["index"].to_pylist() == [3, 99, 0, 61]
    assert found["label"].to_pylist() == world.labels[[3, 99, 0, 61]].tolist()


def test_a_damaged_figure_is_rebuilt_with_the_same_bytes():
    world = World()
    first = world.evaluate()
    assert set(first.manifest.files) == {
        "metrics.json",
        "probabilities.parquet",
        *(f"figures/{name}.png" for name in FIGURES),
    }
    path = first.path / "figures" / "history.png"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert inspect(first.path)[1] == ["figures/history.png: its SHA-256 changed"]
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    assert world.evaluate() == first
    assert path.read_bytes() == good


def test_two_named_classes(undrawn):
    world = World(num_classes=2)
    metrics = read_metrics(world.evaluate())
    assert [row["name"] for row in metrics["per_class"]] == ["class 0", "class 1"]
    assert metrics["classic_pairs"] == []


def test_the_summary_names_the_confused_classes(undrawn):
    metrics = read_metrics(World().evaluate())
    text = scores_markdown(metrics)
    assert f"{metrics['num_wrong']} wrong. Most confused: " in text
    perfect = {**metrics, "num_wrong": 0, "top_pairs": []}
    assert "0 wrong. Most confused: none." in scores_markdown(perfect)


def test_weights_of_another_network_are_an_error_and_leave_no_output(undrawn):
    world = World()
    world.net = network(3)
    with pytest.raises(RawDataError, match=r"model\.safetensors"):
        world.evaluate()
    stages = world.table.path.parent
    assert not list(stages.glob("evaluate-*")) + list(stages.glob(".evaluate-*"))


def test_weights_that_are_not_numbers_are_an_error(undrawn):
    world = World()
    with torch.no_grad():
        world.net[1].weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not numbers for 40 of 40 rows"):
        world.evaluate()
