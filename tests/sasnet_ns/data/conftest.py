"""Tiny folders of photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdf_tools.pictures.scene import sphere_cameras

SIZE = 16


def write_folder(
    folder: Path, count: int = 6, mode: str = "RGBA", background: tuple[int, int, int] = (255, 255, 255)
) -> Path:
    """A few 16 x 16 pictures of a disc from cameras around the origin, as ns-process-data would describe them."""
    (folder / "images").mkdir(parents=True)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    disc = (rows**2 + columns**2 < 25)[..., None]
    rng = np.random.default_rng(0)
    frames = []
    for i, pose in enumerate(sphere_cameras(count, 3.0)):
        color = np.where(disc, rng.integers(40, 200, (SIZE, SIZE, 3)), background)
        pixels = np.concatenate([color, disc * 255], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / "images" / f"{i:03d}.png")
        frames.append({"file_path": f"images/{i:03d}.png", "transform_matrix": pose.tolist()})
    meta = {"w": SIZE, "h": SIZE, "fl_x": 20.0, "fl_y": 20.0, "cx": SIZE / 2, "cy": SIZE / 2, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """Makes one: ``make_folder(path, count=6, mode="RGBA")``."""
    return write_folder
