"""One picture of the fields that came out worst, each beside its shape."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sasnet_ns.datasets.rows import Row
from sasnet_ns.datasets.surfaces import surface_from_field
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.io.writing import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE, _TEXT, _COLUMNS = 200, 30, 2


def contact_sheet(rows: list[Row], output: Path, source: Path) -> Path | None:
    """Write ``worst.png``: a tile a row with the shape, the field's surface, path and IoU.

    Args:
        rows: fitted rows.
        output: the data set's folder.
        source: the folder or list that their paths are relative to.

    Returns:
        The file; None if there is no row.
    """
    from PIL import Image, ImageDraw

    if not rows:
        return None
    lines = -(-len(rows) // _COLUMNS)
    columns = min(_COLUMNS, len(rows))
    sheet = Image.new("RGB", (columns * 2 * _TILE, lines * (_TILE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        left, top = index % _COLUMNS * 2 * _TILE, index // _COLUMNS * (_TILE + _TEXT)
        shape, surface = _shape(row, source), _surface(row, output)
        for mesh, place in ((shape, left), (surface, left + _TILE)):
            if mesh is not None:
                sheet.paste(_picture(mesh), (place, top))
        name = row.path if len(row.path) <= 46 else "..." + row.path[-43:]
        draw.text((left + 6, top + _TILE + 2), f"{name}\nIoU {row.iou:.4f}", fill="black")
    path = output / "worst.png"
    write_atomically(path, partial(sheet.save))
    return path


def _shape(row: Row, source: Path) -> Mesh | None:
    """The input; None where it is gone or no mesh."""
    from sdf_tools.io.loading import load

    try:
        base = source if source.is_dir() else source.parent
        shape = load((base if row.source is None else Path(row.source)) / row.path)
    except ShapeError:
        return None
    return shape if isinstance(shape, Mesh) else None


def _surface(row: Row, output: Path) -> Mesh | None:
    """The field's surface in the shape's units; None where it has none."""
    assert row.key is not None
    try:
        return surface_from_field(row.key, output, 96)
    except ValueError:
        return None


def _picture(mesh: Mesh) -> Image:
    from PIL import Image

    from sdf_tools.pictures.render import render_mesh

    picture = render_mesh(mesh, size=(_TILE, _TILE), occlusion_rays=4).numpy()
    return Image.fromarray((picture * 255).round().astype(np.uint8))
