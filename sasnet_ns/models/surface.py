"""What meshes are extracted from: a function of space with its frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

PointFunction = Callable[[Tensor], Tensor]


@dataclass
class LoadedSurface:
    """What meshes are extracted from, in box coordinates: ``box = (world - center) * scale``, axes as in the world.

    Attributes:
        field: (N, 3) box coordinates to (N,) values: signed distances in box units, or densities.
        bounds: (2, 3) corners of the box that was trained, box coordinates.
        center: (3,) float64 world coordinates of the origin of the box.
        scale: box units per world unit.
        color: (N, 3) box coordinates to (N, 3) colours in [0, 1]; None where the method has none.
        level: value of the surface if nobody asks for another.
        inside: whether the inside has values below the level (distances) or above it (densities).
        device: where points have to be.
        axes: which of several possible axes these are, in words; empty where there is one kind.
    """

    field: PointFunction
    bounds: Float[Tensor, "2 3"]
    center: Float[Tensor, "3"]
    scale: float
    color: PointFunction | None = None
    level: float = 0.0
    inside: Literal["below", "above"] = "below"
    device: torch.device | str = "cpu"
    axes: str = ""


def field_state(state: dict[str, Tensor], prefix: str = "field.") -> dict[str, Tensor]:
    """The part of a model's weights that belongs to its field."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def in_world_axes(
    field: PointFunction,
    corners: Float[Tensor, "C 3"],
    world_to_scene: Float[Tensor, "3 4"],
    color: PointFunction | None = None,
    level: float = 0.0,
    inside: Literal["below", "above"] = "below",
) -> LoadedSurface:
    """A function of scene coordinates as a :class:`LoadedSurface`, whose axes are the world's.

    Args:
        field: (N, 3) scene coordinates to (N,) values.
        corners: corners of the trained region, scene coordinates.
        world_to_scene: similarity [s R | t].
        color: (N, 3) scene coordinates to colours.
        level: value of the surface.
        inside: see :class:`LoadedSurface`.
    """
    scale = float(torch.linalg.det(world_to_scene[:, :3]).abs() ** (1 / 3))
    middle = corners.double().mean(dim=0)
    center = torch.linalg.solve(world_to_scene[:, :3], middle - world_to_scene[:, 3])
    turn = world_to_scene[:, :3] / scale
    box = (corners.double() - middle) @ turn

    def at(function: PointFunction) -> PointFunction:
        return lambda points: function(points @ turn.T.to(points) + middle.to(points))

    bounds = torch.stack([box.amin(dim=0), box.amax(dim=0)]).float()
    return LoadedSurface(at(field), bounds, center, scale, None if color is None else at(color), level, inside)
