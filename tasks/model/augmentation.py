"""Random shifts, affine maps and elastic distortions of training images, new in each epoch.

Axes: B images of a batch, H × W pixels, D = H·W, F elastic fields, P a piece of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_config.recipe import Augmentation
from tasks.model.network import generator_of

# So many elastic fields are drawn once an epoch; each image takes one at random. There are fewer
# for images above 181×181 pixels: the memory of all fields is bounded, and so is a piece's noise.
NUM_FIELDS = 4096
FIELDS_BYTES, NOISE_BYTES = 1 << 30, 1 << 28
# torch draws normal numbers 16 at a time, so pieces of so many fields have the bits of the whole.
DRAWN_TOGETHER = 16


class Augmenter:
    """Moves batches of images of one shape (H, W). Depends on the seed and the step alone."""

    def __init__(self, choice: Augmentation, seed: int, image_shape: tuple[int, int]) -> None:
        self.choice, self.seed = choice, seed
        self.height, self.width = image_shape
        self.epoch = -1
        self.num_fields = min(NUM_FIELDS, max(1, FIELDS_BYTES // (8 * self.height * self.width)))
        self.fields_FHW2 = torch.zeros(0)

    def __call__(self, images_BD: Tensor, step: int, steps_per_epoch: int) -> Tensor:
        """Return float32 (B, D), 0 to 255, for uint8 (B, D): sampled bilinearly, 0 outside."""
        generator = generator_of(self.seed, "warp", step)
        images = images_BD.view(-1, 1, self.height, self.width).float()
        matrices_B23 = self._affine(len(images), generator).to(images.device)
        grid_BHW2 = functional.affine_grid(matrices_B23, list(images.shape), align_corners=False)
        if self.choice.elastic_px:
            self._draw_fields(step // steps_per_epoch, images.device)
            chosen = torch.randint(self.num_fields, (len(images),), generator=generator)
            grid_BHW2 += self.fields_FHW2[chosen.to(images.device)]
        moved = functional.grid_sample(images, grid_BHW2, mode="bilinear", align_corners=False)
        return moved.view(len(images), -1)

    def _affine(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Return random rotations, scalings, shears and shifts: float32 (B, 2, 3), in grid units.

        The grid runs from -1 to 1 over the image, so that a pixel is 2/width wide and 2/height
        tall. A term that carries one axis into the other changes its unit.
        """
        choice = self.choice
        even_B6 = torch.rand(num_images, 6, generator=generator) * 2 - 1
        angle = even_B6[:, 0] * math.radians(choice.rotation_deg)
        wide, tall = 1 + even_B6[:, 1] * choice.scale, 1 + even_B6[:, 2] * choice.scale
        shear = even_B6[:, 3] * choice.shear
        right = even_B6[:, 4] * choice.shift_px * 2 / self.width
        down = even_B6[:, 5] * choice.shift_px * 2 / self.height
        cosine, sine = angle.cos(), angle.sin()
        across = (shear * cosine - sine) * wide * (self.height / self.width)
        along = sine * tall * (self.width / self.height)
        upright = (cosine + shear * sine) * tall
        numbers = [cosine * wide, across, right, along, upright, down]
        return torch.stack(numbers, dim=1).view(-1, 2, 3)

    def _draw_fields(self, epoch: int, device: torch.device) -> None:
        """Set the displacements of an epoch: float32 (F, H, W, 2), in grid units.

        Simard et al. 2003, section 2: noise smoothed by a Gaussian; here scaled so that the root
        mean square of a displacement, along each axis, is `elastic_px`.
        """
        if epoch == self.epoch:
            return
        self.epoch = epoch
        sigma = self.choice.elastic_sigma_px
        reach = math.ceil(3 * sigma)
        places = torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.exp(-(places**2) / (2 * sigma**2))
        kernel /= kernel.norm()  # so that smoothed noise keeps the variance 1
        generator = generator_of(self.seed, "fields", epoch)
        shape = (self.height + 2 * reach, self.width + 2 * reach)
        piece = max(1, NOISE_BYTES // (8 * math.prod(shape)) // DRAWN_TOGETHER) * DRAWN_TOGETHER
        pixel = torch.tensor([2 / self.width, 2 / self.height])
        self.fields_FHW2 = torch.empty(self.num_fields, self.height, self.width, 2, device=device)
        for fields_PHW2 in torch.split(self.fields_FHW2, piece):
            noise = torch.randn(2 * len(fields_PHW2), 1, *shape, generator=generator)
            smooth = functional.conv2d(noise, kernel.view(1, 1, 1, -1))
            smooth = functional.conv2d(smooth, kernel.view(1, 1, -1, 1))
            moves = smooth.view(-1, 2, self.height, self.width).permute(0, 2, 3, 1)
            fields_PHW2.copy_(moves * self.choice.elastic_px * pixel)
