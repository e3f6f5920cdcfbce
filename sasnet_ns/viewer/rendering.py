"""Pictures of a trained field, as the dictionary of images that nerfstudio's viewer and renderer take."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sasnet_ns.viewer.quantities import Reference, Scale, ViewSettings, color_values, evaluate
from sasnet_ns.viewer.shading import BACKGROUND, color_distances, plane_hits, shade
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.tracing import MISS_DEPTH, DistanceGrid, sample_grid, trace

OUTPUTS = ("rgb", "normals", "depth", "accumulation", "sdf_slice", "masks")
"""Every picture that ns-render and ns-export can ask for, the default first."""

_RAYS_AT_ONCE = 1 << 18  # more would take gigabytes
_STALE_STEPS = 100  # a grid older than this many training steps is sampled anew


class SurfaceRenderer:
    """Sphere-traces a field; keeps a coarse grid of its values from picture to picture.

    Args:
        field: the field to show.
        up: (3,) upward direction, for the light.
    """

    def __init__(self, field: ShownField, up: Float[Tensor, "3"]) -> None:
        self.field = field
        self.up = up
        self._grid: DistanceGrid | None = None
        self._grid_step = -1
        self._grid_settings: tuple[int | None, float] = (None, 0.0)

    def render(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        *,
        step: int,
        near: Float[Tensor, " N"] | None = None,
        far: Float[Tensor, " N"] | None = None,
        settings: ViewSettings | None = None,
        wanted: Collection[str] = OUTPUTS,
        tolerance: float = 5e-4,
        exact: bool = False,
    ) -> dict[str, Tensor]:
        """Pictures of N rays.

        Args:
            origins: (N, 3) in box units.
            directions: (N, 3) unit vectors.
            step: training step of the field's weights, by which the cached grid is known to be fresh.
            near: (N,) where each ray starts, for a cropped view.
            far: (N,) where each ray ends.
            settings: what to show; the surface at distance 0 by default.
            wanted: pictures to compute; the others come back blank, at no cost.
            tolerance: how exactly rays find the surface, in box units.
            exact: whether the grid must be of this very step.

        Returns:
            One (N, C) tensor per name in :data:`OUTPUTS`: shaded ``rgb``; ``normals`` (n + 1) / 2; ``depth`` along the
            unit ray, ``MISS_DEPTH`` without a hit; ``accumulation`` 1 or 0; ``sdf_slice``, the distance on the
            settings' plane as colours; ``masks``, the settings' mask on its own colour scale (blank for networks
            without masks).
        """
        settings = settings or ViewSettings()
        blank = origins.new_full((1, 3), BACKGROUND).expand(len(origins), 3)
        pictures: dict[str, Tensor] = dict.fromkeys(OUTPUTS, blank)
        depth, hit = self.trace(origins, directions, settings, step, near, far, tolerance, exact)
        pictures["depth"] = depth[:, None]
        pictures["accumulation"] = hit[:, None].to(origins.dtype)
        points = origins[hit] + depth[hit, None] * directions[hit]
        if "rgb" in wanted or "normals" in wanted:
            normals = torch.zeros_like(origins)
            normals[hit] = self.normals(points, settings.bands)
            pictures["rgb"] = shade(normals, directions, hit, self.up.to(origins))
            pictures["normals"] = torch.where(hit[:, None], (normals + 1) / 2, blank)
        if "sdf_slice" in wanted:
            on_plane, visible = plane_hits(origins, directions, settings.plane_point, settings.plane_normal)
            distance = self.field.values(on_plane[visible], settings.bands)
            pictures["sdf_slice"] = _paint(blank, visible, color_distances(distance, settings.level))
        layers = self.field.mask_layers
        if "masks" in wanted and layers:
            layer = settings.mask_layer if settings.mask_layer in layers else max(layers)
            values = self.field.mask(points, layer, settings.mask_group)
            pictures["masks"] = _paint(blank, hit, color_values(values, "mask", "sequential")[0])
        return pictures

    def picture(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        settings: ViewSettings,
        step: int,
        tolerance: float,
        reference: Reference | None = None,
        deadline: float = math.inf,
        scale: Scale | None = None,
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"], Scale | None]:
        """What the viewer shows: one picture with the surface coloured and cut as the settings say.

        Args:
            origins: (N, 3) scene coordinates.
            directions: (N, 3) unit vectors.
            settings: what to show.
            step: training step of the weights.
            tolerance: how exactly rays find the surface.
            reference: distance from the input, for errors.
            deadline: ``time.monotonic()`` after which rays that are on their way count as misses.
            scale: colour bar to paint by; None for that of these points.

        Returns:
            (N, 3) colours, (N,) depths along the rays with ``MISS_DEPTH`` for misses, and the colour bar.
        """
        near = far = None
        if settings.cut:
            near, far = half_space(origins, directions, settings)
        depth, hit = self.trace(origins, directions, settings, step, near, far, tolerance, False, deadline)
        points = origins[hit] + depth[hit, None] * directions[hit]
        normals = torch.zeros_like(origins)
        normals[hit] = self.normals(points, settings.bands)
        shaded = shade(normals, directions, hit, self.up.to(origins))
        if settings.color == "shaded" or not len(points):
            return shaded, depth, None
        if settings.color == "normals":
            return torch.where(hit[:, None], (normals + 1) / 2, shaded), depth, None
        values, title, kind = evaluate(self.field, settings.color, points, settings, reference)
        painted, scale = color_values(values, title, kind, scale=scale)
        # Half of the light stays, so that form is seen as well.
        light = 0.55 + 0.45 * shaded[hit].mean(dim=-1, keepdim=True)
        return _paint(torch.full_like(shaded, BACKGROUND), hit, painted.to(shaded) * light), depth, scale

    def trace(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        settings: ViewSettings,
        step: int,
        near: Float[Tensor, " N"] | None = None,
        far: Float[Tensor, " N"] | None = None,
        tolerance: float = 5e-4,
        exact: bool = False,
        deadline: float = math.inf,
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """(N,) depths of the surface along rays, and whether there is one; arguments as for the other methods."""

        def values(points: Tensor) -> Tensor:
            return self.field.values(points, settings.bands)

        grid = self._fresh_grid(values, step, settings, origins.device, exact)
        options: Any = {"level": settings.level, "tolerance": tolerance, "deadline": deadline}
        hits = []
        for start in range(0, max(1, len(origins)), _RAYS_AT_ONCE):
            at = slice(start, start + _RAYS_AT_ONCE)
            ends: Any = {"near": None if near is None else near[at], "far": None if far is None else far[at]}
            hits.append(trace(values, grid, origins[at], directions[at], **ends, **options))
        return torch.cat([part.depth for part in hits]), torch.cat([part.hit for part in hits])

    def _fresh_grid(
        self, values: Callable[[Tensor], Tensor], step: int, settings: ViewSettings, device: torch.device, exact: bool
    ) -> DistanceGrid:
        wanted = (settings.bands, settings.level)
        # Coarse shape hardly changes late in training, and the margin of a cell covers what does.
        stale = abs(step - self._grid_step) > (0 if exact else min(_STALE_STEPS, step // 4))
        if self._grid is None or stale or wanted != self._grid_settings or self._grid.values.device != device:
            self._grid = sample_grid(values, device, settings.level)
            self._grid_step, self._grid_settings = step, wanted
        return self._grid

    def normals(self, points: Float[Tensor, "N 3"], bands: int | None) -> Float[Tensor, "N 3"]:
        """Unit gradient of the field."""
        return torch.nn.functional.normalize(self.field.value_and_gradient(points, bands)[1], dim=-1)


def half_space(origins: Tensor, directions: Tensor, settings: ViewSettings) -> tuple[Tensor, Tensor]:
    """(N,) where rays enter and leave what lies behind the plane, seen from where its normal points."""
    point, normal = origins.new_tensor(settings.plane_point), origins.new_tensor(settings.plane_normal)
    ahead, slope = (origins - point) @ normal, directions @ normal
    crossing = -ahead / torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)
    near = torch.where((slope < 0) & (ahead > 0), crossing, torch.zeros_like(ahead))
    far = torch.where((slope > 0) & (ahead < 0), crossing, torch.full_like(ahead, torch.inf))
    far = torch.where((slope >= 0) & (ahead > 0), torch.zeros_like(far), far)
    return near, far


def _paint(blank: Tensor, where: Bool[Tensor, " N"], colors: Tensor) -> Tensor:
    return blank.clone().masked_scatter(where[:, None].expand(-1, 3), colors.to(blank))


__all__ = ["MISS_DEPTH", "OUTPUTS", "SurfaceRenderer", "ViewSettings"]
