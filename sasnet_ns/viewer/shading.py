"""Colours for what sphere tracing finds: shaded surfaces, normals, and pictures of the distance on a plane."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BACKGROUND = 1.0
CLAY = (0.80, 0.79, 0.76)
_INSIDE = (0.84, 0.30, 0.16)
_OUTSIDE = (0.16, 0.38, 0.75)


def shade(
    normals: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    hit: Bool[Tensor, " N"],
    up: Float[Tensor, "3"],
) -> Float[Tensor, "N 3"]:
    """Clay lit by a light at the camera and a softer one from above, on white.

    Args:
        normals: (N, 3) unit normals.
        directions: (N, 3) unit directions of the camera's rays.
        hit: (N,) where there is a surface.
        up: (3,) unit vector.

    Returns:
        (N, 3) colours in [0, 1].
    """
    head = (-(normals * directions).sum(-1)).clamp(0, 1)
    sky = 0.5 + 0.5 * normals @ up
    light = (0.18 + 0.62 * head + 0.25 * sky)[:, None]
    color = (light * light.new_tensor(CLAY) + 0.08 * head[:, None] ** 24).clamp(0, 1)
    return torch.where(hit[:, None], color, torch.full_like(color, BACKGROUND))


def color_distances(
    distance: Float[Tensor, "*batch"], level: float = 0.0, spacing: float = 0.05, width: float = 0.0012
) -> Float[Tensor, "*batch 3"]:
    """Signed distances as a picture: blue outside, red inside, paler away from the surface, with contour lines.

    Args:
        distance: signed distances in box units.
        level: the value drawn as the surface, in black.
        spacing: distance between two contour lines.
        width: half of a line's, in the units of the distance; the surface's own is twice as wide.

    Returns:
        (..., 3) colours in [0, 1].
    """
    value = distance - level
    base = torch.where((value < 0)[..., None], value.new_tensor(_INSIDE), value.new_tensor(_OUTSIDE))
    color = 1 - (1 - base) * torch.exp(-4 * value.abs())[..., None]
    phase = value / spacing
    line = ((phase - phase.round()).abs() * spacing < width)[..., None]
    surface = (value.abs() < 2 * width)[..., None]
    return torch.where(surface, torch.zeros_like(color), torch.where(line, 0.72 * color, color))


def plane_hits(
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    point: tuple[float, float, float],
    normal: tuple[float, float, float],
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
    """Where rays meet a plane in front of them.

    Args:
        origins: (N, 3) ray origins.
        directions: (N, 3) unit directions.
        point: on the plane.
        normal: its unit normal.

    Returns:
        (N, 3) points and whether they lie inside [-0.5, 0.5]^3.
    """
    at, across = origins.new_tensor(point), origins.new_tensor(normal)
    along = directions @ across
    along = torch.where(along.abs() < 1e-9, torch.full_like(along, 1e-9), along)
    t = (at - origins) @ across / along
    points = origins + t[:, None] * directions
    return points, (t > 0) & (points.abs() <= 0.5 + 1e-6).all(-1)
