"""The JSON file that describes cameras, read as its writer meant it by the checks and by nerfstudio's parsers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

PARSERS = (NerfstudioDataParserConfig, BlenderDataParserConfig, InstantNGPDataParserConfig)


def camera_file(parser: DataParserConfig) -> Path:
    """The file of ``nerfstudio-data`` and ``instant-ngp-data``: --data may name it or its folder."""
    data = Path(parser.data)
    return data if data.suffix == ".json" else data / "transforms.json"


def read_camera_file(path: Path) -> Any:
    """What the file says, with nulls left out.

    A byte order mark is passed over, ``applied_transform`` may have its fourth row, and of ``val_filenames`` and
    ``test_filenames`` either stands for both, as nerfstudio's other ways to split have it.

    Raises:
        OSError, UnicodeDecodeError, json.JSONDecodeError: it cannot be read.
    """
    meta = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(meta, dict):
        return meta
    meta = _without_nulls(meta)
    if isinstance(meta.get("frames"), list):
        meta["frames"] = [_without_nulls(frame) if isinstance(frame, dict) else frame for frame in meta["frames"]]
    transform = meta.get("applied_transform")
    if isinstance(transform, list) and len(transform) == 4 and transform[3] == [0, 0, 0, 1]:
        meta["applied_transform"] = transform[:3]
    for split, other in (("val", "test"), ("test", "val")):
        if f"{other}_filenames" in meta:
            meta.setdefault(f"{split}_filenames", meta[f"{other}_filenames"])
    return meta


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


@contextmanager
def read_by_parser(parser: DataParserConfig) -> Iterator[None]:
    """While it lasts, nerfstudio's parser gets its file from :func:`read_camera_file`, where it reads such a file."""
    kind = next((kind for kind in PARSERS if isinstance(parser, kind)), None)
    if kind is None:
        yield
        return
    # The parsers take the loader from their own module, and offer no other way to hand them what was read.
    module: Any = sys.modules[kind.__module__]
    original = module.load_from_json
    module.load_from_json = _read_for_ngp if kind is InstantNGPDataParserConfig else read_camera_file
    try:
        yield
    finally:
        module.load_from_json = original
