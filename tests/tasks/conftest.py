"""A small model's lineage, as the stages before publish leave it: real files, fake figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_config.datasets import FILES, Dataset, named_dataset
from pipeline_config.gate import Gate
from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, initialize, save_weights
from tasks.model.train import describe_layers
from tasks.release.assemble import Lineage
from tasks.release.bundle import BundleManifest, Determinants, bundle_folder
from tasks.release.journal import Candidate
from tasks.runtime.devices import Machine
from tasks.runtime.files import canonical_json, digest_of, sha256_bytes
from tasks.runtime.manifest import FileEntry
from tasks.runtime.stages import CONVERT, EVALUATE, FETCH, NORMALIZE, TRAIN, VALIDATE
from tasks.runtime.store import Facts, StageRef, build

HEIGHT, WIDTH, CLASSES = 4, 5, 10
ROWS = {"train": 40, "test": 20}
PAIR = {"first_as_second": 1, "second_as_first": 1, "count": 2, "rank": 1}
SHARE = {"num_rows": 10, "accuracy": 0.9, "accuracy_interval_95": [0.6, 0.98]}
BINS = [{"confidence": 0.9, "lowest": 0.5, "highest": 1.0, **SHARE}]
FIGURES = (
    "samples",
    "history",
    "per_class",
    "confusion_matrix",
    "reliability",
    "coverage",
    "misclassified",
)
MACHINE = Machine(device="cpu", precision="float32", threads=1, cpu="x86_64 avx2")

MakeLineage = Callable[..., Lineage]


def small_recipe(**changes: Any) -> Recipe:
    """The default recipe with a tiny network; `changes` replace top-level fields."""
    overrides = ("model.hidden=[6]", "training.epochs=2", "split.validation.rows=10")
    recipe = load_recipe("fast", overrides)
    return Recipe.model_validate({**recipe.model_dump(), "floors": {}, **changes})


def metrics_of(accuracy: float, **changes: Any) -> dict[str, Any]:
    """Metrics with the names that evaluate writes; None among `changes` removes a name."""
    metrics = _metrics_of(accuracy) | changes
    return {
        name: value for name, value in metrics.items() if name not in changes or value is not None
    }


def _metrics_of(accuracy: float) -> dict[str, Any]:
    return {
        "num_rows": ROWS["test"],
        "num_wrong": round(ROWS["test"] * (1 - accuracy)),
        "accuracy": accuracy,
        "accuracy_interval_95": [accuracy - 0.01, min(accuracy + 0.01, 1.0)],
        "loss": 0.25,
        "macro_precision": accuracy,
        "macro_recall": accuracy,
        "macro_f1": accuracy,
        "temperature": 1.25,
        "calibrated": True,
        "confidence": "calibrated",
        "loss_before": 0.3,
        "brier": 0.15,
        "brier_before": 0.16,
        "ece": 0.02,
        "ece_before": 0.0777,
        "ece_expected": 0.03,
        "ece_expected_95": [0.01, 0.06],
        "reliability": BINS,
        "reliability_before": BINS,
        "coverage": [
            {"coverage": share, "num_wrong": 1, "confidence": 0.5, **SHARE}
            for share in (1.0, 0.95, 0.5)
        ],
        "test_curve": [],
        "robustness": [],
        "corrected_accuracy": 0.95,
        "corrected_interval_95": [0.7, 0.99],
        "corrected_rows": 19,
        "corrected_wrong": 1,
        "corrected_labels": 1,
        "corrected_left_out": 1,
        "untrained_accuracy": 0.1,
        "untrained_macro_f1": 0.05,
        "validation_accuracy": 0.9,
        "confusion_matrix": (2 * np.eye(CLASSES, dtype=int)).tolist(),
        "per_class": [
            {
                "name": str(label),
                "precision": 0.9,
                "recall": 0.9,
                "recall_interval_95": [0.3, 0.99],
                "f1": 0.9,
                "support": 2,
            }
            for label in range(CLASSES)
        ],
        "top_pairs": [{"first": "4", "second": "9", **PAIR}],
        "classic_pairs": [{"first": "3", "second": "5", **PAIR}],
    }


def write_png(path: Path) -> None:
    """One white pixel."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def _raw(folder: Path, data: int) -> Facts:
    for name in FILES:
        (folder / name).write_bytes(f"{name} {data}".encode())
    digests = {name: digest_of([name, data]) for name in FILES}
    return {"sha256": digests, "num_bytes": dict.fromkeys(FILES, 1)}


def _checked(folder: Path) -> Facts:
    finding = {
        "name": "ink",
        "description": "In each image <1 % of the pixels are zero.",
        "severity": "warning",
        "success": False,
        "observed": "3 of 60 rows break it",
        "remedy": "Look at the rows named.",
        "rows": ["train[3]"],
    }
    (folder / "report.json").write_bytes(canonical_json({"expectations": [finding]}))
    (folder / "report.html").write_text("<p>fine</p>")
    return {
        "num_classes": CLASSES,
        "image_shape": [HEIGHT, WIDTH],
        "rows": ROWS,
        "warnings": 1,
        "expectations": 16,
    }


def _table(folder: Path, raw: StageRef) -> Facts:
    generator = np.random.default_rng(0)
    for split, num_rows in ROWS.items():
        images = generator.integers(0, 256, (num_rows, HEIGHT * WIDTH), dtype=np.uint8)
        kind = pa.binary(HEIGHT * WIDTH)
        columns = {
            "index": pa.array(range(num_rows), pa.int64()),
            "label": pa.array([row % CLASSES for row in range(num_rows)], pa.uint8()),
            "image": pa.array([image.tobytes() for image in images], kind),
        }
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return {
        "dataset": "mnist",
        "num_classes": CLASSES,
        "image_shape": [HEIGHT, WIDTH],
        "rows": ROWS,
        "sha256": raw.facts["sha256"],
    }


def _normalized(folder: Path, pooled: bool) -> Facts:
    parts = {"train": range(30), "validation": range(30, 40), "test": range(40, 60)}
    for part, rows in parts.items():
        np.save(folder / f"{part}.npy", np.array(rows, dtype=np.int64))
    return {
        "scaling": "standard",
        "mean": 127.0,
        "std": 74.0,
        "rows": {part: len(rows) for part, rows in parts.items()},
        "pooled": pooled,
    }


def _trained(folder: Path, recipe: Recipe) -> Facts:
    network = build_network(recipe.model, HEIGHT * WIDTH, CLASSES, 127.0, 74.0)
    initialize(network, recipe.model, recipe.training.seed)
    save_weights(network.state_dict(), folder / "model.safetensors")
    save_weights(network.state_dict(), folder / "untrained.safetensors")
    epoch = {"train_loss": 1.0, "validation_loss": 1.0, "validation_accuracy": 0.9}
    history = [
        {"epoch": number + 1, "learning_rate": 0.001, **epoch}
        for number in range(recipe.training.epochs)
    ]
    (folder / "history.json").write_bytes(canonical_json(history))
    layers = describe_layers(network)
    return {
        "num_classes": CLASSES,
        "image_shape": [HEIGHT, WIDTH],
        "num_parameters": sum(layer["parameters"] for layer in layers),
        "layers": layers,
        "validation_accuracy": 0.9,
        "epochs": recipe.training.epochs,
        "best_epoch": recipe.training.epochs,
        "temperature": 1.25,
        "calibrated": True,
    }


def _evaluated(folder: Path, metrics: dict[str, Any]) -> Facts:
    (folder / "metrics.json").write_bytes(canonical_json(metrics))
    labels = np.arange(ROWS["test"]) % CLASSES
    answers = np.where(np.arange(ROWS["test"]) == 0, 1, labels)
    columns = {"index": np.arange(20), "label": labels, "prediction": answers}
    columns |= {f"p{label}": np.where(answers == label, 0.91, 0.01) for label in range(CLASSES)}
    pq.write_table(pa.table(columns), folder / "probabilities.parquet")
    for name in FIGURES:
        write_png(folder / "figures" / f"{name}.png")
    return {name: value for name, value in metrics.items() if not isinstance(value, list)}


@pytest.fixture
def make_lineage(wide_gate: None) -> MakeLineage:
    """`make_lineage(accuracy=…, recipe=…, dataset=…, data=…, pooled=…)` → a Lineage in the root.

    Further words change the metrics.
    """

    def make(
        accuracy: float = 0.9,
        recipe: Recipe | None = None,
        dataset: Dataset | None = None,
        data: int = 0,
        pooled: bool = False,
        **metrics: Any,
    ) -> Lineage:
        recipe, dataset = recipe or small_recipe(), dataset or named_dataset("mnist")
        source = dataset.model_copy(update={"content": f"{data:064x}"})
        raw = build(FETCH, {"dataset": source.model_dump()}, lambda folder: _raw(folder, data))
        given = {"raw": raw, "num_classes": CLASSES}
        checked = build(VALIDATE, given, _checked)
        given = {"raw": raw, "checked": checked, "dataset_name": dataset.name}
        table = build(CONVERT, given, lambda folder: _table(folder, raw))
        given = {"table": table, "split": recipe.split, "scaling": f"{recipe.scaling} {pooled}"}
        normalized = build(NORMALIZE, given, lambda folder: _normalized(folder, pooled))
        given = {
            "table": table,
            "normalized": normalized,
            "model": recipe.model,
            "training": recipe.training,
            "machine": MACHINE,
        }
        trained = build(TRAIN, given, lambda folder: _trained(folder, recipe))
        given = {
            "table": table,
            "normalized": normalized,
            "trained": trained,
            "model": recipe.model,
            "class_names": [*dataset.class_names, str(accuracy), str(metrics)],
            "corrections": dataset.corrections,
        }
        found = metrics_of(accuracy, **metrics)
        evaluated = build(EVALUATE, given, lambda folder: _evaluated(folder, found))
        return Lineage(
            recipe, dataset, MACHINE, raw, checked, table, normalized, trained, evaluated
        )

    return make


@pytest.fixture
def wide_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins for twenty test rows, on which two untrained networks differ by many."""
    gate = Gate(
        accuracy_margin=0.8, loss_margin=9, ece_margin=1, recall_spread=None, num_seeds=None
    )
    monkeypatch.setattr("tasks.release.publish.gate_for", lambda dataset: gate)


MakeBundle = Callable[..., Candidate]


@pytest.fixture
def make_bundle() -> MakeBundle:
    """`make_bundle(accuracy, competes=…, recipe=…)` → the candidate of a bundle with two files."""

    def make(accuracy: float, competes: bool = True, recipe: str = "fast") -> Candidate:
        contents = {
            "model.safetensors": f"{recipe} {accuracy}".encode(),
            "metrics.json": canonical_json({"accuracy": accuracy}),
        }
        files = {
            name: FileEntry(sha256=sha256_bytes(content), num_bytes=len(content))
            for name, content in contents.items()
        }
        determinants = Determinants(
            model=files["model.safetensors"].sha256,
            metrics=files["metrics.json"].sha256,
            recipe=digest_of([recipe, competes]),
            data={},
        )
        manifest = BundleManifest.of(
            determinants, dataset="mnist", recipe=recipe, provenance={}, files=files
        )
        folder = bundle_folder("mnist", manifest.version)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        (folder / "manifest.json").write_bytes(manifest.content())
        return Candidate(
            version=manifest.version, recipe=recipe, accuracy=accuracy, competes=competes
        )

    return make
