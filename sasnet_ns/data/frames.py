"""Axes of photographs: COLMAP's, those of ``transforms.json`` and its points, and those a model is trained in.

Of COLMAP's world, ``applied_transform`` A and ``applied_scale`` s make that of the cameras: ``data = s A(colmap)``.
nerfstudio's ``dataparser_transform`` D and ``dataparser_scale`` k are meant to lead from COLMAP's axes to the scene's,
but scale the parser's own shift, and the points, by s as well. The pictures are trained with cameras at
``scene = (k / s) (D A^-1)(data)``, so that is what everything else has to follow.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from torch import Tensor

from sasnet_ns.data.camera_file import camera_file, read_camera_file
from sdf_tools.io.writing import write_atomically

Frame = Literal["data", "colmap"]
FRAME_FILE = "data_frame.json"
"""Beside a run's config.yml: ``applied_transform`` and ``applied_scale`` of its data set, where it has them."""
OLD_COLMAP = [[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
"""What nerfstudio assumes of folders of COLMAP that do not say it."""


def applied_to_data(parser: Any) -> dict[str, Any] | None:
    """What ``transforms.json`` says was applied to COLMAP's axes; None where nothing was or another parser reads.

    Args:
        parser: the parser's configuration, whose file can be read.
    """
    if not isinstance(parser, NerfstudioDataParserConfig):
        return None
    data = Path(parser.data)
    meta = read_camera_file(camera_file(parser))
    transform, scale = meta.get("applied_transform"), float(meta.get("applied_scale", 1.0))
    if transform is None and (data / "colmap/sparse/0").exists():
        transform = OLD_COLMAP
    if transform is None and scale == 1.0:
        return None
    return {"applied_transform": torch.eye(4)[:3].tolist() if transform is None else transform, "applied_scale": scale}


def data_to_scene(
    transform: Float[Tensor, "3 4"], scale: float, applied: dict[str, Any] | None
) -> Float[Tensor, "3 4"]:
    """The similarity from the axes of ``transforms.json`` to those that a model is trained in, float64.

    Args:
        transform: ``dataparser_transform`` of the parser's outputs.
        scale: their ``dataparser_scale``.
        applied: of :func:`applied_to_data`.
    """
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3] = transform[:3].double()
    if applied is None:
        return scale * whole[:3]
    return scale / applied["applied_scale"] * (whole @ torch.linalg.inv(_matrix(applied)))[:3]


def frame_to_scene(
    transform: Float[Tensor, "3 4"], scale: float, applied: dict[str, Any] | None, frame: Frame
) -> Float[Tensor, "3 4"]:
    """:func:`data_to_scene`, or the same from COLMAP's axes."""
    from_data = data_to_scene(transform, scale, applied)
    if frame == "data" or applied is None:
        return from_data
    to_data = _matrix(applied)
    to_data[:3] *= applied["applied_scale"]
    return from_data @ to_data


def place_points(outputs: DataparserOutputs, parser: Any) -> None:
    """Put structure-from-motion points, which nerfstudio scales by ``applied_scale`` once more, beside the cameras."""
    points, applied = outputs.metadata.get("points3D_xyz"), applied_to_data(parser)
    if points is not None and applied is not None:
        outputs.metadata["points3D_xyz"] = points / applied["applied_scale"]


def complete_outputs(outputs: DataparserOutputs, parser: Any) -> None:
    """What parsers leave out, in place.

    The turn of its cameras, which ``sdfstudio-data`` keeps to itself; the pose of a single picture, which
    ``instant-ngp-data`` loses; and rotations get a volume of 1, or lengths along the camera's axes and directions
    turned into the scene would have another unit.
    """
    turn = outputs.metadata.get("transform")
    if isinstance(turn, Tensor):
        outputs.dataparser_transform = turn[:3].clone()
    if isinstance(parser, InstantNGPDataParserConfig) and len(outputs.image_filenames) == 1:
        outputs.cameras = _only_camera(outputs, parser)
    cameras = outputs.cameras
    volume = torch.linalg.det(cameras.camera_to_worlds[:, :, :3].double())
    scaled = (volume > 0) & ((volume - 1).abs() > 1e-3)
    if bool(scaled.any()):
        poses = cameras.camera_to_worlds.clone()
        poses[scaled, :, :3] /= volume[scaled].pow(1 / 3).to(poses)[:, None, None]
        cameras.camera_to_worlds = poses


def _only_camera(outputs: DataparserOutputs, parser: InstantNGPDataParserConfig) -> Cameras:
    """The camera of a single picture, whose pose the parser indexes as if it were the pictures."""
    path, given = camera_file(parser), outputs.cameras
    picture = Path(outputs.image_filenames[0])
    frames = read_camera_file(path)["frames"]
    frame = next(f for f in frames if picture in (path.parent / f["file_path"], path.parent / f"{f['file_path']}.png"))
    pose = torch.tensor(frame["transform_matrix"])[:3]
    pose[:, 3] *= parser.scene_scale
    numbers = (given.fx, given.fy, given.cx, given.cy, given.width, given.height, given.camera_type)
    fx, fy, cx, cy, width, height, kind = (value.flatten()[:1, None] for value in numbers)
    lens = None if given.distortion_params is None else given.distortion_params.reshape(-1, 6)[:1]
    return Cameras(pose[None], fx, fy, cx, cy, width, height, lens, kind)


def outputs_to_scene(outputs: DataparserOutputs, parser: Any) -> Float[Tensor, "3 4"]:
    """:func:`data_to_scene` of a parser's outputs."""
    return data_to_scene(outputs.dataparser_transform, outputs.dataparser_scale, applied_to_data(parser))


def save_frame(folder: Path, parser: Any) -> None:
    """Keep in a run's folder what its data set's axes are, so that meshes come back in them without the data set."""
    applied = applied_to_data(parser)
    if applied is None:
        (folder / FRAME_FILE).unlink(missing_ok=True)  # of a run that is trained over
    else:
        write_atomically(folder / FRAME_FILE, json.dumps(applied, indent=4).encode())


def load_frame(folder: Path, manager: Any) -> dict[str, Any] | None:
    """What :func:`save_frame` kept; of runs older than that, what their data set says if it is still there.

    Args:
        folder: of the run.
        manager: the configuration of its datamanager, for runs older than that; None where it is not known.
    """
    if (folder / FRAME_FILE).is_file():
        found: dict[str, Any] = json.loads((folder / FRAME_FILE).read_text())
        return found
    if manager is None:
        return None
    parser = copy.copy(manager.dataparser)
    if manager.data is not None:
        parser.data = manager.data
    try:
        return applied_to_data(parser)
    except OSError:
        return None


def _matrix(applied: dict[str, Any]) -> Float[Tensor, "4 4"]:
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3] = torch.tensor(applied["applied_transform"], dtype=torch.float64)[:3]
    return whole
