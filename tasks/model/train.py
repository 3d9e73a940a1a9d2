"""Stage train: the rows of a split → the weights of a recipe's network.

Axes: N rows, D pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from pipeline_config.recipe import Model, Training
from pipeline_config.settings import settings
from tasks.runtime.artifacts import ProgressArtifact, show_table
from tasks.runtime.cache import StagePolicy
from tasks.runtime.devices import Machine, prepared
from tasks.runtime.files import canonical_json
from tasks.runtime.keys import components_of, key_of
from tasks.runtime.manifest import Facts, StageRef
from tasks.runtime.progress import progress
from tasks.runtime.stages import TRAIN
from tasks.runtime.store import build

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tasks.model.checkpoint import Checkpoint
    from tasks.model.history import Fitted
    from tasks.model.scoring import Rows
    from tasks.model.training import Trainer


def write_model(
    folder: Path,
    table: StageRef,
    normalized: StageRef,
    model: Model,
    training: Training,
    machine: Machine,
    checkpoint: Checkpoint | None = None,
) -> Facts:
    """Train and write `untrained.safetensors`, `model.safetensors` and `history.json`.

    With `training.keep_epochs` also `epochs/001.safetensors` and so on, the weights after each.
    """
    from tasks.model.network import build_network, describe_layers, initialize, save_weights
    from tasks.model.training import Trainer

    facts, scaling = table.facts, normalized.facts
    height, width = facts["image_shape"]
    network = build_network(
        model, height * width, facts["num_classes"], scaling["mean"], scaling["std"]
    )
    initialize(network, model, training.seed)
    save_weights(network.state_dict(), folder / "untrained.safetensors")
    with prepared(machine) as device:
        train, validation = _read_rows(table, normalized, device)
        trainer = Trainer(
            network.to(device), training, machine.precision, (height, width), checkpoint
        )
        fitted = _fit(trainer, train, validation)
        can_calibrate = training.gives_logits and len(validation) > 0
        temperature = calibrate(network, validation) if can_calibrate else None
    save_weights(network.state_dict(), folder / "model.safetensors")
    write_history(folder, fitted)
    return {
        "num_classes": facts["num_classes"],
        "image_shape": facts["image_shape"],
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "layers": describe_layers(network),
        "validation_accuracy": fitted.history[fitted.best_epoch - 1].validation_accuracy,
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        "temperature": 1.0 if temperature is None else temperature,
        "calibrated": temperature is not None,
    }


def write_history(folder: Path, fitted: Fitted) -> None:
    """Write `history.json` and, where they were kept, the weights after each epoch."""
    from tasks.model.network import save_weights

    history = [asdict(epoch) for epoch in fitted.history]
    (folder / "history.json").write_bytes(canonical_json(history))
    for number, weights in enumerate(fitted.kept, start=1):
        (folder / "epochs").mkdir(exist_ok=True)
        save_weights(weights, folder / "epochs" / f"{number:03}.safetensors")


def _fit(trainer: Trainer, train: Rows, validation: Rows) -> Fitted:
    """Train to the end, telling the terminal and the Prefect UI how far it is."""
    from tasks.model.training import num_batches_of

    training = trainer.training
    num_batches = num_batches_of(trainer.network, len(train), training.batch_size)
    num_steps = training.epochs * num_batches
    artifact = ProgressArtifact("train-progress", "Training")
    done = 0

    with progress("train", num_steps, "steps") as advance:

        def tell(steps: int, words: str) -> None:
            nonlocal done
            done += steps
            advance(steps, words)
            artifact.show(done / num_steps)

        return trainer.fit(train, validation, tell)


def calibrate(network: nn.Sequential, validation: Rows) -> float | None:
    """Fit the network's last layer, the temperature, on the validation rows; returns it.

    None where there was nothing to fit, because every row is answered rightly.
    """
    import torch

    from tasks.model.network import logits_in_batches
    from tasks.model.temperature import fit_temperature

    logits = torch.cat(list(logits_in_batches(network.eval(), validation.images)))
    fitted = fit_temperature(logits.cpu().numpy(), validation.labels.cpu().numpy())
    if fitted is None:
        return None
    network.load_state_dict({f"{len(network) - 1}.temperature": torch.tensor(fitted)}, strict=False)
    return fitted


def _read_rows(table: StageRef, normalized: StageRef, device: torch.device) -> tuple[Rows, Rows]:
    """The training and the validation rows on the device, images as uint8 (N, D)."""
    import torch

    from tasks.dataset.splits import read_split
    from tasks.dataset.table import read_images
    from tasks.model.scoring import Rows

    images, labels = read_images(table)
    split = read_split(normalized)
    train, validation = (
        Rows(torch.from_numpy(images[rows]).to(device), torch.from_numpy(labels[rows]).to(device))
        for rows in (split.train, split.validation)
    )
    return train, validation


def _checkpoint(inputs: dict[str, Any]) -> Checkpoint:
    """The checkpoint of these inputs, under the stage's key: what it holds fits nothing else."""
    from tasks.model.checkpoint import Checkpoint

    key = key_of(components_of(TRAIN, inputs))
    path = settings().checkpoints / f"train-{key}.safetensors"
    return Checkpoint(path, settings().checkpoint_s)


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
    checkpoint = _checkpoint(inputs)
    ref = build(
        TRAIN,
        inputs,
        lambda folder: write_model(folder, table, normalized, model, training, machine, checkpoint),
        refresh=refresh,
    )
    checkpoint.discard()
    show_table("layers", ref.facts["layers"], "Layers of the network")
    return ref
