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


@dataclass(frozen=True)
class Slice:
    """A picture of a plane.

    Attributes:
        image: (N, N, 4) red, green, blue and opacity; clear outside the box.
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
    """A square picture of the plane around its point, as large as the box.

    Args:
        field: what is shown.
        settings: the plane's point and colours.
        axes: (3, 3) the plane's frame as columns, the normal last.
        size: pixels a side.
        reference: distance from the input, for errors.
    """
    side = 1.5 * float((field.bounds[1] - field.bounds[0]).max())
    line = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    # Rows run down the picture, which is the second axis turned around.
    across, down = torch.meshgrid(side * line, side * line, indexing="xy")
    point = torch.tensor(settings.plane_point, dtype=torch.float64)
    points = (point + across[..., None] * axes[:, 0] + down[..., None] * axes[:, 1]).float().reshape(-1, 3)
    inside = ((points >= field.bounds[0]) & (points <= field.bounds[1])).all(dim=1)
    shown = points[inside].to(field.device)
    scale = None
    if settings.slice_color == "distance":
        extent = float((field.bounds[1] - field.bounds[0]).max())
        distance = field.values(shown, settings.bands) / extent
        colors = color_distances(distance, settings.level / extent, width=max(0.0012, 0.6 / size))
    else:
        values, title, kind = evaluate(field, settings.slice_color, shown, settings, reference)
        colors, scale = color_values(values, title, kind)
        distance = field.values(shown, settings.bands) - settings.level
        colors = torch.where((distance.abs() < side / size)[:, None], torch.zeros_like(colors), colors)
    image = torch.zeros(size * size, 4)
    image[inside] = torch.cat([colors.float().cpu(), torch.ones(len(shown), 1)], dim=1)
    return Slice((image.reshape(size, size, 4) * 255).round().byte().numpy(), side, scale)
