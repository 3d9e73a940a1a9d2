"""Stage train: the rows of a split → the weights of a recipe's network and its temperature.

Axes: N rows, D pixels, C classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import Model, Training
from pipeline_config.settings import settings
from tasks.dataset.table import read_rows, read_split
from tasks.runtime.devices import Machine, prepared
from tasks.runtime.errors import TrainingError
from tasks.runtime.files import canonical_json
from tasks.runtime.show import ProgressArtifact, progress, show_table
from tasks.runtime.stages import TRAIN
from tasks.runtime.store import Facts, StageRef, output_name
from tasks.runtime.task import stage_task

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from tasks.model.training import Trainer

# The bounds of a temperature. A fit beyond them says that something else is wrong.
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float | None:
    """Return the T > 0 that minimises the mean negative log-likelihood of softmax(logits / T).

    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", section 4.2.
    That mean is convex in 1/T, so its derivative has at most one root, which is found by
    bracketing: without a start or a seed. Outside [LOWEST, HIGHEST] the nearer bound is returned.
    None is returned where every label has the highest logit of its row: then there is no minimum.
    Raises TrainingError for NaN and infinity.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    if not np.isfinite(logits_NC).all():
        raise TrainingError("fitting the temperature", found="logits that are not finite")
    exact_NC = logits_NC.astype(np.float64)
    true_N = exact_NC[np.arange(len(labels_N)), labels_N]
    if (true_N == exact_NC.max(axis=1)).all():
        return None

    def slope(inverse: float) -> float:
        """Return the derivative by 1/T: the mean of the expected logit less the label's."""
        expected_N = (softmax(inverse * exact_NC, axis=1) * exact_NC).sum(axis=1)
        return float(np.mean(expected_N - true_N))

    if slope(1 / HIGHEST) >= 0:
        return HIGHEST
    if slope(1 / LOWEST) <= 0:
        return LOWEST
    return 1 / float(brentq(slope, 1 / HIGHEST, 1 / LOWEST, xtol=1e-9))


def calibrate(network: nn.Sequential, validation: TensorDataset) -> float | None:
    """Set the network's temperature to the fitted one, and return it; None if there is none."""
    from tasks.model.network import logits_of

    images, labels = validation.tensors
    logits = logits_of(network.eval(), images)
    fitted = fit_temperature(logits.cpu().numpy(), labels.cpu().numpy())
    if fitted is not None:
        network[-1].get_buffer("temperature").fill_(fitted)
    return fitted


def describe_layers(network: nn.Sequential) -> list[dict[str, object]]:
    """Return name, kind, shape of the weight ([] without one), parameters of each layer."""
    return [
        {
            "name": name,
            "kind": type(layer).__name__,
            "shape": list(getattr(layer, "weight", np.empty(())).shape),
            "parameters": sum(parameter.numel() for parameter in layer.parameters()),
        }
        for name, layer in network.named_children()
    ]


def _read_split(
    table: StageRef, normalized: StageRef, device: torch.device
) -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the validation rows: images uint8 (N, D) and labels int64 (N,)."""
    import torch
    from torch.utils.data import TensorDataset

    split = read_split(normalized)
    arrays = read_rows(table, np.concatenate([split.train, split.validation]))
    images, labels = (torch.from_numpy(array).to(device) for array in arrays)
    num = len(split.train)
    return TensorDataset(images[:num], labels[:num]), TensorDataset(images[num:], labels[num:])


def _fit(trainer: Trainer) -> None:
    """Train to the end, with a progress bar and progress in the Prefect UI."""
    artifact = ProgressArtifact("train-progress", "Training")
    with progress("train", trainer.num_steps, "steps") as advance:

        def report(num_steps: int, words: str) -> None:
            advance(num_steps, words)
            artifact.show(trainer.step / trainer.num_steps)

        trainer.fit(report)


def _checkpoint_of(output: str) -> Path:
    return settings().checkpoints / f"{output}.safetensors"


def _finish(ref: StageRef) -> None:
    """Remove the checkpoint, and attach the layers to the task run."""
    _checkpoint_of(ref.path.name).unlink(missing_ok=True)
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
    from tasks.model.checkpoint import Checkpoint
    from tasks.model.network import build_network, initialize, save_weights
    from tasks.model.training import Trainer

    shape, num_classes = table.facts["image_shape"], table.facts["num_classes"]
    mean, std = normalized.facts["mean"], normalized.facts["std"]
    network = build_network(model, math.prod(shape), num_classes, mean, std)
    initialize(network, model, training.seed)
    save_weights(network.state_dict(), folder / "untrained.safetensors")
    with prepared(machine) as device:
        rows = _read_split(table, normalized, device)
        checkpoint = Checkpoint(_checkpoint_of(output_name(folder)), settings().checkpoint_s)
        network.to(device)
        trainer = Trainer(network, training, shape, *rows, machine.precision, checkpoint)
        _fit(trainer)
        can_calibrate = training.gives_logits and len(trainer.validation) > 0
        temperature = calibrate(network, trainer.validation) if can_calibrate else None
    save_weights(network.state_dict(), folder / "model.safetensors")
    history = [asdict(epoch) for epoch in trainer.history]
    (folder / "history.json").write_bytes(canonical_json(history))
    for number, weights in enumerate(trainer.kept, start=1):
        (folder / "epochs").mkdir(exist_ok=True)
        save_weights(weights, folder / "epochs" / f"{number:03}.safetensors")
    return {
        "num_classes": num_classes,
        "image_shape": shape,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "layers": describe_layers(network),
        "validation_accuracy": trainer.history[trainer.best_epoch - 1].validation_accuracy,
        "epochs": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        "temperature": 1.0 if temperature is None else temperature,
        "calibrated": temperature is not None,
    }
