"""Whether a shape can be fitted at all."""

from __future__ import annotations

import torch

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, Shape, for_numpy, positions, require_finite

MIN_FACES = 4
MIN_POINTS = 50


def validate_for_fitting(shape: Shape) -> None:
    """Check that a shape can be fitted at all.

    Raises:
        ShapeError: fewer than 4 triangles or 50 points, no extent, coordinates that are not finite, or faces of
            vertices that are not there.
    """
    shape = for_numpy(shape)
    points = positions(shape)
    if points.shape[0] == 0:
        raise ShapeError(f"'{shape.name}' has no points; give a shape with a surface.")
    require_finite(shape)
    if isinstance(shape, Mesh):
        points = points[shape.faces.reshape(-1)]
        if shape.faces.shape[0] < MIN_FACES:
            raise ShapeError(
                f"'{shape.name}' has {_count(shape.faces.shape[0], 'triangle')}: too few for a surface, "
                f"at least {MIN_FACES} are needed."
            )
    elif points.shape[0] < MIN_POINTS:
        raise ShapeError(
            f"'{shape.name}' has {_count(points.shape[0], 'point')}: too few for a surface, at least {MIN_POINTS} "
            "are needed."
        )
    extent = float((points.amax(0) - points.amin(0)).max())
    if extent <= 1e-12 * max(1e-30, float(points.abs().max())):
        raise ShapeError(f"'{shape.name}' has zero size: all its points coincide; there is no surface to fit.")
    if isinstance(shape, Mesh):
        a, b, c = ((points - points[0]) / extent).reshape(-1, 3, 3).unbind(1)
        if float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum()) <= 1e-14:
            raise ShapeError(f"'{shape.name}' has no area: all its triangles are degenerate; there is nothing to fit.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
