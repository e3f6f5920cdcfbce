"""Whether a folder of photographs can be trained on, said before anything is trained: one sentence, file and frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.picture_files import has_transparency, open_picture, read_mask, read_picture
from sdf_tools.errors import ShapeError

CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
"""What nerfstudio-data wants for all pictures or for each frame."""


def check_camera_file(config: DataParserConfig, split: str = "train", pictures: bool = True) -> None:
    """Look through the file that cameras come from, where it is JSON (``nerfstudio-data``, ``blender-data``).

    Args:
        config: of the parser.
        split: whose file it is, where each has its own.
        pictures: whether nerfstudio will look for the size of the first picture.

    Raises:
        ShapeError: there is none, it is damaged, or a frame in it is no camera.
    """
    data = Path(config.data)
    if isinstance(config, NerfstudioDataParserConfig):
        path = data if data.suffix == ".json" else data / "transforms.json"
        meta = _read(path)
        frames = _frames(meta, path)
        _check_keys(meta, frames, path)
        _check_splits(meta, frames, path)
        if pictures and config.downscale_factor is None:
            open_picture(path.parent / frames[0]["file_path"]).close()
    elif isinstance(config, BlenderDataParserConfig):
        path = data / f"transforms_{split}.json"
        meta = _read(path)
        frames = _frames(meta, path, several=split == "train")
        if "camera_angle_x" not in meta:
            raise ShapeError(f"'{path}' has no 'camera_angle_x', from which the focal length follows.")
        open_picture(data / (frames[0]["file_path"].replace("./", "") + ".png")).close()


def _read(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        other = [p.name for p in sorted(path.parent.glob("transforms*.json"))]
        npz = sorted(path.parent.glob("cameras*.npz"))
        hint = (
            f"; there is '{other[0]}': blender-data at the end of the command reads it"
            if "transforms_train.json" in other
            else "; there is a NeuS camera file: neus-data at the end of the command reads it"
            if npz
            else "; ns-process-data makes one of photographs"
        )
        raise ShapeError(f"there is no '{path.name}' in '{path.parent}'{hint}.") from None
    except json.JSONDecodeError as error:
        raise ShapeError(
            f"'{path}' is not complete JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ShapeError(f"'{path}' cannot be read ({error}).") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise ShapeError(f"'{path}' has no list 'frames'; it does not describe cameras.")
    return meta


def _frames(meta: dict[str, Any], path: Path, several: bool = True) -> list[dict[str, Any]]:
    """The frames, each with a picture and a pose; ``several`` from different places."""
    frames = meta["frames"]
    if not frames:
        raise ShapeError(f"'{path}' lists no frames; there is nothing to train on.")
    poses = []
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ShapeError(f"frame {index} in '{path}' names no picture ('file_path').")
        where = f"frame {index} ('{frame['file_path']}') in '{path}'"
        if "transform_matrix" not in frame:
            raise ShapeError(f"{where} has no 'transform_matrix'; leave the frame out or give its pose.")
        try:
            pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        except (TypeError, ValueError):
            pose = np.empty(0)
        if pose.shape != (4, 4):
            raise ShapeError(f"{where} has a 'transform_matrix' that is not 4 x 4 numbers.")
        _check_pose(pose, where)
        poses.append(pose)
    if not several:
        return frames
    if len(frames) == 1:
        raise ShapeError(f"'{path}' lists a single picture; a scene needs several from different places.")
    _check_spread(np.stack(poses), f"'{path}'")
    return frames


def _check_pose(pose: np.ndarray, where: str) -> None:
    if not np.isfinite(pose).all():
        raise ShapeError(f"{where} has a pose that is not finite (NaN or infinite); leave the frame out.")
    if abs(np.linalg.det(pose[:3, :3])) < 1e-6:
        raise ShapeError(f"{where} has a pose without a rotation: its matrix is singular.")


def _check_spread(poses: np.ndarray, where: str) -> None:
    centers = poses[:, :3, 3]
    if np.ptp(centers, axis=0).max() <= 1e-6 * max(1e-6, np.abs(centers).max()):
        raise ShapeError(f"all {len(poses)} cameras of {where} stand at one point; depth cannot be told from there.")


def _check_keys(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    """Intrinsics of every frame, masks and depth maps of all frames or none."""
    for key in CAMERA_KEYS:
        if key in meta:
            continue
        lacking = next((i for i, frame in enumerate(frames) if key not in frame), None)
        if lacking is not None:
            raise ShapeError(
                f"frame {lacking} ('{frames[lacking]['file_path']}') in '{path}' has no '{key}', nor has the file for "
                "all frames."
            )
    for key, kind in (("mask_path", "mask"), ("depth_file_path", "depth map")):
        without = [i for i, frame in enumerate(frames) if key not in frame]
        if 0 < len(without) < len(frames):
            raise ShapeError(
                f"frame {without[0]} ('{frames[without[0]]['file_path']}') in '{path}' has no {kind} ('{key}'), but "
                "others have; name one for every frame or for none."
            )


def _check_splits(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    known = {str(Path(frame["file_path"])) for frame in frames}
    for split in ("train", "val", "test"):
        for name in meta.get(f"{split}_filenames", ()):
            if str(Path(name)) not in known:
                raise ShapeError(f"'{split}_filenames' in '{path}' names '{name}', which is not among its frames.")


def check_outputs(outputs: DataparserOutputs, masks: Sequence[Path] = ()) -> None:
    """Look at every picture's header, mask and depth map, and at the poses, whatever parser they come from.

    Args:
        outputs: a split as a parser gives it.
        masks: foreground masks, one a picture.

    Raises:
        ShapeError: a file is missing or unreadable, a picture has not the size that its camera has, or the poses cannot
            be those of photographs of a scene.
    """
    poses = outputs.cameras.camera_to_worlds.numpy()
    for index, path in enumerate(outputs.image_filenames):
        _check_pose(poses[index], f"the camera of '{path}'")
        camera = outputs.cameras[index]
        wanted = int(camera.width), int(camera.height)
        with open_picture(Path(path)) as picture:
            size = picture.size
        # Half-size pictures of odd ones are rounded either way.
        if max(abs(a - b) for a, b in zip(size, wanted, strict=True)) > 1:
            raise ShapeError(
                f"the picture '{path}' has {size[0]} x {size[1]} pixels, its camera {wanted[0]} x {wanted[1]}; every "
                "ray would be wrong. Give the picture that the camera was calibrated with, or correct w, h, fl_x, "
                "fl_y, cx and cy."
            )
    for kind, files in (
        ("mask", outputs.mask_filenames),
        ("mask", masks),
        ("depth map", outputs.metadata.get("depth_filenames")),
        ("normal map", outputs.metadata.get("normal_filenames")),
    ):
        for path, picture in zip(files or (), outputs.image_filenames, strict=False):
            if not Path(path).is_file():
                raise ShapeError(f"there is no {kind} '{path}' for the picture '{picture}'.")


def check_content(outputs: DataparserOutputs, masks: Sequence[Path] = ()) -> None:
    """See that there is something to learn from in the training pictures.

    Raises:
        ShapeError: there is a single picture, all are transparent throughout, or all masks are black.
    """
    pictures = [Path(path) for path in outputs.image_filenames]
    if len(pictures) < 2:
        raise ShapeError("there are fewer than two pictures to train on; a scene needs several from different places.")
    _check_spread(outputs.cameras.camera_to_worlds.numpy(), f"'{pictures[0].parent}'")
    for files in (masks, outputs.mask_filenames or ()):
        if files and not any(read_mask(Path(path)).max() > 127 for path in files):
            raise ShapeError(
                f"all {len(files)} masks in '{Path(files[0]).parent}' are black: they say that there is no object. "
                "Masks are white where the object is."
            )
    if all(_all_transparent(path) for path in pictures):
        raise ShapeError(
            f"all {len(pictures)} pictures in '{pictures[0].parent}' are transparent throughout (alpha 0); there is "
            "nothing to learn from."
        )


def _all_transparent(path: Path) -> bool:
    with open_picture(path) as picture:
        if not has_transparency(picture):
            return False
    return not read_picture(path, alpha=True)[..., 3].any()
