"""Photographs with masks, and batches of their pixels that a resumed run draws again exactly."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSampler
from nerfstudio.utils.rich_utils import CONSOLE

from sasnet_ns.data.camera_file import read_by_parser
from sasnet_ns.data.checks import check_camera_file, check_content, check_outputs
from sasnet_ns.data.colmap_model import check_colmap_model
from sasnet_ns.data.dtu_dataparser import FOREGROUND_MASKS
from sasnet_ns.data.frames import complete_outputs
from sasnet_ns.data.oddities import oddities
from sasnet_ns.data.parser_errors import parser_errors
from sasnet_ns.data.picture_files import is_transparent, open_picture, read_mask, read_picture
from sasnet_ns.data.samplers import MaskSampler
from sasnet_ns.data.terminal import end_on_interrupt, quiet_loaders
from sdf_tools.errors import ShapeError


class ForegroundDataset(InputDataset):
    """Pictures whose foreground mask, where the dataparser names one, becomes their alpha channel.

    nerfstudio's models blend four-channel pictures with their background colour, so that a model learns that there is
    nothing outside the mask. (nerfstudio's own ``mask_filenames`` mean something else: pixels outside are never drawn.)
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self._alpha: bool | None = None

    def has_alpha(self) -> bool:
        """Whether a picture has a pixel that is not opaque, or a mask; then all get an alpha channel, 255 at first."""
        if self._alpha is None:
            self._alpha = bool(self.metadata.get(FOREGROUND_MASKS)) or any(map(_transparent, self.image_filenames))
        return self._alpha

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The (H, W, 3) or (H, W, 4) picture; grey, palette and 16-bit ones as colours of 8 bits.

        Raises:
            ShapeError: a picture or its mask is missing or damaged.
        """
        picture = read_picture(self.image_filenames[image_idx], self.has_alpha(), self.scale_factor)
        names: list[Path] | None = self.metadata.get(FOREGROUND_MASKS)
        if names is not None:
            picture[..., 3] = read_mask(names[image_idx], (picture.shape[0], picture.shape[1]))
        return picture

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """A picture with its metadata, and ``mask`` (H, W, 1) where nerfstudio's sampling masks are named.

        nerfstudio wants masks of one channel and of the picture's size; here they may have colours and any size.
        """
        image = self.get_image_float32(image_idx) if image_type == "float32" else self.get_image_uint8(image_idx)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        names = self._dataparser_outputs.mask_filenames
        if names is not None:
            mask = read_mask(names[image_idx], (image.shape[0], image.shape[1]))
            data["mask"] = torch.from_numpy(mask > 127)[..., None]
            if self.mask_color:
                data["image"] = torch.where(data["mask"], image, torch.tensor(self.mask_color).to(image))
        return data | self.get_metadata(data)


def _transparent(path: Path) -> bool:
    with open_picture(path) as picture:
        try:
            return is_transparent(picture)
        except (OSError, SyntaxError, ValueError):  # a damaged one, of which reading it says more
            return True


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
        data = Path(config.data if config.data is not None else config.dataparser.data)
        if not data.exists():
            raise SystemExit(f"There is no data at '{data}'; give its folder with --data.")
        parser = copy.copy(config.dataparser)
        parser.data = data
        # The second of nerfstudio's arguments; rendering along a path ("inference") does without the pictures.
        self.test_mode = kwargs.get("test_mode", args[1] if len(args) > 1 else "val")
        try:
            self.look_through(parser)
            config.dataparser = parser
            with quiet_loaders(), read_by_parser(parser), parser_errors(parser):
                super().__init__(config, *args, **kwargs)
        except ShapeError as error:
            raise SystemExit(f"--data: {error}") from None
        if self.test_mode != "val":
            end_on_interrupt()

    def look_through(self, parser: DataParserConfig) -> None:
        """Refuse a folder that cannot be trained on, before nerfstudio reads it; ``parser`` is a copy to change."""
        check_camera_file(parser, pictures=self.test_mode != "inference")
        if isinstance(parser, ColmapDataParserConfig):
            check_colmap_model(parser)

    def create_train_dataset(self) -> ForegroundDataset:
        """The training pictures, looked through before they are trained on."""
        outputs = self.train_dataparser_outputs
        complete_outputs(outputs, self.config.dataparser)
        self._check(outputs)
        if self.test_mode == "val":
            check_content(outputs, outputs.metadata.get(FOREGROUND_MASKS, ()))
        return self.make_dataset(outputs)

    def create_eval_dataset(self) -> ForegroundDataset:
        """The evaluation pictures."""
        check_camera_file(self.config.dataparser, self.test_split, self.test_mode != "inference")
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        complete_outputs(outputs, self.config.dataparser)
        self._check(outputs)
        if self.test_mode == "val":
            train = self.train_dataparser_outputs
            for sentence in oddities((train, outputs), train.metadata.get(FOREGROUND_MASKS, ())):
                CONSOLE.print(sentence, style="yellow", markup=False, highlight=False)
        return self.make_dataset(outputs)

    def _check(self, outputs: DataparserOutputs) -> None:
        if self.test_mode != "inference":
            check_outputs(outputs, outputs.metadata.get(FOREGROUND_MASKS, ()))

    def make_dataset(self, outputs: DataparserOutputs) -> ForegroundDataset:
        """A dataset of one split's outputs."""
        return ForegroundDataset(outputs, self.config.camera_res_scale_factor)

    def _get_pixel_sampler(self, dataset: ForegroundDataset, num_rays_per_batch: int) -> PixelSampler:
        sampler = super()._get_pixel_sampler(dataset, num_rays_per_batch)
        return MaskSampler(sampler.config) if type(sampler) is PixelSampler else sampler

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
