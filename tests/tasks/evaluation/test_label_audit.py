"""The audit stage, run alone: planted errors are found, each fold is scored by its own network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline_config.recipe import OfficialTest, Split, StratifiedFold
from pipeline_config.recipe_files import load_recipe
from tasks.dataset.normalize import normalize
from tasks.dataset.table import read_split
from tasks.evaluation.figures import draw_suspects
from tasks.evaluation.label_audit import GALLERY, NOISE, SUSPECTS, audit, out_of_fold
from tasks.model.network import build_network, save_weights
from tasks.runtime.stages import CONVERT, TRAIN
from tasks.runtime.store import StageRef, build, inspect

MODEL = load_recipe("fast", ("model.hidden=[]",)).model
NAMES = ("a", "b", "c", "d")
NUM_CLASSES, NUM_TRAIN, NUM_TEST, FOLDS = 4, 48, 8, 3
WRONG = {5: 3, 20: 1}
SOURCE = StageRef(stage="fetch", key="0" * 16, digest="0" * 64)


@pytest.fixture
def table() -> StageRef:
    """Images of 2×2 pixels whose brightest pixel is the class. Two have wrong labels."""
    truth = np.arange(NUM_TRAIN + NUM_TEST) % NUM_CLASSES
    images = np.random.default_rng(0).integers(0, 60, (len(truth), 4)).astype(np.uint8)
    images[np.arange(len(truth)), truth] = 200
    images[list(WRONG), truth[list(WRONG)]] = 255
    labels = truth.copy()
    labels[list(WRONG)] = list(WRONG.values())

    def write(folder: Path) -> dict[str, object]:
        for name, rows in (("train", slice(NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
            pixels = [image.tobytes() for image in images[rows]]
            columns = {
                "image": pa.array(pixels, pa.binary(4)),
                "label": pa.array(labels[rows].astype(np.uint8)),
            }
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        rows = {"train": NUM_TRAIN, "test": NUM_TEST}
        return {"num_classes": NUM_CLASSES, "image_shape": [2, 2], "rows": rows}

    return build(CONVERT, {"raw": SOURCE, "checked": SOURCE, "dataset_name": "dots"}, write)


def train(table: StageRef, normalized: StageRef, weight: np.ndarray) -> StageRef:
    """Return an output of the train stage: a network of one layer with these weights (4, 4)."""

    def write(folder: Path) -> dict[str, object]:
        network = build_network(MODEL, 4, NUM_CLASSES, mean=0.0, std=255.0)
        network[1].weight.data = torch.from_numpy(weight.astype(np.float32))
        network[1].bias.data.zero_()
        save_weights(network.state_dict(), folder / "model.safetensors")
        return {}

    inputs = {
        "table": table,
        "normalized": normalized,
        "model": MODEL,
        "training": weight.tolist(),
        "machine": "any",
    }
    return build(TRAIN, inputs, write)


@pytest.fixture
def normalized(table: StageRef) -> tuple[StageRef, ...]:
    splits = [
        Split(
            test=OfficialTest(kind="official"),
            validation=StratifiedFold(kind="fold", fold=fold, folds=FOLDS, seed=0),
        )
        for fold in range(FOLDS)
    ]
    return tuple(normalize.fn(table, split, "unit") for split in splits)


@pytest.fixture
def trained(table: StageRef, normalized: tuple[StageRef, ...]) -> tuple[StageRef, ...]:
    """Three networks that predict the classes, each more confident than the one before."""
    return tuple(train(table, rows, (9 + fold) * np.eye(4)) for fold, rows in enumerate(normalized))


def test_planted_errors_are_suspects(table, normalized, trained):
    ref = audit.fn(table, normalized, trained, MODEL, NAMES)
    manifest, damage = inspect(ref.path)
    assert damage == []
    assert set(manifest.files) == {SUSPECTS, NOISE, GALLERY}
    suspects = pq.read_table(ref.path / SUSPECTS).to_pylist()
    assert [row["rank"] for row in suspects] == [1, 2]
    assert {row["row"]: row["label"] for row in suspects} == WRONG
    assert {row["row"]: row["suggested"] for row in suspects} == {5: 1, 20: 0}
    for row in suspects:
        assert row["margin"] == pytest.approx(row["confidence"] - row["self_confidence"])
        assert row["self_confidence"] < 0.1 < 0.9 < row["confidence"]
    assert ref.facts["num_suspects"] == 2
    assert ref.facts["num_folds"] == FOLDS
    assert ref.facts["estimated_errors"] == pytest.approx(2, abs=0.5)
    assert ref.facts["out_of_fold_accuracy"] == pytest.approx(46 / 48, abs=1e-6)
    noise = json.loads((ref.path / NOISE).read_bytes())
    assert noise["confident_joint"][3][1] == noise["confident_joint"][1][0] == 1
    with Image.open(ref.path / GALLERY) as image:
        image.load()
        assert image.size[0] == 960


def test_the_same_folds_give_the_same_bytes(table, normalized, trained):
    first = audit.fn(table, normalized, trained, MODEL, NAMES)
    assert audit.fn(table, normalized, trained, MODEL, NAMES, refresh=True) == first


def test_every_fold_is_part_of_the_key(table, normalized, trained):
    first = audit.fn(table, normalized, trained, MODEL, NAMES)
    for fold in range(FOLDS):
        others = list(trained)
        others[fold] = train(table, normalized[fold], 5 * np.eye(4))
        assert audit.fn(table, normalized, tuple(others), MODEL, NAMES).key != first.key


def test_each_row_is_scored_by_a_network_not_trained_on_it(table, normalized):
    images = np.full((NUM_TRAIN, 4), 255, np.uint8)
    weights = [9 * np.eye(4)[:, [fold]] * np.ones((1, 4)) for fold in range(FOLDS)]
    trained = [train(table, rows, weight) for rows, weight in zip(normalized, weights, strict=True)]
    predictions = out_of_fold(images, normalized, trained, MODEL, NUM_CLASSES).argmax(axis=1)
    for fold, rows in enumerate(normalized):
        assert set(predictions[read_split(rows).validation]) == {fold}


@pytest.mark.parametrize("names", [("0", "1"), ("T-shirt/top", "Ankle boot")], ids=str)
def test_no_title_of_the_gallery_is_cut_off(tmp_path, names):
    suspects = [
        {"label": 0, "suggested": 1, "confidence": 1.0, "row": 59_999 - place}
        for place in range(11)
    ]
    path = tmp_path / GALLERY
    draw_suspects(path, np.full((11, 4, 4), 255, np.uint8), suspects, "Suspects", names)
    with Image.open(path) as image:
        ink = np.asarray(image.convert("L")) < 250
    assert ink.any()
    assert not ink[:, :6].any()
    assert not ink[:, -6:].any()


def test_good_labels_give_no_suspects_and_an_empty_gallery(table, normalized, trained, monkeypatch):
    monkeypatch.setattr(
        "tasks.evaluation.label_audit.out_of_fold",
        lambda *_: np.full((NUM_TRAIN, NUM_CLASSES), 0.25, np.float32),
    )
    ref = audit.fn(table, normalized, trained, MODEL, NAMES)
    assert ref.facts["num_suspects"] == 0
    assert pq.read_table(ref.path / SUSPECTS).to_pylist() == []
    assert (ref.path / GALLERY).read_bytes().startswith(b"\x89PNG")
