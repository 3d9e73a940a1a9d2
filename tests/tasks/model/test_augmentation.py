"""Moved images: within their bounds, reproducible, and the identity where nothing is asked for."""

from __future__ import annotations

import pytest
import torch

from pipeline_config.recipe import Augmentation, Training
from pipeline_config.recipe_files import load_recipe
from tasks.model.augmentation import Augmenter
from tasks.runtime.errors import ConfigError

NOTHING = {
    "shift_px": 0.0,
    "rotation_deg": 0.0,
    "scale": 0.0,
    "shear": 0.0,
    "elastic_px": 0.0,
    "elastic_sigma_px": 4.0,
}


def training(seed: int = 0, **numbers: float) -> Training:
    choice = Augmentation(**(NOTHING | numbers))
    return load_recipe("fast").training.model_copy(update={"augmentation": choice, "seed": seed})


def digits(num_images: int = 50, side: int = 28) -> torch.Tensor:
    """A bright square in the middle of each image."""
    images = torch.zeros(num_images, side, side, dtype=torch.uint8)
    images[:, 10:18, 10:18] = 200
    return images.view(num_images, -1)


def centres(images: torch.Tensor) -> torch.Tensor:
    """The centre of mass of each image: (B, 2), row and column."""
    images = images.view(-1, 28, 28).double()
    mass = images.sum(dim=(1, 2))
    places = torch.arange(28, dtype=torch.float64)
    rows = (images.sum(dim=2) * places).sum(dim=1) / mass
    columns = (images.sum(dim=1) * places).sum(dim=1) / mass
    return torch.stack([rows, columns], dim=1)


def test_nothing_asked_for_is_the_identity() -> None:
    moved = Augmenter(training(), (28, 28))(digits(), 0, 10)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, digits().float(), atol=1e-2, rtol=0)


def test_images_that_are_not_square_keep_their_axes() -> None:
    images = torch.randint(0, 255, (5, 12 * 20), dtype=torch.uint8)
    moved = Augmenter(training(), (12, 20))(images, 0, 10)
    torch.testing.assert_close(moved, images.float(), atol=1e-2, rtol=0)


def test_a_shift_stays_within_its_pixels() -> None:
    moved = Augmenter(training(shift_px=3), (28, 28))(digits(500), 0, 10)
    distance = (centres(moved) - centres(digits(1))).abs()
    assert 2.5 < distance.max() <= 3.0 + 1e-3
    assert distance.mean().item() == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize(
    ("numbers", "changes_mass"),
    [({"rotation_deg": 20}, False), ({"shear": 0.2}, False), ({"scale": 0.2}, True)],
)
def test_rotation_and_shear_keep_the_ink_and_scale_does_not(
    numbers: dict[str, float], changes_mass: bool
) -> None:
    moved = Augmenter(training(**numbers), (28, 28))(digits(), 0, 10)
    mass = moved.sum(dim=1) / digits().float().sum(dim=1)
    assert not torch.allclose(moved, digits().float(), atol=1.0)
    assert bool(((mass - 1).abs() > 0.05).any()) == changes_mass
    torch.testing.assert_close(centres(moved), centres(digits()), atol=0.2, rtol=0)


def test_elastic_fields_move_pixels_as_far_as_they_say() -> None:
    augment = Augmenter(training(elastic_px=1.5), (28, 28))
    augment(digits(), 0, 10)
    moved_px = augment.fields_FHW2 * 28 / 2
    assert moved_px.square().mean().sqrt().item() == pytest.approx(1.5, rel=0.02)
    neighbours = (moved_px[:, 1:] - moved_px[:, :-1]).square().mean().sqrt()
    assert neighbours < 0.5


def test_chance_is_a_function_of_seed_and_step() -> None:
    numbers = {"shift_px": 2.0, "rotation_deg": 10.0, "elastic_px": 0.5}
    first, again = (Augmenter(training(**numbers), (28, 28)) for _ in range(2))
    ahead = first(digits(), 25, 10)
    assert torch.equal(again(digits(), 25, 10), ahead)
    assert not torch.equal(again(digits(), 26, 10), ahead)
    other = Augmenter(training(seed=1, **numbers), (28, 28))
    assert not torch.equal(other(digits(), 25, 10), ahead)


def test_pixels_stay_pixels() -> None:
    images = torch.randint(0, 256, (64, 784), dtype=torch.uint8)
    moved = Augmenter(training(scale=0.3, shear=0.3, elastic_px=2), (28, 28))(images, 0, 10)
    assert 0 <= moved.min() <= moved.max() <= 255.01


def test_without_a_shape_there_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="height, width"):
        Augmenter(training(), None)
