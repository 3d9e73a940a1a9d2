"""One epoch of 784-128-10 in batches of 64 with SGD: our two engines and their peers, in turn.

Ours go through the project's own loop; the DataLoader loop is the one that tutorials write; the
bare matrix products are the five of a step, in float32 NumPy, on one batch that stays in the
cache: what no implementation can do without.

    python benchmarks/engines.py FOLDER_WITH_RAW_MNIST [ROUNDS]
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from side_by_side import in_turn, print_ratios
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline_config.recipe_files import load_recipe
from tasks.model.network import build_network, initialize
from tasks.model.training import Trainer
from tasks.raw.idx import read_idx
from tasks.runtime.devices import prepared, probe

EPOCHS = 3  # in one call, so that what is done once a call weighs little
BATCH = 64
RATE = 0.1


def ours(engine: str, train: TensorDataset) -> Callable[[], None]:
    """The recipe `digit-classifier` on an engine, without its kept epochs."""
    changes = (f"training.engine={engine}", f"training.epochs={EPOCHS}")
    recipe = load_recipe("digit-classifier", (*changes, "training.keep_epochs=false"))
    nothing = TensorDataset(*train[:0])
    machine = probe("cpu")

    def work() -> None:
        network = build_network(recipe.model, 784, 10, mean=0.0, std=255.0)
        initialize(network, recipe.model, seed=0)
        with prepared(machine):
            shape = (28, 28)
            trainer = Trainer(network, recipe.training, shape, train, nothing, machine.precision)
            trainer.fit(lambda steps, words: None)

    return work


def data_loader_loop(images: torch.Tensor, labels: torch.Tensor) -> None:
    """As tutorials write it."""
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        for batch, truth in loader:
            optimizer.zero_grad()
            loss = loss_of(model(batch), truth)
            loss.backward()
            optimizer.step()


def scikit_learn(images: np.ndarray, labels: np.ndarray) -> None:
    """MLPClassifier with the same network, batches and plain SGD."""
    model = MLPClassifier(
        (128,),
        solver="sgd",
        batch_size=BATCH,
        learning_rate_init=RATE,
        momentum=0.0,
        nesterovs_momentum=False,
        alpha=0.0,
        max_iter=EPOCHS,
    )
    with warnings.catch_warnings(action="ignore"):  # that it has not converged
        model.fit(images, labels)


def products() -> None:
    """Forward twice, back through the second layer, and the two gradients."""
    x, h, z, w1, w2, dw1, dw2 = (
        np.ones(shape, np.float32)
        for shape in (
            (BATCH, 784),
            (BATCH, 128),
            (BATCH, 10),
            (784, 128),
            (128, 10),
            (784, 128),
            (128, 10),
        )
    )
    for _ in range(EPOCHS * -(-60_000 // BATCH)):
        np.dot(x, w1, out=h)
        np.dot(h, w2, out=z)
        np.dot(z, w2.T, out=h)
        np.dot(h.T, z, out=dw2)
        np.dot(x.T, h, out=dw1)


def main(folder: Path, rounds: int) -> None:
    """Read the rows once, as each side wants them, and time."""
    pixels = np.array(read_idx(folder / "train-images-idx3-ubyte")).reshape(-1, 784)
    classes = read_idx(folder / "train-labels-idx1-ubyte").astype(np.int64)
    train = TensorDataset(torch.from_numpy(pixels), torch.from_numpy(classes))
    scaled = (pixels / 255).astype(np.float32)
    scaled_images = torch.from_numpy(scaled)
    works = {
        "our numpy engine": ours("numpy", train),
        "our torch engine": ours("torch", train),
        "DataLoader loop": lambda: data_loader_loop(scaled_images, train.tensors[1]),
        "bare matrix products": products,
        "scikit-learn MLPClassifier": lambda: scikit_learn(scaled, classes),
    }
    in_turn(works, 1)  # imports, threads and caches
    seconds = in_turn(works, rounds)
    per_epoch = {name: [each / EPOCHS for each in column] for name, column in seconds.items()}
    title = f"one epoch of 784-128-10, batch {BATCH}, SGD, on {probe('cpu')}"
    print_ratios(title, per_epoch, ("our numpy engine", "our torch engine"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
