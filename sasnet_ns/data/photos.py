"""Photographs with masks, and batches of their pixels that a resumed run draws again exactly."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from sasnet_ns.data.dtu_dataparser import FOREGROUND_MASKS
from sasnet_ns.data.poses import check_poses


class ForegroundDataset(InputDataset):
    """Pictures whose foreground mask, where the dataparser names one, becomes their alpha channel.

    nerfstudio's models blend four-channel pictures with their background colour, so that a model learns that there is
    nothing outside the mask. (nerfstudio's own ``mask_filenames`` mean something else: pixels outside are never drawn.)
    """

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The (H, W, 3) or (H, W, 4) picture."""
        from PIL import Image

        picture = super().get_numpy_image(image_idx)
        names: list[Path] | None = self.metadata.get(FOREGROUND_MASKS)
        if names is None:
            return picture
        mask = Image.open(names[image_idx]).convert("L")
        height, width = picture.shape[:2]
        if mask.size != (width, height):
            mask = mask.resize((width, height), Image.Resampling.BILINEAR)
        return np.concatenate([picture[..., :3], np.asarray(mask, dtype=np.uint8)[..., None]], axis=-1)


@dataclass
class PhotoDataManagerConfig(VanillaDataManagerConfig):
    """Configuration of the datamanager for photographs."""

    _target: type = field(default_factory=lambda: PhotoDataManager)
    """Class to build."""
    seed: int = 0
    """Seed of the pixels drawn, and of all else that is random in a step; a step depends on it and its number alone."""


class PhotoDataManager(VanillaDataManager[ForegroundDataset]):
    """nerfstudio's own datamanager, made reproducible: the random state of a step does not depend on the steps before.

    A resumed run therefore draws what an uninterrupted one would have drawn (as long as all pictures are cached, the
    default).
    """

    config: PhotoDataManagerConfig

    def __init__(self, config: PhotoDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        data = config.data if config.data is not None else config.dataparser.data
        if not Path(data).exists():
            raise SystemExit(f"There is no data at '{data}'; give its folder with --data.")
        try:
            check_poses(Path(data))
        except ValueError as error:
            raise SystemExit(str(error)) from None
        super().__init__(config, *args, **kwargs)

    def setup_train(self) -> None:
        """Load the training pictures, always in the same order."""
        random.seed(self.config.seed)
        super().setup_train()

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Pixels of a training step, as rays and colours; in training, seeds the global random state with the step.

        ns-export asks for step 0 over and over and must get other pixels each time.
        """
        if self.test_mode != "val":
            return super().next_train(step)
        seed = mix_seed(self.config.seed, step * self.world_size + self.local_rank)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return super().next_train(step)


def mix_seed(seed: int, step: int) -> int:
    """A 32-bit seed from two integers (the finaliser of SplitMix64): torch's CPU generator ignores higher bits."""
    mask = (1 << 64) - 1
    state = (seed * 0x9E3779B97F4A7C15 + step + 1) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return (state ^ (state >> 31)) & 0xFFFFFFFF
