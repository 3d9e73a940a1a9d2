"""Small networks: one thread is faster than two that wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def diverging() -> tuple[str, ...]:
    """Changes to the recipe `fast` with which its loss stops being a number."""
    return (
        "training.optimizer.name=sgd",
        "training.optimizer.learning_rate=10",
        "training.loss=mse",
        "training.label_smoothing=0",
        "model.batch_norm=false",
        "training.schedule={name: constant, warmup: 0}",
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
