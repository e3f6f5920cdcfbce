"""Whether the object lies in the scene box: what structure-from-motion points and the cameras' focus say about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import focus_of_attention
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from torch import Tensor

from sasnet_ns.data.camera_file import camera_file, read_camera_file
from sasnet_ns.data.frames import outputs_to_scene
from sdf_tools.geometry import Mesh, PointCloud

PARALLEL = 1e-3
"""Least eigenvalue of the mean of I - d d^T over viewing directions d (some 2 degrees) that still gives a focus."""
BETTER = 0.15
"""By how large a share of the points another centre has to be better before it is spoken of."""


def directions_meet(poses: Float[np.ndarray, "N 4 4"]) -> bool:
    """Whether cameras look in directions different enough for the point that they look at to be determined."""
    directions = poses[:, :3, 2] / np.linalg.norm(poses[:, :3, 2], axis=1, keepdims=True)
    mean = np.eye(3) - directions.T @ directions / len(directions)
    return bool(np.linalg.eigvalsh(mean)[0] > PARALLEL)


def center_of(parser: NerfstudioDataParserConfig) -> Any:
    """The way to centre a scene that works: ``poses`` in place of ``focus`` where cameras look in one direction."""
    if parser.center_method != "focus":
        return parser.center_method
    frames = read_camera_file(camera_file(parser))["frames"]
    poses = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)
    return "focus" if directions_meet(poses) else "poses"


def box_advice(outputs: DataparserOutputs, parser: Any) -> str | None:
    """A sentence for a scene whose object is cut off by its box although another centre would hold it; None if not.

    Args:
        outputs: the training pictures of ``nerfstudio-data``.
        parser: its configuration; for other parsers there is nothing to say.
    """
    if not isinstance(parser, NerfstudioDataParserConfig):
        return None
    low, high = outputs.scene_box.aabb
    cameras = outputs.cameras.camera_to_worlds
    points = sparse_points(outputs, parser)
    focus = _focus(cameras)
    if points is not None and len(points):
        share = _inside(points, low, high)
        for method, center in (("focus", focus), ("poses", cameras[:, :, 3].mean(dim=0))):
            if center is None or not parser.auto_scale_poses or method == parser.center_method:
                continue
            scale = (cameras[:, :, 3] - center).abs().max()
            other = _inside((points - center) / scale, low, high)
            if other > share + BETTER:
                return (
                    f"Only {share:.0%} of the structure-from-motion points lie in the scene box, and nothing is built "
                    f"outside; with 'nerfstudio-data --center-method {method}' they would be {other:.0%}."
                )
        if share < 0.5:
            return (
                f"Only {share:.0%} of the structure-from-motion points lie in the scene box, and nothing is built "
                "outside; 'nerfstudio-data --scene-scale 2' makes it twice as large."
            )
    elif focus is not None and bool(((focus < low * 0.6) | (focus > high * 0.6)).any()):
        where = ", ".join(f"{value:.2f}" for value in focus)
        return (
            f"The cameras look at ({where}), which is at the edge of the scene box or outside, and nothing is built "
            "outside; 'nerfstudio-data --center-method focus' puts it into the middle."
        )
    return None


def sparse_points(outputs: DataparserOutputs, parser: NerfstudioDataParserConfig) -> Float[Tensor, "N 3"] | None:
    """The data set's structure-from-motion points in scene coordinates, whether or not they are trained with."""
    found = outputs.metadata.get("points3D_xyz")
    if found is not None:
        return found
    from sdf_tools.io.loading import load

    path = camera_file(parser)
    name = read_camera_file(path).get("ply_file_path")
    if name is None or not (path.parent / name).is_file():
        return None
    try:
        shape = load(path.parent / name)
    except (OSError, ValueError):
        return None  # advice is not worth an end
    points = shape.points if isinstance(shape, PointCloud) else shape.vertices if isinstance(shape, Mesh) else None
    if points is None:
        return None
    to_scene = outputs_to_scene(outputs, parser)
    return (points.double() @ to_scene[:, :3].T + to_scene[:, 3]).float()


def _focus(cameras: Float[Tensor, "N 3 4"]) -> Float[Tensor, "3"] | None:
    whole = torch.eye(4).repeat(len(cameras), 1, 1)
    whole[:, :3] = cameras
    middle = cameras[:, :, 3].mean(dim=0)
    if not directions_meet(whole.double().numpy()):
        return None
    focus = focus_of_attention(whole, middle)
    # Where cameras look outwards nerfstudio gives back what it was given.
    return None if torch.equal(focus, middle) or not bool(torch.isfinite(focus).all()) else focus


def _inside(points: Float[Tensor, "N 3"], low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> float:
    return float(((points > low) & (points < high)).all(dim=1).double().mean())
