"""Meshes and thumbnails of a data set: kept with a fit, or made later of the field that it left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sasnet_ns.datasets.rows import field_path
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.geometry import Mesh, NormalizedShape

if TYPE_CHECKING:
    from sasnet_ns.datasets.one import FitOptions


def keep_surface(mesh: Mesh, key: str, options: FitOptions) -> None:
    """Write ``meshes/KEY.ply`` and ``thumbnails/KEY.png``, whichever the options want.

    Args:
        mesh: the field's surface, in the shape's own units.
        key: of the row.
        options: where the data set lies, and what is wanted.
    """
    from sdf_tools.io.writing import save_mesh

    if options.mesh:
        save_mesh(mesh, _mesh_path(options.output, key))
    if options.thumbnail:
        from sdf_tools.pictures.render import render_mesh, save_picture

        picture = render_mesh(mesh, size=(options.thumbnail, options.thumbnail))
        save_picture(picture, _thumbnail_path(options.output, key))


def lacks_surface(key: str, options: FitOptions) -> bool:
    """Whether a mesh or a thumbnail is wanted that is not there, or is there in another size."""
    return (options.mesh and not _mesh_path(options.output, key).exists()) or (
        options.thumbnail > 0 and _side(_thumbnail_path(options.output, key)) != options.thumbnail
    )


@torch.no_grad()
def surface_from_field(key: str, output: Path, resolution: int) -> Mesh:
    """The surface of a kept field in the shape's own units.

    Raises:
        ShapeError: the field has no surface.
        ValueError: its file cannot be read.
    """
    from sdf_tools.extraction import drop_specks, extract_mesh

    sdf = SignedDistanceField.load(field_path(output, key))
    mesh, _ = drop_specks(extract_mesh(sdf, resolution))
    return NormalizedShape(mesh, sdf.center, float(sdf.scale)).mesh_to_world(mesh)


def _mesh_path(output: Path, key: str) -> Path:
    return output / "meshes" / f"{key}.ply"


def _thumbnail_path(output: Path, key: str) -> Path:
    return output / "thumbnails" / f"{key}.png"


def _side(picture: Path) -> int | None:
    from PIL import Image

    try:
        with Image.open(picture) as image:
            return image.width
    except OSError:
        return None
