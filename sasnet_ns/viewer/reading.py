"""What a click in the scene means: the point on the slice or the surface, and the field's numbers there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.viewer.quantities import Reference, ViewSettings
from sasnet_ns.viewer.shading import plane_hits
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.tracing import box_interval

_SAMPLES, _HALVINGS = 256, 24


@torch.no_grad()
def point_at(
    field: ShownField, settings: ViewSettings, origin: Float[Tensor, "3"], direction: Float[Tensor, "3"]
) -> Float[Tensor, "3"] | None:
    """Where a ray meets the slice, if it is shown, else the surface; None if nowhere inside the box."""
    low, high = field.bounds
    side = float((high - low).max())
    inward = (origin - (low + high) / 2) / side
    if settings.slice:
        middle = tuple(float(c) for c in (torch.tensor(settings.plane_point) - (low + high) / 2) / side)
        points, visible = plane_hits(inward[None], direction[None], middle, settings.plane_normal)  # type: ignore[arg-type]
        if visible[0]:
            return points[0] * side + (low + high) / 2
    near, far = (float(t) * side for t in box_interval(inward[None], direction[None]))
    if near >= far:
        return None

    def at(t: Tensor) -> Tensor:
        values = field.values((origin + t[:, None] * direction).to(field.device), settings.bands).cpu()
        return values - settings.level

    t = torch.linspace(near, far, _SAMPLES)
    inside = (at(t) < 0).nonzero()
    if not len(inside):
        return None
    index = int(inside[0])
    if index == 0:
        return origin + t[0] * direction
    start, end = t[index - 1].clone(), t[index].clone()
    for _ in range(_HALVINGS):
        middle_t = (start + end) / 2
        start, end = (start, middle_t) if float(at(middle_t[None])) < 0 else (middle_t, end)
    return origin + end * direction


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
