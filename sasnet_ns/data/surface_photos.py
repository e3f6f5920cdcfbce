"""Photographs with what helps a surface: transparency, masks, depth and normal maps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from sasnet_ns.data.frames import outputs_to_scene, place_points
from sasnet_ns.data.photos import ForegroundDataset, PhotoDataManager, PhotoDataManagerConfig
from sasnet_ns.data.picture_files import open_picture, read_picture
from sasnet_ns.data.samplers import MaskSampler, only_pictures
from sasnet_ns.data.scene_box import box_advice, center_of
from sdf_tools.errors import ShapeError
from sdf_tools.io.limits import array_from

RAYS_FOR_A_DEPTH_MAP = 64
"""Rays of a picture in one step, enough to fit the scale and shift of its depth map to."""
LEAST_MEASURED_RAYS = 16
"""Rays with a depth that a picture needs in one step: a fit of scale and shift to fewer says nothing."""
MEASURED_RAYS = 24
"""Rays with a depth that it should have, so that it rarely has too few."""
MAPS_LOOKED_AT = 8
"""Depth maps by which it is judged how many rays have a depth."""
MOST_FOLDERS = 6
"""Folders above a picture, and its name, by which its normal map may be found."""


class SurfaceDataset(ForegroundDataset):
    """Pictures, RGBA where there is transparency or a foreground mask, with depth and normal maps where there are any.

    Beside ``image``, an item holds ``depth`` (H, W, 1), in scene units along the optical axis, and ``normal``
    (H, W, 3), unit vectors in scene coordinates, zero where unknown. Maps come from the dataparser's metadata
    (``depth_filenames``, ``normal_filenames``: nerfstudio-data and sdfstudio-data) or from a folder of normal maps.

    Args:
        dataparser_outputs: pictures, cameras and files.
        scale_factor: resizing of the pictures.
        normals: folder with a normal map (``.png``) of the same name for each picture, in folders of the same names
            where pictures of several have one; None for none.
        normals_frame: what the folder's maps are relative to.
        to_scene: similarity from the data set's coordinates to the scene's, see
            :func:`~sasnet_ns.data.frames.outputs_to_scene`; None takes the parser's own.

    Raises:
        SystemExit: with one sentence, if a map is missing, or would be that of two pictures.
        ShapeError: a map is damaged or has no colours.
    """

    exclude_batch_keys_from_device = [*ForegroundDataset.exclude_batch_keys_from_device, "depth", "normal"]

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        scale_factor: float = 1.0,
        normals: Path | None = None,
        normals_frame: Literal["scene", "camera"] = "scene",
        to_scene: Float[Tensor, "3 4"] | None = None,
    ) -> None:
        # Some parsers ask for a white background in place of transparency; transparency says more.
        super().__init__(dataclasses.replace(dataparser_outputs, alpha_color=None), scale_factor)
        self.normals = normals
        self.normals_frame = normals_frame
        self.to_scene = dataparser_outputs.dataparser_transform if to_scene is None else to_scene
        if normals is not None:
            missing = [path.name for path in self.image_filenames if not self._normal_map(path).is_file()]
            if missing:
                raise SystemExit(
                    f"There is no normal map for {missing[0]} and {len(missing) - 1} others in '{normals}'."
                )
            users: dict[Path, Path] = {}
            for path in self.image_filenames:
                other = users.setdefault(self._normal_map(path), path)
                if other != path:
                    raise SystemExit(
                        f"The normal map '{self._normal_map(path)}' would be that of two pictures, '{other}' and "
                        f"'{path}'; keep the maps in folders of the pictures' names."
                    )

    def _normal_map(self, picture: Path) -> Path:
        """Of the picture's name, in the same folders below the normal maps if there is one; never the picture."""
        assert self.normals is not None
        parts = picture.absolute().with_suffix(".png").parts[1:]  # the root would lead out of the normal maps
        nested = (self.normals.joinpath(*parts[-depth:]) for depth in range(min(len(parts), MOST_FOLDERS), 1, -1))
        maps = (path for path in nested if path.is_file() and path.resolve() != picture.resolve())
        return next(maps, self.normals / parts[-1])

    def get_metadata(self, data: dict[str, Any]) -> dict[str, Any]:
        """Depth and normals of a picture, where there are any."""
        index: int = data["image_idx"]
        height, width = data["image"].shape[:2]
        found = {}
        depths = self.metadata.get("depth_filenames")
        if depths:
            found["depth"] = self._depth(Path(depths[index]), height, width)
        listed = self.metadata.get("normal_filenames")
        if self.normals is not None:
            picture = self._read_normals(self._normal_map(self.image_filenames[index]))
            found["normal"] = _resize(self._to_scene(picture, index, self.normals_frame), height, width)
        elif listed:
            # Omnidata's maps as sdfstudio keeps them: in OpenCV's axes of the camera.
            picture = torch.from_numpy(_shares(Path(listed[index]))).movedim(0, -1) * 2 - 1
            picture = picture * torch.tensor([1.0, -1.0, -1.0])
            picture = torch.where(picture.isfinite().all(-1, keepdim=True), picture, 0.0)
            found["normal"] = _resize(self._to_scene(picture, index, "camera"), height, width)
        return found

    def _depth(self, path: Path, height: int, width: int) -> Float[Tensor, "H W 1"]:
        scale = self.metadata.get("depth_unit_scale_factor", 1.0) * self._dataparser_outputs.dataparser_scale
        depth = torch.from_numpy(_distances(path).astype(np.float32)) * scale
        depth = depth.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)  # where nothing was measured
        return _resize(depth[..., None], height, width)

    def _read_normals(self, path: Path) -> Float[Tensor, "H W 3"]:
        with open_picture(path) as picture:
            if picture.mode in ("1", "L", "LA") or picture.mode.startswith(("I", "F")):
                raise ShapeError(f"the normal map '{path}' is grey; its colours have to be (n + 1) / 2.")
        pixels = torch.from_numpy(read_picture(path)).float() / 255
        normals = torch.nn.functional.normalize(pixels[..., :3] * 2 - 1, dim=-1)
        return normals * (pixels[..., 3:] > 0.5) if pixels.shape[-1] == 4 else normals

    def _to_scene(self, normals: Float[Tensor, "H W 3"], index: int, frame: str) -> Float[Tensor, "H W 3"]:
        if frame == "camera":
            rotation = self.cameras.camera_to_worlds[index, :3, :3]
        else:
            turn = self.to_scene[:3, :3]
            rotation = turn / torch.linalg.det(turn).abs() ** (1 / 3)
        return normals @ rotation.to(normals).T


def _distances(path: Path) -> npt.NDArray[np.generic]:
    """(h, w) numbers of a depth map.

    Raises:
        ShapeError: it is missing, damaged or no such map.
    """
    if path.suffix == ".npy":
        found = _array(path, "depth map")
    else:
        import cv2

        try:
            found = cv2.imread(str(path.absolute()), cv2.IMREAD_UNCHANGED)
        except cv2.error:  # .exr, of which OpenCV says that it is switched off
            raise ShapeError(
                f"the depth map '{path}' is of a kind that OpenCV does not read here; make it a .npy."
            ) from None
        if found is None:
            raise ShapeError(f"the depth map '{path}' is missing or damaged.")
    flat = found.reshape([n for n in found.shape if n > 1]) if found.ndim > 2 else found
    if flat.ndim != 2 or flat.dtype.kind not in "fiu":
        raise ShapeError(
            f"the depth map '{path}' holds {found.dtype} of shape {found.shape}; one number for each pixel is wanted."
        )
    return flat


def _shares(path: Path) -> npt.NDArray[np.float32]:
    """(3, h, w) shares of one of a normal map.

    Raises:
        ShapeError: it is missing, damaged or no such map.
    """
    found = _array(path, "normal map")
    seen = found[np.isfinite(found)] if found.dtype.kind == "f" else np.zeros(0)
    if found.ndim != 3 or found.shape[0] != 3 or found.dtype.kind != "f" or np.abs(seen - 0.5).max(initial=0) > 0.51:
        raise ShapeError(
            f"the normal map '{path}' holds {found.dtype} of shape {found.shape}; it has to be (3, rows, columns) of "
            "(n + 1) / 2, from 0 to 1."
        )
    return found.astype(np.float32)


def _array(path: Path, what: str) -> npt.NDArray[np.generic]:
    try:
        with path.open("rb") as stream:
            return array_from(stream, path.stat().st_size, path.name)
    except (OSError, ShapeError):
        raise ShapeError(f"the {what} '{path}' is missing or damaged.") from None


def _resize(picture: Float[Tensor, "h w c"], height: int, width: int) -> Float[Tensor, "H W c"]:
    """Nearest neighbours: depths and normals of two surfaces must not mix."""
    if picture.shape[:2] == (height, width):
        return picture
    resized = torch.nn.functional.interpolate(picture.movedim(-1, 0)[None], (height, width), mode="nearest")
    return resized[0].movedim(0, -1)


@dataclass
class SurfaceDataManagerConfig(PhotoDataManagerConfig):
    """Configuration of the datamanager for photographs of a surface."""

    _target: type = field(default_factory=lambda: SurfaceDataManager)
    """Class to build."""
    normals: Path | None = None
    """Folder with a normal map (NAME.png, colours are (n + 1) / 2) for each picture; relative to --data's folder."""
    normals_frame: Literal["scene", "camera"] = "scene"
    """What these maps are relative to: the data set's coordinates, or each camera's (x right, y up, z backwards)."""
    pictures_per_batch: int | None = None
    """Pictures that the rays of a step come from. None: all, but with depth maps so few that each gets 64 rays, and 24
    where there is a depth, because the scale and shift of a picture's map are fitted to the rays of one step."""


class FewPicturesSampler(MaskSampler):
    """Pixels of a few pictures, other ones in every step.

    Args:
        config: of nerfstudio's sampler.
        pictures: how many.
    """

    def __init__(self, config: PixelSamplerConfig, pictures: int) -> None:
        super().__init__(config)
        self.pictures = pictures

    def collate_image_dataset_batch(
        self, batch: dict[str, Any], num_rays_per_batch: int, keep_full_image: bool = False
    ) -> dict[str, Any]:
        """Pixels of pictures of one size."""
        if "mask" in batch or self.config.is_equirectangular or self.config.fisheye_crop_radius is not None:
            batch = self._few(batch)
        return super().collate_image_dataset_batch(batch, num_rays_per_batch, keep_full_image)  # type: ignore[no-any-return]

    def collate_image_dataset_batch_list(
        self, batch: dict[str, Any], num_rays_per_batch: int, keep_full_image: bool = False
    ) -> dict[str, Any]:
        """Pixels of pictures of several sizes."""
        return super().collate_image_dataset_batch_list(self._few(batch), num_rays_per_batch, keep_full_image)

    def _few(self, batch: dict[str, Any]) -> dict[str, Any]:
        number = len(batch["image"])
        if self.pictures >= number:
            return batch
        order = torch.randperm(number)
        if "mask" in batch and not any(bool(batch["mask"][i].any()) for i in order[: self.pictures].tolist()):
            seen = torch.tensor([bool(batch["mask"][i].any()) for i in order.tolist()])
            order = torch.cat([order[seen], order[~seen]])
        return only_pictures(batch, order[: self.pictures])

    def sample_method(
        self,
        batch_size: int,
        num_images: int,
        image_height: int,
        image_width: int,
        mask: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, "batch_size 3"]:
        """(batch_size, 3) picture, row and column of pixels."""
        indices = super().sample_method(batch_size, num_images, image_height, image_width, mask, device)
        if mask is None and self.pictures < num_images:
            chosen = torch.randperm(num_images, device=indices.device)[: self.pictures]
            indices[:, 0] = chosen[torch.randint(len(chosen), (len(indices),), device=indices.device)]
        return indices


class SurfaceDataManager(PhotoDataManager):
    """:class:`PhotoDataManager` with transparency, depth and normal maps, see :class:`SurfaceDataset`."""

    config: SurfaceDataManagerConfig

    def look_through(self, parser: DataParserConfig) -> None:
        """The checks of the folder, and a centre of the scene that its cameras allow."""
        super().look_through(parser)
        if isinstance(parser, NerfstudioDataParserConfig):
            parser.center_method = center_of(parser)

    def setup_train(self) -> None:
        """Load the training pictures; rays come from ``pictures_per_batch`` of them."""
        super().setup_train()
        pictures = self.config.pictures_per_batch
        if self.train_dataset.metadata.get("depth_filenames"):
            pictures = self._pictures_for_depths()
        sampler = self.train_pixel_sampler
        if pictures is not None and type(sampler) is MaskSampler:  # not that of patches
            self.train_pixel_sampler = FewPicturesSampler(sampler.config, pictures)

    def _pictures_for_depths(self) -> int:
        """``pictures_per_batch``, or else so few that each has rays enough with a depth; said where that is impossible.

        Pixels count that may be drawn and show the object, as the loss counts them.
        """
        config, number = self.config, len(self.train_dataset)
        drawn = measured = 0
        for index in np.unique(np.linspace(0, number - 1, MAPS_LOOKED_AT).astype(int)).tolist():
            item = self.train_dataset[index]
            inside = item.get("mask", torch.ones_like(item["depth"], dtype=torch.bool))
            known = inside & (item["depth"] > 0)
            if item["image"].shape[-1] == 4:
                known &= item["image"][..., 3:] > 0.5
            drawn, measured = drawn + int(inside.sum()), measured + int(known.sum())
        share = measured / drawn if drawn else 1.0
        rays, pictures = config.train_num_rays_per_batch, config.pictures_per_batch
        if pictures is None:
            pictures = max(1, int(min(rays / RAYS_FOR_A_DEPTH_MAP, rays * share / MEASURED_RAYS)))
        each = rays / min(pictures, number)
        if each * share < LEAST_MEASURED_RAYS and self.test_mode == "val":
            fewer = " or fewer pictures (--pipeline.datamanager.pictures-per-batch)" if pictures > 1 else ""
            CONSOLE.print(
                f"[yellow]Of the {each:.0f} rays of a picture in a step, about {each * share:.0f} have a depth; depth "
                f"maps up to scale and shift count from {LEAST_MEASURED_RAYS} on. More rays "
                f"(--pipeline.datamanager.train-num-rays-per-batch){fewer} make them count.",
                highlight=False,
            )
        return pictures

    # cached_property: nerfstudio's viewer reads every plain property.
    @cached_property
    def dataset_type(self) -> type[SurfaceDataset]:  # type: ignore[override]
        """The class of both datasets."""
        return SurfaceDataset

    def create_train_dataset(self) -> ForegroundDataset:
        """The training pictures, and their points where their cameras see them."""
        place_points(self.train_dataparser_outputs, self.config.dataparser)
        dataset = super().create_train_dataset()
        advice = box_advice(self.train_dataparser_outputs, self.config.dataparser) if self.test_mode == "val" else None
        if advice is not None:
            CONSOLE.print(f"[yellow]{advice}", highlight=False)
        return dataset

    def make_dataset(self, outputs: DataparserOutputs) -> SurfaceDataset:
        """A dataset of one split's outputs."""
        config, normals = self.config, self.config.normals
        if normals is not None and config.data is not None:
            normals = (config.data.parent if config.data.suffix == ".json" else config.data) / normals
        to_scene = outputs_to_scene(outputs, config.dataparser)
        return SurfaceDataset(outputs, config.camera_res_scale_factor, normals, config.normals_frame, to_scene)
