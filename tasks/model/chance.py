"""Where chance comes from: a function of the recipe's seed, a purpose and a place in the training.

No generator is carried from step to step, so a training that is resumed at step 1,000 draws what it
would have drawn there anyway, and a checkpoint has no generator to save.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

Purpose = Literal["order", "dropout", "warp", "fields"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def seed_of(seed: int, purpose: Purpose, place: int) -> int:
    """Thirty-two mixed bits for one purpose at one place (a step or an epoch)."""
    mixed = np.random.SeedSequence((seed, PURPOSES.index(purpose), place))
    return int(mixed.generate_state(1)[0])


def generator_of(seed: int, purpose: Purpose, place: int) -> torch.Generator:
    """A fresh generator on the CPU for one purpose at one place."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, place))
