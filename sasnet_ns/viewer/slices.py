"""A plane through the field as a picture in the scene: distances with level lines, or any other quantity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sasnet_ns.viewer.quantities import Reference, Scale, ViewSettings, color_values, evaluate
from sasnet_ns.viewer.shading import color_distances
from sasnet_ns.viewer.shown_field import ShownField

SLICE_COLORS = ("distance", "gradient", "error", "mask", "group", "band")


_FINER = 3  # pixels a sample along each axis
_OUTSIDE = 0.6  # opacity of the plane outside the shape, behind which the rest of the surface stays in view


@dataclass(frozen=True)
class Slice:
    """A picture of a plane.

    Attributes:
        image: (N, N, 4) red, green, blue and opacity; clear outside the box, half clear outside the shape.
        side: length of the square, scene units.
        scale: the colour bar; None for distances.
    """

    image: UInt8[np.ndarray, "N N 4"]
    side: float
    scale: Scale | None


def plane_axes(normal: tuple[float, float, float]) -> Float[Tensor, "3 3"]:
    """A right-handed frame whose third axis is the normal, as columns."""
    third = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    start = torch.eye(3, dtype=torch.float64)[int(third.abs().argmin())]
    first = torch.nn.functional.normalize(torch.linalg.cross(start, third), dim=0)
    return torch.stack([first, torch.linalg.cross(third, first), third], dim=1)


def paint_slice(
    field: ShownField,
    settings: ViewSettings,
    axes: Float[Tensor, "3 3"],
    size: int,
    reference: Reference | None = None,
) -> Slice:
    """A square picture of the plane around its point, large enough for the box.

    Args:
        field: what is shown.
        settings: the plane's point and colours.
        axes: (3, 3) the plane's frame as columns, the normal last.
        size: samples a side; the picture has three times as many pixels.
        reference: distance from the input, for errors.
    """
    side = 1.5 * float((field.bounds[1] - field.bounds[0]).max())
    points = _square(settings.plane_point, axes, side, size)
    near = ((points >= field.bounds[0] - side / size) & (points <= field.bounds[1] + side / size)).all(dim=1)
    asked = points[near].clamp(field.bounds[0], field.bounds[1]).to(field.device)
    distance = torch.zeros(size * size)
    distance[near] = (field.values(asked, settings.bands) - settings.level).float().cpu()
    fine = _finer(distance.reshape(1, size, size))[0]
    extent = float((field.bounds[1] - field.bounds[0]).max())
    scale = None
    if settings.slice_color == "distance":
        colors = color_distances(fine / extent, width=0.0015)
    else:
        values, title, kind = evaluate(field, settings.slice_color, asked, settings, reference)
        painted, scale = color_values(values, title, kind)
        coarse = torch.ones(size * size, 3)
        coarse[near] = painted.float().cpu()
        colors = _finer(coarse.reshape(size, size, 3).permute(2, 0, 1)).permute(1, 2, 0).clamp(0, 1)
        colors = torch.where((fine.abs() < 0.003 * extent)[..., None], torch.zeros_like(colors), colors)
    pixels = _square(settings.plane_point, axes, side, _FINER * size)
    inside = ((pixels >= field.bounds[0]) & (pixels <= field.bounds[1])).all(dim=1).reshape(fine.shape)
    opacity = torch.where(fine > 0.003 * extent, _OUTSIDE, 1.0) * inside
    image = torch.cat([colors, opacity[..., None]], dim=-1)
    return Slice((image * 255).round().byte().numpy(), side, scale)


def _square(
    point: tuple[float, float, float], axes: Float[Tensor, "3 3"], side: float, size: int
) -> Float[Tensor, "N 3"]:
    """(size^2, 3) pixel centres of a square around a point; rows along the second axis, as viser draws images."""
    line = side * ((torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5)
    across, down = torch.meshgrid(line, line, indexing="xy")
    middle = torch.tensor(point, dtype=torch.float64)
    return (middle + across[..., None] * axes[:, 0] + down[..., None] * axes[:, 1]).float().reshape(-1, 3)


def _finer(values: Float[Tensor, "c n n"]) -> Float[Tensor, "c m m"]:
    """Values between the samples: lines come out crisp without more evaluations."""
    return torch.nn.functional.interpolate(values[None], scale_factor=_FINER, mode="bicubic", align_corners=False)[0]
