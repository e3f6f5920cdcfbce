"""Pixels under masks, also where nerfstudio's own sampler ends in an error."""

from __future__ import annotations

import torch
from jaxtyping import Int
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import Tensor


class MaskSampler(PixelSampler):
    """nerfstudio's sampler, also for the mask of a single picture and for masks of fewer pixels than a batch."""

    def sample_method(
        self,
        batch_size: int,
        num_images: int,
        image_height: int,
        image_width: int,
        mask: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, "batch_size 3"]:
        """(batch_size, 3) picture, row and column; anywhere if the mask is black (an evaluation picture may be)."""
        try:
            return super().sample_method(batch_size, num_images, image_height, image_width, mask, device)
        except ValueError:  # nerfstudio draws small masks without replacement
            if mask is None:
                raise
            pixels = torch.nonzero(mask[..., 0] if bool(mask.any()) else torch.ones_like(mask[..., 0])).to(device)
            return pixels[torch.randint(len(pixels), (batch_size,), device=device)]

    def rejection_sample_mask(
        self,
        mask: Tensor,
        num_samples: int,
        num_images: int,
        image_height: int,
        image_width: int,
        device: torch.device | str,
    ) -> Int[Tensor, "num_samples 3"]:
        """(num_samples, 3) picture, row and column within the mask."""
        if num_images > 1:
            return super().rejection_sample_mask(mask, num_samples, num_images, image_height, image_width, device)
        # nerfstudio squeezes away the axis of a single picture: it gets the mask twice.
        twice = mask.expand(2, *mask.shape[1:])
        indices = super().rejection_sample_mask(twice, num_samples, 1, image_height, image_width, device)
        indices[:, 0] = 0
        return indices
