"""The JSON file that describes cameras, read as its writer meant it by the checks and by nerfstudio's parsers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

CAMERA_KEYS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
"""What nerfstudio-data wants for all pictures or for each frame."""
LENS_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2", "distortion_params")


def camera_file(parser: DataParserConfig) -> Path:
    """The file of ``nerfstudio-data`` and ``instant-ngp-data``: --data may name it or its folder."""
    data = Path(parser.data)
    return data if data.suffix == ".json" else data / "transforms.json"


def read_camera_file(path: Path) -> Any:
    """What the file says, with nulls left out.

    A byte order mark is passed over, ``applied_transform`` may have its fourth row, and of ``val_filenames`` and
    ``test_filenames`` either stands for both, as nerfstudio's other ways to split have it. Rotations in poses are
    without a scale, which nerfstudio would take for that of depths, normals and viewing directions.

    Raises:
        OSError, UnicodeDecodeError, json.JSONDecodeError: it cannot be read.
    """
    meta = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(meta, dict):
        return meta
    meta = _without_nulls(meta)
    if isinstance(meta.get("frames"), list):
        meta["frames"] = [_read_frame(frame) if isinstance(frame, dict) else frame for frame in meta["frames"]]
    transform = meta.get("applied_transform")
    if isinstance(transform, list) and len(transform) == 4 and transform[3] == [0, 0, 0, 1]:
        meta["applied_transform"] = transform[:3]
    for split, other in (("val", "test"), ("test", "val")):
        if f"{other}_filenames" in meta:
            meta.setdefault(f"{split}_filenames", meta[f"{other}_filenames"])
    return meta


def read_nerfstudio_file(path: Path) -> Any:
    """As :func:`read_camera_file`; where a frame has other intrinsics than the file, all frames get their own.

    nerfstudio-data passes over a frame's beside the file's, instant-ngp and others go by the frame's.
    """
    meta = read_camera_file(path)
    frames = [f for f in meta.get("frames") or [] if isinstance(f, dict)] if isinstance(meta, dict) else []
    for keys in (*((key,) for key in CAMERA_KEYS), LENS_KEYS):
        given = {key: meta[key] for key in keys if key in meta} if frames else {}
        if not given or all(frame.get(key, given.get(key)) == given.get(key) for frame in frames for key in keys):
            continue
        for key in given:
            del meta[key]
        for frame in frames:
            own_lens = any(key in frame for key in keys)
            for key, value in given.items():
                if key != "distortion_params" or not own_lens:
                    frame.setdefault(key, value)
    return meta


def _read_frame(frame: dict[str, Any]) -> dict[str, Any]:
    frame = _without_nulls(frame)
    try:
        pose = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError):
        return frame
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        return frame
    volume = float(np.linalg.det(pose[:3, :3]))
    if volume > 0 and abs(volume - 1) > 1e-3:  # rounded numbers stay what they are
        pose[:3, :3] /= volume ** (1 / 3)
        frame["transform_matrix"] = pose.tolist()
    return frame


def _without_nulls(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def _read_for_ngp(path: Path) -> Any:
    """With both names of the vertical angle: else nerfstudio takes the horizontal focal length, whatever is said."""
    meta = read_camera_file(path)
    if "y_fov" in meta:
        meta.setdefault("camera_angle_y", math.radians(float(meta["y_fov"])))
    elif "camera_angle_y" in meta:
        meta["y_fov"] = math.degrees(float(meta["camera_angle_y"]))
    elif "fl_y" in meta:
        meta["camera_angle_y"] = meta["y_fov"] = 0.0  # not used: the focal length is
    return meta


_READERS: dict[type, Callable[[Path], Any]] = {
    NerfstudioDataParserConfig: read_nerfstudio_file,
    BlenderDataParserConfig: read_camera_file,
    InstantNGPDataParserConfig: _read_for_ngp,
}


@contextmanager
def read_by_parser(parser: DataParserConfig) -> Iterator[None]:
    """While it lasts, nerfstudio's parser gets its file from :func:`read_camera_file`, where it reads such a file."""
    kind = next((kind for kind in _READERS if isinstance(parser, kind)), None)
    if kind is None:
        yield
        return
    # The parsers take the loader from their own module, and offer no other way to hand them what was read.
    module: Any = sys.modules[kind.__module__]
    original = module.load_from_json
    module.load_from_json = _READERS[kind]
    try:
        yield
    finally:
        module.load_from_json = original
