"""Pictures of a trained field, as the dictionary of images that nerfstudio's viewer and renderer take."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sasnet_ns.networks import SASNet, SignedDistanceField
from sasnet_ns.viewer.shading import BACKGROUND, color_distances, plane_hits, shade
from sasnet_ns.viewer.tracing import MISS_DEPTH, DistanceGrid, sample_grid, trace
from sdf_tools.chunks import in_chunks

OUTPUTS = ("rgb", "normals", "depth", "accumulation", "sdf_slice", "masks")
"""Every picture, the viewer's default first."""

_STALE_STEPS = 100  # a grid older than this many training steps is sampled anew


@dataclass(frozen=True)
class ViewSettings:
    """What the viewer's panel controls.

    Attributes:
        level: the signed distance shown as the surface, in box units.
        slice_axis: 0, 1 or 2, the axis that the slice plane is perpendicular to.
        slice_offset: where on that axis it lies, in box units.
        bands: how many of a SASNet's high-frequency bands to use; None for all.
    """

    level: float = 0.0
    slice_axis: int = 0
    slice_offset: float = 0.0
    bands: int | None = None


class SurfaceRenderer:
    """Sphere-traces a field; keeps a coarse grid of its values from picture to picture.

    Args:
        field: the field to show.
        up: (3,) upward direction, for the light.
    """

    def __init__(self, field: SignedDistanceField, up: Float[Tensor, "3"]) -> None:
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
            unit ray, ``MISS_DEPTH`` without a hit; ``accumulation`` 1 or 0; ``sdf_slice``, the distance on a plane as
            colours; ``masks``, the mean mask of the embedding, the first and the last hidden layer as red, green
            and blue.
        """
        settings = settings or ViewSettings()
        values = self._values(settings.bands)
        grid = self._fresh_grid(values, step, settings, origins.device, exact)
        count = origins.shape[0]
        blank = origins.new_full((1, 3), BACKGROUND).expand(count, 3)
        pictures: dict[str, Tensor] = dict.fromkeys(OUTPUTS, blank)

        hits = trace(values, grid, origins, directions, near=near, far=far, level=settings.level, tolerance=tolerance)
        pictures["depth"] = hits.depth[:, None]
        pictures["accumulation"] = hits.hit[:, None].to(origins.dtype)
        points = origins[hits.hit] + hits.depth[hits.hit, None] * directions[hits.hit]
        if "rgb" in wanted or "normals" in wanted:
            normals = torch.zeros_like(origins)
            normals[hits.hit] = self._normals(values, points)
            pictures["rgb"] = shade(normals, directions, hits.hit, self.up.to(origins))
            pictures["normals"] = torch.where(hits.hit[:, None], (normals + 1) / 2, blank)
        if "sdf_slice" in wanted:
            on_plane, visible = plane_hits(origins, directions, settings.slice_axis, settings.slice_offset)
            pictures["sdf_slice"] = _paint(blank, visible, color_distances(values(on_plane[visible]), settings.level))
        if "masks" in wanted and isinstance(self.field.network, SASNet) and self.field.network.config.masks:
            pictures["masks"] = _paint(blank, hits.hit, in_chunks(self._mask_colors, points))
        return pictures

    def _values(self, bands: int | None) -> Callable[[Tensor], Tensor]:
        """The field as a chunked function of (N, 3) points."""
        network = self.field.network
        if bands is None or not isinstance(network, SASNet):
            return lambda points: in_chunks(self.field, points)
        return lambda points: in_chunks(lambda part: network(2 * part, bands=bands)[..., 0], points)

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

    def _normals(self, values: Callable[[Tensor], Tensor], points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Unit gradient of the field, by automatic differentiation."""

        def gradient(part: Tensor) -> Tensor:
            with torch.enable_grad():
                at = part.detach().requires_grad_(True)
                return torch.autograd.grad(values(at).sum(), at)[0]

        return torch.nn.functional.normalize(in_chunks(gradient, points), dim=-1)

    def _mask_colors(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        network = self.field.network
        assert isinstance(network, SASNet)
        layers = network.masks(2 * points)
        chosen = (layers[0], layers[1], layers[-1])
        return torch.stack([points.new_zeros(len(points)) if m is None else m.mean(-1) for m in chosen], -1)


def _paint(blank: Tensor, where: Bool[Tensor, " N"], colors: Tensor) -> Tensor:
    return blank.clone().masked_scatter(where[:, None].expand(-1, 3), colors.to(blank.dtype))


__all__ = ["MISS_DEPTH", "OUTPUTS", "SurfaceRenderer", "ViewSettings"]
