"""Whether a folder of photographs can be trained on, said before anything is trained: one sentence, file and frame."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.camera_file import CAMERA_KEYS, LENS_KEYS, camera_file, read_camera_file, read_nerfstudio_file
from sasnet_ns.data.picture_files import has_transparency, open_picture, read_mask, read_picture
from sdf_tools.errors import ShapeError

ORIENTATIONS = ("pca", "up", "vertical", "none")
FARTHEST = 8000.0
"""How far from the origin cameras may stand, in extents of their positions; float32 has 5e-4 of that there."""
NO_ROTATION = 0.05
"""By how much the axes of a pose, scaled to a volume of 1, may miss unit length and right angles: 3 degrees."""


def check_camera_file(config: DataParserConfig, split: str = "train", pictures: bool = True) -> None:
    """Look through the JSON file of cameras of ``nerfstudio-data``, ``blender-data`` and ``instant-ngp-data``.

    Args:
        config: of the parser.
        split: whose file it is, where each has its own.
        pictures: whether nerfstudio will look for the size of the first picture.

    Raises:
        ShapeError: there is none, it is damaged, a frame in it is no camera, or an entry cannot be what it has to be.
    """
    if isinstance(config, NerfstudioDataParserConfig):
        path = camera_file(config)
        meta = _read(path, read_nerfstudio_file)
        frames = _frames(meta, path)
        _check_keys(meta, frames, path)
        _check_numbers(meta, frames, path)
        _check_choices(meta, path)
        _check_applied(meta, frames, path)
        _check_splits(meta, frames, path)
        if pictures and config.downscale_factor is None:
            open_picture(path.parent / frames[0]["file_path"]).close()
    elif isinstance(config, InstantNGPDataParserConfig):
        path = camera_file(config)
        meta = _read(path)
        frames = _frames(meta, path)
        _check_numbers(meta, frames, path)
        if not any(key in meta for key in ("fl_x", "x_fov", "camera_angle_x")):
            raise ShapeError(f"'{path}' has no 'fl_x', and no 'camera_angle_x' from which it would follow.")
        for key in ("camera_angle_x", "camera_angle_y", "x_fov", "y_fov"):
            _check_angle(meta, key, path)
        _check_one_camera(meta, frames, path)
        _check_files(frames, path)
        if pictures:
            for frame in frames:
                picture = path.parent / frame["file_path"]
                png = picture.with_name(picture.name + ".png")
                open_picture(png if png.exists() and not picture.exists() else picture).close()
    elif isinstance(config, BlenderDataParserConfig):
        path = Path(config.data) / f"transforms_{split}.json"
        meta = _read(path)
        frames = _frames(meta, path, several=split == "train")
        if "camera_angle_x" not in meta:
            raise ShapeError(f"'{path}' has no 'camera_angle_x', from which the focal length follows.")
        _check_angle(meta, "camera_angle_x", path)
        open_picture(path.parent / (frames[0]["file_path"].replace("./", "") + ".png")).close()


def _check_angle(meta: dict[str, Any], key: str, path: Path) -> None:
    """The width or height of the view, if the file says it."""
    unit, most = ("degrees", 180.0) if key.endswith("fov") else ("radians", 3.14)
    if key in meta and not 0 < _number(meta[key]) < (180 if unit == "degrees" else math.pi):
        side = "width" if "x" in key else "height"
        raise ShapeError(
            f"'{path}' has '{key}' {meta[key]!r}; it is the {side} of the view in {unit}, between 0 and {most:g}."
        )


def _read(path: Path, reader: Callable[[Path], Any] = read_camera_file) -> dict[str, Any]:
    try:
        meta = reader(path)
    except FileNotFoundError:
        raise ShapeError(f"there is no '{path.name}' in '{path.parent}'; {_advice(path)}.") from None
    except json.JSONDecodeError as error:
        raise ShapeError(
            f"'{path}' is not complete JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ShapeError(f"'{path}' cannot be read ({error}).") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise ShapeError(f"'{path}' has no list 'frames'; it does not describe cameras.")
    return meta


def _advice(path: Path) -> str:
    """What to do about a camera file that is not there, by what else is."""
    other = [p.name for p in sorted(path.parent.glob("transforms*.json"))]
    if path.name != "transforms.json" and "transforms_train.json" in other:
        return "blender-data wants a file for each of train, val and test: a copy of another will do for val or test"
    if path.name != "transforms.json" and "transforms.json" in other:
        return "there is 'transforms.json': nerfstudio-data at the end of the command reads it"
    if "transforms_train.json" in other:
        return f"there is '{other[0]}': blender-data at the end of the command reads it"
    if any(path.parent.glob("cameras*.npz")):
        return "there is a NeuS camera file: neus-data at the end of the command reads it"
    return "ns-process-data makes one of photographs"


def _frames(meta: dict[str, Any], path: Path, several: bool = True) -> list[dict[str, Any]]:
    """The frames, each with a picture and a pose; ``several`` from different places."""
    frames = meta["frames"]
    if not frames:
        raise ShapeError(f"'{path}' lists no frames; there is nothing to train on.")
    poses = []
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ShapeError(f"frame {index} in '{path}' names no picture ('file_path').")
        where = _frame_name(index, frame, path)
        if "transform_matrix" not in frame:
            raise ShapeError(f"{where} has no 'transform_matrix'; leave the frame out or give its pose.")
        try:
            pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
        except (TypeError, ValueError):
            pose = np.empty(0)
        if pose.shape != (4, 4):
            raise ShapeError(f"{where} has a 'transform_matrix' that is not 4 x 4 numbers.")
        _check_pose(pose, where)
        if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
            raise ShapeError(f"{where} has a 'transform_matrix' whose last row is not 0 0 0 1; is it transposed?")
        poses.append(pose)
    if not several:
        return frames
    if len(frames) == 1:
        raise ShapeError(f"'{path}' lists a single picture; a scene needs several from different places.")
    _check_spread(np.stack(poses), f"'{path}'")
    return frames


def _frame_name(index: int, frame: dict[str, Any], path: Path) -> str:
    return f"frame {index} ('{frame['file_path']}') in '{path}'"


def _check_pose(pose: np.ndarray, where: str) -> None:
    if not np.isfinite(pose).all():
        raise ShapeError(f"{where} has a pose that is not finite (NaN or infinite); leave the frame out.")
    axes = np.asarray(pose[:3, :3], dtype=np.float64)
    volume = np.linalg.det(axes)
    if abs(volume) <= 1e-6 * np.linalg.norm(axes, axis=0).prod():
        raise ShapeError(f"{where} has a pose without a rotation: its matrix is singular.")
    if np.abs(axes.T @ axes / abs(volume) ** (2 / 3) - np.eye(3)).max() > NO_ROTATION:
        raise ShapeError(
            f"{where} has a pose that is no rotation: its axes have different lengths or are not at right angles."
        )
    if volume < 0:
        raise ShapeError(
            f"{where} has a mirrored pose: its axes are left-handed. From OpenCV's axes to OpenGL's, both y and z turn "
            "round."
        )


def _check_spread(poses: np.ndarray, where: str) -> None:
    centers = poses[:, :3, 3]
    apart, far = np.ptp(centers, axis=0).max(), np.abs(centers).max()
    rounding = np.finfo(poses.dtype).eps
    if apart <= max(1e-12, 8 * rounding * far):
        raise ShapeError(f"all {len(poses)} cameras of {where} stand at one point; depth cannot be told from there.")
    middle = ", ".join(f"{value:.10g}" for value in np.round(centers.mean(axis=0)))
    _check_far(apart, far, where, f"({middle})")


def _check_far(apart: float, far: float, where: str, middle: str = "their mean") -> None:
    if far > FARTHEST * apart:
        raise ShapeError(
            f"the cameras of {where} stand within {apart:.4g} of each other, but {far:.4g} from the origin, where "
            f"nerfstudio's float32 places them to {far * 2.0**-24:.1g} only; subtract {middle} from every position, "
            "of points too."
        )


def _check_keys(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    """Intrinsics of every frame, and its files."""
    for key in CAMERA_KEYS:
        if key in meta:
            continue
        lacking = next((i for i, frame in enumerate(frames) if key not in frame), None)
        if lacking is not None:
            where = _frame_name(lacking, frames[lacking], path)
            raise ShapeError(f"{where} has no '{key}', nor has the file for all frames.")
    _check_files(frames, path)


def _check_one_camera(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    """Whether one camera took all pictures, as instant-ngp-data has it."""
    for key in (*CAMERA_KEYS, *LENS_KEYS):
        wanted = meta.get(key, frames[0].get(key))
        for index, frame in enumerate(frames):
            own = frame.get(key, wanted)
            if own != wanted and not math.isclose(_number(own), _number(wanted), rel_tol=1e-6):
                raise ShapeError(
                    f"{_frame_name(index, frame, path)} has '{key}' {own!r}, not {wanted!r} as others, but "
                    "instant-ngp-data takes one camera for all; nerfstudio-data at the end of the command takes each "
                    "frame's own."
                )


def _check_files(frames: Sequence[dict[str, Any]], path: Path) -> None:
    """Masks and depth maps of all frames or none."""
    for key, kind in (("mask_path", "mask"), ("depth_file_path", "depth map")):
        without = [i for i, frame in enumerate(frames) if key not in frame]
        if 0 < len(without) < len(frames):
            where = _frame_name(without[0], frames[without[0]], path)
            raise ShapeError(f"{where} has no {kind} ('{key}'), but others have; name one for every frame or for none.")
        for index, frame in enumerate(frames):
            if not isinstance(frame.get(key, ""), str):
                raise ShapeError(f"{_frame_name(index, frame, path)} has a '{key}' that is not the name of a file.")


def _check_numbers(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    """Intrinsics and distortion, of the file or else of each frame."""
    named = [(f"'{path}'", meta)]
    named += [(_frame_name(index, frame, path), frame) for index, frame in enumerate(frames)]
    for where, entries in named:
        for key in (*CAMERA_KEYS, *LENS_KEYS[:-1]):
            if key in entries and (entries is meta or key not in meta):
                _check_number(key, entries[key], where)
        lens = entries.get("distortion_params", [0.0] * 6)
        if not isinstance(lens, list) or len(lens) < 6 or not all(math.isfinite(_number(value)) for value in lens):
            raise ShapeError(f"{where} has 'distortion_params' that are not six numbers (k1, k2, k3, k4, p1, p2).")


def _check_number(key: str, value: Any, where: str) -> None:
    number = _number(value)
    if key in ("fl_x", "fl_y") and not 0 < number < math.inf:
        raise ShapeError(f"{where} has '{key}' {value!r}; a focal length is a positive number of pixels.")
    if key in ("w", "h") and (not 1 <= number < math.inf or (isinstance(value, str) and not value.strip().isdigit())):
        raise ShapeError(f"{where} has '{key}' {value!r}; the size of a picture is a whole number of pixels.")
    if not math.isfinite(number):
        raise ShapeError(f"{where} has '{key}' {value!r}, which is not a finite number.")


def _number(value: Any) -> float:
    """What nerfstudio makes of an entry; NaN where it would fail."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _check_choices(meta: dict[str, Any], path: Path) -> None:
    """The kind of lens, and the orientation."""
    model = meta.get("camera_model", "OPENCV")
    if model not in list(CAMERA_MODEL_TO_TYPE):
        raise ShapeError(
            f"'{path}' has 'camera_model' {model!r}, which nerfstudio does not know; it knows "
            f"{', '.join(CAMERA_MODEL_TO_TYPE)}. COLMAP's image_undistorter makes PINHOLE pictures of all others."
        )
    orientation = meta.get("orientation_override", "none")
    if orientation not in ORIENTATIONS:
        raise ShapeError(
            f"'{path}' has 'orientation_override' {orientation!r}; it may be {', '.join(ORIENTATIONS)}, or be left out."
        )


def _check_applied(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    """What the file says was applied to COLMAP's axes; meshes are led back through it."""
    scale = meta.get("applied_scale", 1.0)
    if not 0 < _number(scale) < math.inf:
        raise ShapeError(f"'{path}' has 'applied_scale' {scale!r}; it is a positive number, or is left out.")
    try:
        transform = np.asarray(meta.get("applied_transform", np.eye(4)[:3]), dtype=np.float64)
    except (TypeError, ValueError):
        transform = np.empty(0)
    if transform.shape != (3, 4) or not np.isfinite(transform).all() or not np.linalg.det(transform[:, :3]):
        raise ShapeError(
            f"'{path}' has an 'applied_transform' that is no transform: it has 3 x 4 numbers, or 4 x 4 with the last "
            "row 0 0 0 1, and can be undone."
        )
    centers = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)[:, :3, 3]
    shift, apart = np.linalg.norm(transform[:, 3]), np.ptp(centers, axis=0).max() / _number(scale)
    if shift > FARTHEST * apart:
        raise ShapeError(
            f"'{path}' has an 'applied_transform' that shifts by {shift:.4g}, but its cameras stand within {apart:.4g} "
            f"of each other; nerfstudio's float32 holds the shift to {shift * 2.0**-24:.1g} only, by which meshes "
            "would be misplaced; make its last column 0 and shift the meshes afterwards."
        )


def _check_splits(meta: dict[str, Any], frames: Sequence[dict[str, Any]], path: Path) -> None:
    known = {str(Path(frame["file_path"])) for frame in frames}
    for split in ("train", "val", "test"):
        names = meta.get(f"{split}_filenames", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ShapeError(f"'{split}_filenames' in '{path}' is not a list of names of pictures.")
        for name in names:
            if str(Path(name)) not in known:
                raise ShapeError(f"'{split}_filenames' in '{path}' names '{name}', which is not among its frames.")
    lists = [f"{split}_filenames" for split in ("train", "val", "test")]
    lacking = [key for key in lists if key not in meta]
    if 0 < len(lacking) < len(lists):
        raise ShapeError(
            f"'{path}' names pictures in '{next(key for key in lists if key in meta)}' but has no '{lacking[0]}'; list "
            "the pictures for training and those for evaluation (which may be none: []), or neither."
        )


def check_outputs(outputs: DataparserOutputs, masks: Sequence[Path] = ()) -> None:
    """Look at every picture's header, mask and depth map, and at the poses, whatever parser they come from.

    Args:
        outputs: a split as a parser gives it.
        masks: foreground masks, one a picture.

    Raises:
        ShapeError: a file is missing or unreadable, a picture has not the size that its camera has, or its pose or
            focal length cannot be that of a photograph.
    """
    poses = outputs.cameras.camera_to_worlds.numpy()
    for index, path in enumerate(outputs.image_filenames):
        _check_pose(poses[index], f"the camera of '{path}'")
        camera = outputs.cameras[index]
        _check_lens(camera, f"the camera of '{path}'")
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


def _check_lens(camera: Cameras, where: str) -> None:
    for key, value in (("fl_x", camera.fx), ("fl_y", camera.fy), ("cx", camera.cx), ("cy", camera.cy)):
        _check_number(key, float(value), where)


def check_content(outputs: DataparserOutputs, masks: Sequence[Path] = ()) -> None:
    """See that there is something to learn from in the training pictures.

    Raises:
        ShapeError: there is a single picture, all are transparent throughout, or masks are black.
    """
    pictures = [Path(path) for path in outputs.image_filenames]
    if len(pictures) < 2:
        raise ShapeError("there are fewer than two pictures to train on; a scene needs several from different places.")
    poses = outputs.cameras.camera_to_worlds.numpy()
    _check_spread(poses, f"'{pictures[0].parent}'")
    apart = float(np.ptp(poses[:, :3, 3], axis=0).max()) / outputs.dataparser_scale
    _check_far(apart, float(outputs.dataparser_transform[:, 3].norm()), f"'{pictures[0].parent}'")
    for files in (masks, outputs.mask_filenames or ()):
        if files and not any(read_mask(Path(path)).max() > 127 for path in files):
            raise ShapeError(
                f"all {len(files)} masks in '{Path(files[0]).parent}' are black, or of several values darker than half "
                "grey: they say that there is no object. Masks are white where the object is."
            )
    _check_each_mask(outputs)
    if all(_all_transparent(path) for path in pictures):
        raise ShapeError(
            f"all {len(pictures)} pictures in '{pictures[0].parent}' are transparent throughout (alpha 0); there is "
            "nothing to learn from."
        )


def _check_each_mask(outputs: DataparserOutputs) -> None:
    """Of pictures of different sizes, every step draws pixels from each: none may be masked altogether."""
    sizes = np.unique(np.stack([outputs.cameras.width.flatten(), outputs.cameras.height.flatten()]), axis=1)
    if outputs.mask_filenames is None or sizes.shape[1] == 1:
        return
    black = next((path for path in outputs.mask_filenames if read_mask(Path(path)).max() <= 127), None)
    if black is not None:
        raise ShapeError(
            f"the mask '{black}' is black, which cannot be among pictures of different sizes; leave its frame out."
        )


def _all_transparent(path: Path) -> bool:
    with open_picture(path) as picture:
        if not has_transparency(picture):
            return False
    return not read_picture(path, alpha=True)[..., 3].any()
