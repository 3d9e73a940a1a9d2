"""The `selene` tutorial's whole script, as its text has it but for the plots: the peer of `fast`.

784-128-10 with ReLU and log-softmax, raw pixels, NLL, Adam at 0.0001, batches of 64, ten epochs;
after each of them three passes that score: loss on the training rows, macro F1 on them, and macro
F1 on the test rows.

    python benchmarks/tutorial_selene.py FOLDER_WITH_RAW_MNIST
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def read_images(path: Path) -> torch.Tensor:
    """The images of an IDX file as float32 (N, 784), 0 to 255."""
    with path.open("rb") as file:
        _, number, height, width = struct.unpack(">IIII", file.read(16))
        pixels = np.frombuffer(file.read(), dtype=np.uint8)
    return torch.tensor(pixels.reshape(number, height * width), dtype=torch.float32)


def read_labels(path: Path) -> torch.Tensor:
    """The labels of an IDX file as int64 (N,)."""
    with path.open("rb") as file:
        file.read(8)
        return torch.tensor(np.frombuffer(file.read(), dtype=np.uint8), dtype=torch.int64)


class Classifier(nn.Module):
    """784-128-10."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 128)
        self.output = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The log-probabilities of a batch."""
        return nn.functional.log_softmax(self.output(torch.relu(self.hidden(images))), dim=1)


def macro_f1(model: nn.Module, loader: DataLoader) -> float:
    """Macro F1 over everything that the loader gives."""
    truth: list[int] = []
    predicted: list[int] = []
    model.eval()
    with torch.no_grad():
        for images, labels in loader:
            predicted += model(images).argmax(dim=1).tolist()
            truth += labels.tolist()
    return float(f1_score(truth, predicted, average="macro"))


def mean_loss(model: nn.Module, loader: DataLoader, loss_of: nn.Module) -> float:
    """The mean of the batches' losses."""
    losses = []
    model.eval()
    with torch.no_grad():
        for images, labels in loader:
            losses.append(loss_of(model(images), labels).item())
    return sum(losses) / len(losses)


def main(folder: Path) -> None:
    """Train, and print a line an epoch."""
    train, test = (
        TensorDataset(
            read_images(folder / f"{part}-images-idx3-ubyte"),
            read_labels(folder / f"{part}-labels-idx1-ubyte"),
        )
        for part in ("train", "t10k")
    )
    train_loader = DataLoader(train, batch_size=64, shuffle=True)
    test_loader = DataLoader(test, batch_size=64)
    model = Classifier()
    loss_of = nn.NLLLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    print(f"untrained: test macro F1 {macro_f1(model, test_loader):.4f}")
    for epoch in range(1, 11):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
        print(
            f"epoch {epoch}: loss {mean_loss(model, train_loader, loss_of):.4f}, "
            f"train macro F1 {macro_f1(model, train_loader):.4f}, "
            f"test macro F1 {macro_f1(model, test_loader):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
