"""Augmented images: within their bounds, reproducible, and the identity for zeros."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline_config.recipe import Augmentation
from tasks.model.augmentation import NUM_FIELDS, Augmenter
from tasks.model.network import generator_of

NOTHING = {
    "shift_px": 0.0,
    "rotation_deg": 0.0,
    "scale": 0.0,
    "shear": 0.0,
    "elastic_px": 0.0,
    "elastic_sigma_px": 4.0,
}


def augmenter(height: int = 28, width: int = 28, seed: int = 0, **numbers: float) -> Augmenter:
    return Augmenter(Augmentation(**(NOTHING | numbers)), seed, (height, width))


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


def test_without_choices_it_is_the_identity() -> None:
    moved = augmenter()(digits(), 0, 10)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, digits().float(), atol=1e-2, rtol=0)


def test_images_that_are_not_square_keep_their_axes() -> None:
    images = torch.randint(0, 255, (5, 12 * 20), dtype=torch.uint8)
    moved = augmenter(12, 20)(images, 0, 10)
    torch.testing.assert_close(moved, images.float(), atol=1e-2, rtol=0)


def test_a_shift_stays_within_its_pixels() -> None:
    moved = augmenter(shift_px=3)(digits(500), 0, 10)
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
    moved = augmenter(**numbers)(digits(), 0, 10)
    mass = moved.sum(dim=1) / digits().float().sum(dim=1)
    assert not torch.allclose(moved, digits().float(), atol=1.0)
    assert bool(((mass - 1).abs() > 0.05).any()) == changes_mass
    torch.testing.assert_close(centres(moved), centres(digits()), atol=0.2, rtol=0)


def affine_px(numbers: dict[str, float], height: int, width: int) -> torch.Tensor:
    """What one drawn map does to a step of a pixel: (2, 2), from where to where, x and y.

    Of two images whose pixels say their x and their y, the moved ones say where each comes from.
    """
    places_2HW = torch.stack(
        torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    )
    middle = (slice(height // 2 - 2, height // 2 + 2), slice(width // 2 - 2, width // 2 + 2))
    rows = []
    for image in places_2HW:
        augment = augmenter(height, width, **numbers)
        (moved,) = augment(image.to(torch.uint8).view(1, -1), 0, 10)
        inner = moved.view(height, width)[middle]
        rows.append([inner.diff(dim=1).mean(), inner.diff(dim=0).mean()])
    return torch.tensor(rows)


@pytest.mark.parametrize("shape", [(28, 28), (24, 40), (60, 20)])
def test_a_rotation_turns_both_axes_by_the_same_angle(shape: tuple[int, int]) -> None:
    turned = affine_px({"rotation_deg": 30}, *shape)
    angle = torch.atan2(turned[1, 0], turned[0, 0])
    assert 0.1 < angle.abs() < 0.53
    right = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    torch.testing.assert_close(turned, right, atol=1e-4, rtol=0)
    # The same draw whatever the shape of the image.
    torch.testing.assert_close(turned, affine_px({"rotation_deg": 30}, 28, 28), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(24, 40), (60, 20)])
def test_a_shear_is_in_pixels(shape: tuple[int, int]) -> None:
    sheared = affine_px({"shear": 0.3}, *shape)
    torch.testing.assert_close(sheared, affine_px({"shear": 0.3}, 28, 28), atol=1e-4, rtol=0)
    assert abs(sheared[0, 1]) > 0.05 and sheared[1, 0].abs() < 1e-4


def in_units_of_the_grid(
    augment: Augmenter, count: int, generator: torch.Generator
) -> torch.Tensor:
    """The affine maps by the formula that is right for square images alone, as it once was."""
    choice = augment.choice
    even = torch.rand(count, 6, generator=generator) * 2 - 1
    angle = even[:, 0] * math.radians(choice.rotation_deg)
    wide, tall = 1 + even[:, 1] * choice.scale, 1 + even[:, 2] * choice.scale
    shear = even[:, 3] * choice.shear
    right = even[:, 4] * choice.shift_px * 2 / augment.width
    down = even[:, 5] * choice.shift_px * 2 / augment.height
    cosine, sine = angle.cos(), angle.sin()
    rows = (
        torch.stack([cosine * wide, (shear * cosine - sine) * wide, right], dim=1),
        torch.stack([sine * tall, (cosine + shear * sine) * tall, down], dim=1),
    )
    return torch.stack(rows, dim=1)


def test_square_images_keep_their_bits() -> None:
    numbers = {"shift_px": 2.0, "rotation_deg": 33.0, "scale": 0.2, "shear": 0.3}
    for side in (8, 28, 100):
        augment = augmenter(side, side, **numbers)
        now, once = (torch.Generator().manual_seed(side) for _ in range(2))
        assert torch.equal(augment._affine(64, now), in_units_of_the_grid(augment, 64, once))


def elastic_fields(augment: Augmenter, epoch: int) -> torch.Tensor:
    augment._draw_fields(epoch, torch.device("cpu"))
    return augment.fields_FHW2


@pytest.mark.parametrize(("shape", "sigma"), [((28, 28), 5.0), ((8, 8), 1.3), ((9, 14), 4.0)])
def test_usual_fields_are_drawn_at_once_and_keep_their_bits(
    shape: tuple[int, int], sigma: float
) -> None:
    augment = augmenter(*shape, elastic_px=0.8, elastic_sigma_px=sigma)
    drawn = elastic_fields(augment, 2)
    (height, width), reach = shape, math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel /= kernel.norm()
    size = (2 * NUM_FIELDS, 1, height + 2 * reach, width + 2 * reach)
    noise = torch.randn(size, generator=generator_of(0, "fields", 2))
    smooth = torch.nn.functional.conv2d(noise, kernel.view(1, 1, 1, -1))
    smooth = torch.nn.functional.conv2d(smooth, kernel.view(1, 1, -1, 1))
    fields = smooth.view(NUM_FIELDS, 2, height, width).permute(0, 2, 3, 1)
    assert torch.equal(drawn, fields * 0.8 * torch.tensor([2 / width, 2 / height]))


@pytest.mark.parametrize("num_fields", [16, 40, 101])
def test_fields_in_pieces_are_the_fields_at_once(
    num_fields: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.model.augmentation.NUM_FIELDS", num_fields)
    whole = elastic_fields(augmenter(11, 13, elastic_px=1, elastic_sigma_px=7), 0)
    monkeypatch.setattr("tasks.model.augmentation.NOISE_BYTES", 1)
    pieces = elastic_fields(augmenter(11, 13, elastic_px=1, elastic_sigma_px=7), 0)
    torch.testing.assert_close(pieces, whole, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("shape", "sigma"), [((28, 28), 100.0), ((1000, 1000), 1.0), ((6000, 6000), 0.1)]
)
def test_elastic_noise_takes_bounded_memory(
    shape: tuple[int, int], sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    class Enough(Exception):
        pass

    def measured(*size: int, generator: torch.Generator) -> torch.Tensor:
        drawn.append(4 * math.prod(size))
        raise Enough

    monkeypatch.setattr("tasks.model.augmentation.torch.randn", measured)
    augment = augmenter(*shape, elastic_px=1, elastic_sigma_px=sigma)
    with pytest.raises(Enough):
        elastic_fields(augment, 0)
    image = math.prod(side + 2 * math.ceil(3 * sigma) for side in shape)
    assert drawn[0] <= max(2 * 4 * 16 * image, 1 << 28)
    assert augment.fields_FHW2.nbytes <= max(2 * 4 * math.prod(shape), 1 << 30)


def test_elastic_fields_move_pixels_as_far_as_they_say() -> None:
    augment = augmenter(elastic_px=1.5)
    augment(digits(), 0, 10)
    moved_px = augment.fields_FHW2 * 28 / 2
    assert moved_px.square().mean().sqrt().item() == pytest.approx(1.5, rel=0.02)
    neighbours = (moved_px[:, 1:] - moved_px[:, :-1]).square().mean().sqrt()
    assert neighbours < 0.5


def test_chance_is_a_function_of_seed_and_step() -> None:
    numbers = {"shift_px": 2.0, "rotation_deg": 10.0, "elastic_px": 0.5}
    first, again = (augmenter(**numbers) for _ in range(2))
    ahead = first(digits(), 25, 10)
    assert torch.equal(again(digits(), 25, 10), ahead)
    assert not torch.equal(again(digits(), 26, 10), ahead)
    other = augmenter(seed=1, **numbers)
    assert not torch.equal(other(digits(), 25, 10), ahead)


def test_pixels_stay_pixels() -> None:
    images = torch.randint(0, 256, (64, 784), dtype=torch.uint8)
    moved = augmenter(scale=0.3, shear=0.3, elastic_px=2)(images, 0, 10)
    assert 0 <= moved.min() <= moved.max() <= 255.01
