"""Stage train: the rows of a split → the weights of a recipe's network.

Axes: N rows, D pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task

from pipeline_config.recipe import Model, Training
from tasks.runtime.artifacts import ProgressArtifact, show_table
from tasks.runtime.cache import StagePolicy
from tasks.runtime.devices import Machine, prepared
from tasks.runtime.files import canonical_json
from tasks.runtime.manifest import Facts, StageRef
from tasks.runtime.progress import progress
from tasks.runtime.stages import TRAIN
from tasks.runtime.store import build

if TYPE_CHECKING:
    import torch

    from tasks.model.training import Rows


def write_model(
    folder: Path,
    table: StageRef,
    normalized: StageRef,
    model: Model,
    training: Training,
    machine: Machine,
) -> Facts:
    """Train and write `untrained.safetensors`, `model.safetensors` and `history.json`."""
    from tasks.model.network import build_network, describe_layers, initialize, save_network
    from tasks.model.training import fit, num_batches_of

    facts, scaling = table.facts, normalized.facts
    height, width = facts["image_shape"]
    network = build_network(
        model, height * width, facts["num_classes"], scaling["mean"], scaling["std"]
    )
    initialize(network, model, training.seed)
    save_network(network, folder / "untrained.safetensors")
    num_rows = scaling["rows"]["train"]
    num_steps = training.epochs * num_batches_of(network, num_rows, training.batch_size)
    artifact = ProgressArtifact("train-progress", "Training")
    done = 0

    with prepared(machine) as device, progress("train", num_steps, "steps") as advance:

        def tell(steps: int, words: str) -> None:
            nonlocal done
            done += steps
            advance(steps, words)
            artifact.show(done / num_steps)

        train, validation = _read_rows(table, normalized, device)
        history = fit(network.to(device), train, validation, training, tell)
    save_network(network, folder / "model.safetensors")
    (folder / "history.json").write_bytes(canonical_json([asdict(epoch) for epoch in history]))
    return {
        "num_classes": facts["num_classes"],
        "image_shape": facts["image_shape"],
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "layers": describe_layers(network),
        "validation_accuracy": history[-1].validation_accuracy,
        "epochs": len(history),
    }


def _read_rows(table: StageRef, normalized: StageRef, device: torch.device) -> tuple[Rows, Rows]:
    """The training and the validation rows on the device, images as uint8 (N, D)."""
    import torch

    from tasks.dataset.splits import read_split
    from tasks.dataset.table import read_images
    from tasks.model.training import Rows

    images, labels = read_images(table)
    split = read_split(normalized)
    train, validation = (
        Rows(torch.from_numpy(images[rows]).to(device), torch.from_numpy(labels[rows]).to(device))
        for rows in (split.train, split.validation)
    )
    return train, validation


@task(
    name="train",
    cache_policy=StagePolicy(stage=TRAIN),
    result_serializer="json",
    persist_result=True,
    cache_result_in_memory=False,
    retries=0,
    timeout_seconds=6 * 3600,
    tags=["train"],
)
def train(
    table: StageRef,
    normalized: StageRef,
    model: Model,
    training: Training,
    machine: Machine,
    refresh: bool = False,
) -> StageRef:
    """Train the recipe's network; returns the reference to weights and history."""
    inputs = {
        "table": table,
        "normalized": normalized,
        "model": model,
        "training": training,
        "machine": machine,
    }
    ref = build(
        TRAIN,
        inputs,
        lambda folder: write_model(folder, table, normalized, model, training, machine),
        refresh=refresh,
    )
    show_table("layers", ref.facts["layers"], "Layers of the network")
    return ref
