"""Pixels under masks and of pictures of several sizes, also where nerfstudio's own sampler ends in an error."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import Tensor


def only_pictures(batch: dict[str, Any], chosen: Int[Tensor, " n"]) -> dict[str, Any]:
    """A batch of pictures (tensors, or lists of pictures of several sizes) without all but those ``chosen``."""
    return {
        key: [value[i] for i in chosen.tolist()]
        if isinstance(value, list)
        else value[chosen.to(value.device)]
        if isinstance(value, Tensor)
        else value
        for key, value in batch.items()
    }


class MaskSampler(PixelSampler):
    """nerfstudio's sampler, also for the mask of a single picture, for masks of fewer pixels than a batch, and for
    pictures of several sizes that have maps."""

    def collate_image_dataset_batch_list(
        self, batch: dict[str, Any], num_rays_per_batch: int, keep_full_image: bool = False
    ) -> dict[str, Any]:
        """Pixels of a list of pictures; of other lists of (H, W, C) maps the same pixels."""
        number, most = len(batch["image"]), max(1, num_rays_per_batch // 2)
        if number > most:  # nerfstudio draws two pixels of each, and never any of the last ones
            batch = only_pictures(batch, torch.randperm(number)[:most])
        own = ("image", "mask", "depth_image")
        maps = {key: value for key, value in batch.items() if isinstance(value, list) and key not in own}
        rest = {key: value for key, value in batch.items() if key not in maps}
        found: dict[str, Any] = super().collate_image_dataset_batch_list(rest, num_rays_per_batch, keep_full_image)
        picture, y, x = found["indices"].cpu().unbind(1)
        place = (picture[:, None] == batch["image_idx"].cpu()).int().argmax(1)
        for key, pictures in maps.items():
            values = torch.empty(len(place), pictures[0].shape[-1], dtype=pictures[0].dtype)
            for i in place.unique().tolist():
                rows = place == i
                values[rows] = pictures[i][y[rows], x[rows]].to(values)
            found[key] = values
        return found

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
        if num_images == 1:
            # nerfstudio squeezes away the axis of a single picture: it gets the mask twice.
            mask = mask.expand(2, *mask.shape[1:])
        rejects = self.config.rejection_sample_mask
        try:
            indices = super().rejection_sample_mask(mask, num_samples, num_images, image_height, image_width, device)
            gave_up = rejects and not self.config.rejection_sample_mask
        finally:
            self.config.rejection_sample_mask = rejects
        if gave_up:
            # For good, which a resumed run does not know, and with Python's generator, which no step seeds.
            inside = torch.nonzero(mask[:num_images, ..., 0]).to(device)
            indices = inside[torch.randint(len(inside), (num_samples,), device=device)]
        if num_images == 1:
            indices[:, 0] = 0
        return indices
