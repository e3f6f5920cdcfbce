"""What a click in the scene means: the point on the slice or the surface, and the field's numbers there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.viewer.quantities import Reference, ViewSettings
from sasnet_ns.viewer.rendering import half_space
from sasnet_ns.viewer.shading import plane_hits
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.tracing import box_interval

_SAMPLES, _HALVINGS = 256, 24


@torch.no_grad()
def point_at(
    field: ShownField, settings: ViewSettings, origin: Float[Tensor, "3"], direction: Float[Tensor, "3"]
) -> Float[Tensor, "3"] | None:
    """Where a ray first meets the slice or the surface, of what is shown; None if nowhere inside the box."""
    low, high = field.bounds
    side = float((high - low).max())
    inward = (origin - (low + high) / 2) / side
    on_plane = None
    if settings.slice:
        middle = tuple(float(c) for c in (torch.tensor(settings.plane_point) - (low + high) / 2) / side)
        points, visible = plane_hits(inward[None], direction[None], middle, settings.plane_normal)  # type: ignore[arg-type]
        if visible[0]:
            on_plane = points[0] * side + (low + high) / 2
    near, far = (float(t) * side for t in box_interval(inward[None], direction[None]))
    if settings.cut:
        kept = half_space(origin[None], direction[None], settings)
        near, far = max(near, float(kept[0])), min(far, float(kept[1]))
    if on_plane is not None:
        far = min(far, float((on_plane - origin) @ direction))
    reached = _first_inside(field, settings, origin, direction, near, far, side) if near < far else None
    return on_plane if reached is None else origin + reached * direction


def _first_inside(
    field: ShownField, settings: ViewSettings, origin: Tensor, direction: Tensor, near: float, far: float, side: float
) -> float | None:
    """How far along a ray the surface is: by steps of what the field says, none longer than a share of the way."""

    def at(t: float) -> float:
        value = field.values((origin + t * direction)[None].to(field.device), settings.bands)
        return float(value) - settings.level

    longest, shortest = (far - near) / _SAMPLES, 1e-4 * side
    before = t = near
    while t <= far:
        value = at(t)
        if value < 0:
            break
        before, t = t, t + min(longest, max(0.9 * value, shortest))
    else:
        return None
    if t == near:
        return near
    for _ in range(_HALVINGS):
        middle = (before + t) / 2
        before, t = (before, middle) if at(middle) < 0 else (middle, t)
    return t


def read_value(
    field: ShownField,
    settings: ViewSettings,
    origin: Float[Tensor, "3"],
    direction: Float[Tensor, "3"],
    reference: Reference | None,
) -> str:
    """The numbers at the point that a ray meets, as markdown, in the shape's own units."""
    point = point_at(field, settings, origin, direction)
    if point is None:
        return "Nothing there."
    value, gradient = field.value_and_gradient(point[None].to(field.device), settings.bands)
    world = field.frame.to_world(point[None])
    rows = [
        "position " + ", ".join(f"{float(c):.5g}" for c in world[0]),
        f"distance {float(value) / field.frame.scale:.4g}",
        f"length of the gradient {float(gradient.norm()):.3f}",
    ]
    if reference is not None:
        rows.insert(2, f"from the input {float(reference(world).abs()):.4g}")
    return "  \n".join(rows)
