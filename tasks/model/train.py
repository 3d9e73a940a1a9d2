"""Stage train: the rows of a split → the weights of a recipe's network.

Axes: N rows, D pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_config.recipe import Model, Training
from pipeline_config.settings import settings
from tasks.runtime.devices import Machine, prepared
from tasks.runtime.files import canonical_json
from tasks.runtime.show import ProgressArtifact, progress, show_table
from tasks.runtime.stages import TRAIN
from tasks.runtime.store import Facts, StageRef, output_name
from tasks.runtime.task import stage_task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tasks.model.checkpoint import Checkpoint
    from tasks.model.history import Fitted
    from tasks.model.scoring import Rows
    from tasks.model.training import Trainer


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
    import numpy as np
    import torch

    from tasks.dataset.table import read_rows, read_split
    from tasks.model.scoring import Rows

    split = read_split(normalized)
    images, labels = read_rows(table, np.concatenate([split.train, split.validation]))
    num_train = len(split.train)
    train, validation = (
        Rows(torch.from_numpy(images[rows]).to(device), torch.from_numpy(labels[rows]).to(device))
        for rows in (slice(num_train), slice(num_train, None))
    )
    return train, validation


def _checkpoint(output: str) -> Checkpoint:
    """Return the checkpoint of an output, by its name `train-<key>`."""
    from tasks.model.checkpoint import Checkpoint

    path = settings().checkpoints / f"{output}.safetensors"
    return Checkpoint(path, settings().checkpoint_s)


def _finish(ref: StageRef) -> None:
    """Remove the checkpoint, and attach the layers to the task run."""
    (settings().checkpoints / f"{ref.path.name}.safetensors").unlink(missing_ok=True)
    show_table("layers", ref.facts["layers"], "Layers of the network")


@stage_task(TRAIN, timeout_s=6 * 3600, show=_finish)
def train(
    folder: Path,
    table: StageRef,
    normalized: StageRef,
    model: Model,
    training: Training,
    machine: Machine,
) -> Facts:
    """Train the recipe's network: `untrained.safetensors`, `model.safetensors`, `history.json`.

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
        rows, validation = _read_rows(table, normalized, device)
        checkpoint = _checkpoint(output_name(folder))
        trainer = Trainer(
            network.to(device), training, machine.precision, (height, width), checkpoint
        )
        fitted = _fit(trainer, rows, validation)
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
