"""Tiny folders of photographs that are edited, and the datamanagers that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from sasnet_ns.data.photos import PhotoDataManager, PhotoDataManagerConfig
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig

SIZE = 16
Make = Callable[..., Path]
Meta = dict[str, Any]


def manager(folder: Path, parser: Any = None, surface: bool = True, **kwargs: Any) -> PhotoDataManager:
    """The datamanager of the surface methods, or of nerfacto's."""
    kinds: Any = (
        (SurfaceDataManager, SurfaceDataManagerConfig) if surface else (PhotoDataManager, PhotoDataManagerConfig)
    )
    parser = parser or NerfstudioDataParserConfig()
    config = kinds[1](dataparser=parser, data=folder, train_num_rays_per_batch=64, eval_num_rays_per_batch=64)
    return kinds[0](config, **kwargs)


def read(folder: Path) -> Meta:
    return json.loads((folder / "transforms.json").read_text())


def write(folder: Path, meta: Meta) -> None:
    (folder / "transforms.json").write_text(json.dumps(meta))


def edited(folder: Path, change: Callable[[Meta], Any]) -> Path:
    meta = read(folder)
    change(meta)
    write(folder, meta)
    return folder


def entry(**entries: Any) -> Callable[[Meta], Any]:
    return lambda meta: meta.update(entries)


def in_two_sizes(folder: Path) -> Path:
    """The first picture becomes twice as wide."""

    def change(meta: Meta) -> None:
        del meta["w"]
        for i, frame in enumerate(meta["frames"]):
            frame["w"] = SIZE if i else 2 * SIZE

    Image.new("RGB", (2 * SIZE, SIZE)).save(folder / "images" / "000.png")
    return edited(folder, change)
