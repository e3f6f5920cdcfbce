"""Virtual cameras around a shape, with pictures of its normals: what nerfstudio's viewer and exporters expect."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

Axis = Literal["x", "y", "z"]
OrientedPoints = tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]

FIELD_OF_VIEW = math.radians(40)
ORBIT_RADIUS = 1.6  # box units: the whole domain [-0.5, 0.5]^3 is in view
BACKGROUND = 1.0


def axis_vector(axis: Axis) -> Float[Tensor, "3"]:
    """The unit vector of a coordinate axis."""
    return torch.eye(3)["xyz".index(axis)]


def orbit_cameras(count: int, size: int, up: Axis = "y", first_azimuth: float = 0.0) -> Cameras:
    """Cameras on a circle around the domain, in turn a little above and below its middle, all looking at the centre.

    Args:
        count: how many.
        size: width and height of their pictures in pixels.
        up: the shape's upward axis.
        first_azimuth: where on the circle the first one stands, in radians.

    Returns:
        ``count`` perspective cameras in box units, camera-to-world in OpenGL axes.
    """
    azimuth = first_azimuth + torch.arange(count) * (2 * math.pi / count)
    elevation = torch.where(torch.arange(count) % 2 == 0, math.radians(15), math.radians(-10))
    upward = axis_vector(up)
    # With y up, azimuth 0 looks at the shape from +z, the front of most scans.
    front = axis_vector("y" if up == "z" else "z") * (-1.0 if up == "z" else 1.0)
    side = torch.linalg.cross(upward, front)
    flat = azimuth.cos()[:, None] * front + azimuth.sin()[:, None] * side
    backward = elevation.cos()[:, None] * flat + elevation.sin()[:, None] * upward
    right = torch.nn.functional.normalize(torch.linalg.cross(upward.expand_as(backward), backward), dim=-1)
    poses = torch.stack([right, torch.linalg.cross(backward, right), backward, ORBIT_RADIUS * backward], dim=-1)
    focal = size / 2 / math.tan(FIELD_OF_VIEW / 2)
    return Cameras(
        camera_to_worlds=poses,
        fx=focal,
        fy=focal,
        cx=size / 2,
        cy=size / 2,
        width=size,
        height=size,
        camera_type=CameraType.PERSPECTIVE,
    )


def splat_normals(
    points: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    pose: Float[Tensor, "3 4"],
    focal: float,
    size: int,
) -> Float[Tensor, "size size 3"]:
    """A picture of the surface's world-space normals, (n + 1) / 2, made by drawing surface samples with a depth test.

    Args:
        points: (N, 3) samples of the surface.
        normals: (N, 3) unit normals; samples that face away are not drawn.
        pose: camera-to-world in OpenGL axes.
        focal: focal length in pixels.
        size: width and height in pixels.

    Returns:
        (size, size, 3) in [0, 1]; white where nothing was drawn.
    """
    local = (points - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    column = (focal * local[:, 0] / depth + size / 2).floor().long()
    row = (size / 2 - focal * local[:, 1] / depth).floor().long()
    facing = ((points - pose[:, 3]) * normals).sum(-1) < 0
    seen = facing & (depth > 0) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixel, depth, colors = (row * size + column)[seen], depth[seen], (normals[seen] + 1) / 2
    # Painter's algorithm: with far samples first, the last write of each pixel is the nearest sample.
    order = depth.argsort(descending=True, stable=True)
    last = torch.full((size * size,), -1, dtype=torch.long)
    last.scatter_reduce_(0, pixel[order], torch.arange(len(order)), reduce="amax")
    image = torch.full((size * size, 3), BACKGROUND)
    image[last >= 0] = colors[order[last[last >= 0]]].float()
    return image.reshape(size, size, 3)


class ShapeViews(InputDataset):
    """A nerfstudio dataset of virtual views; the pictures are drawn when they are first asked for.

    Args:
        cameras: the views.
        surface: called once, gives (N, 3) surface samples and their normals in box units, or None if the shape cannot
            be read (a finished run whose input has moved): the pictures are then blank.
        metadata: handed to the model.
        prefix: how the views are called.
    """

    exclude_batch_keys_from_device: list[str] = ["image"]

    def __init__(
        self,
        cameras: Cameras,
        surface: Callable[[], OrientedPoints | None],
        metadata: dict[str, object],
        prefix: str,
    ) -> None:
        box = SceneBox(aabb=torch.tensor([[-0.5] * 3, [0.5] * 3]))
        names = [Path(f"{prefix}_{i:03d}.png") for i in range(len(cameras))]
        super().__init__(DataparserOutputs(names, cameras, scene_box=box, metadata=metadata))
        self._surface = surface
        self._images: dict[int, npt.NDArray[np.uint8]] = {}

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The (H, W, 3) picture of one view: the shape's normals on white."""
        if image_idx not in self._images:
            camera = self.cameras[image_idx]
            size = int(camera.width)
            surface = self._surface()
            if surface is None:
                image = torch.full((size, size, 3), BACKGROUND)
            else:
                points, normals = (part.float().cpu() for part in surface)
                image = splat_normals(points, normals, camera.camera_to_worlds, float(camera.fx), size)
            self._images[image_idx] = (image * 255).round().to(torch.uint8).numpy()
        return self._images[image_idx]
