"""Sphere tracing of a signed distance field (Hart 1996) that stays responsive on a CPU.

Two things make it quick: a coarse grid of the field's own values lets rays cross empty space without touching the
network, and only the rays that are still on their way are evaluated. There is no Python loop over rays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Field = Callable[[Tensor], Tensor]

HALF_SIDE = 0.5  # box units
MISS_DEPTH = 1e3


@dataclass(frozen=True)
class DistanceGrid:
    """Samples of a field on a regular grid over [-0.5, 0.5]^3.

    Attributes:
        values: (1, 1, R, R, R) signed distances, axes z y x as ``grid_sample`` wants them.
    """

    values: Float[Tensor, "1 1 R R R"]

    @property
    def cell(self) -> float:
        """Side of a cell in box units."""
        return 2 * HALF_SIDE / (self.values.shape[-1] - 1)

    def __call__(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Trilinear interpolation at (N, 3) box coordinates."""
        places = (points / HALF_SIDE).view(1, 1, 1, -1, 3)
        return F.grid_sample(self.values, places, align_corners=True, padding_mode="border").view(-1)


@torch.no_grad()
def sample_grid(
    field: Field, device: torch.device, level: float = 0.0, base_cells: int = 32, refinements: int = 2
) -> DistanceGrid:
    """Sample a field coarsely everywhere and finely near the surface.

    Each refinement halves the cells; only points within two of the former cells of the surface are evaluated anew. The
    others keep what interpolation gives, less the former cell's side: a bound that no ray steps over, since a distance
    changes by no more than the way.

    Args:
        field: signed distances at (N, 3) box coordinates.
        device: where the points are made.
        level: the value that counts as the surface.
        base_cells: cells of the first grid along each side of the box.
        refinements: how often to halve them; 32 cells and 2 give 128 at a tenth of the evaluations.
    """
    grid = DistanceGrid(field(_lattice(base_cells, device)).float().view(1, 1, *[base_cells + 1] * 3))
    for refinement in range(1, refinements + 1):
        cells = base_cells << refinement
        points = _lattice(cells, device)
        values = grid(points)
        near = (values - level).abs() < 2 * grid.cell
        values = torch.where(values > level, values - grid.cell, values + grid.cell)
        values[near] = field(points[near]).float()
        grid = DistanceGrid(values.view(1, 1, *[cells + 1] * 3))
    return grid


def _lattice(cells: int, device: torch.device) -> Float[Tensor, "N 3"]:
    """The ((cells + 1)^3, 3) corners of a grid over the box, in the order of ``DistanceGrid.values``."""
    line = torch.linspace(-HALF_SIDE, HALF_SIDE, cells + 1, device=device)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flip(-1).reshape(-1, 3)


@dataclass(frozen=True)
class Hits:
    """Where rays meet a surface.

    Attributes:
        depth: (N,) distance along the unit ray, ``MISS_DEPTH`` where there is no hit.
        hit: (N,) whether the ray met the surface inside the box.
    """

    depth: Float[Tensor, " N"]
    hit: Bool[Tensor, " N"]


def box_interval(
    origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Entry and exit distances of (N, 3) rays through [-0.5, 0.5]^3, entry at least 0; exit < entry for a miss."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (-HALF_SIDE - origins) / safe, (HALF_SIDE - origins) / safe
    return torch.minimum(first, second).amax(-1).clamp_min(0), torch.maximum(first, second).amin(-1)


@torch.no_grad()
def trace(
    field: Field,
    grid: DistanceGrid,
    origins: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    *,
    near: Float[Tensor, " N"] | None = None,
    far: Float[Tensor, " N"] | None = None,
    level: float = 0.0,
    tolerance: float = 5e-4,
    max_steps: int = 64,
    deadline: float = math.inf,
) -> Hits:
    """Find where each ray first meets ``field = level``, coming from outside.

    Far from the surface a ray advances by the grid's distance less a margin of one cell; near it by the network's.
    When the sign changes between two points on a ray, the place between them is found by two steps of regula falsi.

    Args:
        field: signed distances at (N, 3) box coordinates.
        grid: the same field, sampled.
        origins: (N, 3) ray origins in box units.
        directions: (N, 3) unit directions.
        near: (N,) distance at which each ray starts, in addition to the box.
        far: (N,) distance at which each ray ends.
        level: the value that counts as the surface.
        tolerance: how close to the surface is close enough, in box units.
        max_steps: rays that are not there by then count as misses.
        deadline: ``time.monotonic()`` after which the rest count as misses too: a field that is no distance yet would
            keep rays on their way for seconds.

    Returns:
        Depth and hit for every ray.
    """
    start, stop = box_interval(origins, directions)
    if near is not None:
        start = torch.maximum(start, near)
    if far is not None:
        stop = torch.minimum(stop, far)
    depth = torch.full_like(start, MISS_DEPTH)
    hit = torch.zeros_like(start, dtype=torch.bool)

    rays = (start < stop).nonzero()[:, 0]
    t, end = start[rays], stop[rays]
    o, d = origins[rays], directions[rays]
    # Where and how far outside each ray was last evaluated; the start counts as outside.
    before_t, before = t.clone(), torch.full_like(t, torch.inf)
    margin = grid.cell
    for _ in range(max_steps):
        if rays.numel() == 0 or time.monotonic() > deadline:
            break
        points = o + t[:, None] * d
        value = grid(points) - level
        close = value < 1.5 * margin
        step = value - margin
        exact = value.new_full(value.shape, torch.inf)
        if close.any():
            exact[close] = field(points[close]).to(value.dtype) - level
            # Networks are not exactly 1-Lipschitz: go a little less far than they say.
            step = torch.where(close, 0.9 * exact.clamp_min(0) + 0.25 * tolerance, step)

        crossed = exact < 0
        found = crossed | (exact < tolerance)
        if found.any():
            refined = _between(
                field, level, o[found], d[found], before_t[found], before[found], t[found], exact[found], crossed[found]
            )
            depth[rays[found]] = refined
            hit[rays[found]] = True
        before_t, before = torch.where(close, t, before_t), torch.where(close, exact, before)
        t = t + step
        on = ~found & (t < end)
        rays, t, end, o, d, before_t, before = (x[on] for x in (rays, t, end, o, d, before_t, before))
    return Hits(depth, hit)


def _between(
    field: Field,
    level: float,
    o: Tensor,
    d: Tensor,
    before_t: Tensor,
    before: Tensor,
    t: Tensor,
    value: Tensor,
    crossed: Tensor,
) -> Tensor:
    """Depth of the surface for rays that found it: refined between the last two points where the sign changed."""
    bracketed = crossed & before.isfinite() & (before > 0)
    if not bracketed.any():
        return t
    low_t, low, high_t, high = before_t[bracketed], before[bracketed], t[bracketed], value[bracketed]
    origins, directions = o[bracketed], d[bracketed]
    middle = high_t
    for last in (False, True):
        middle = low_t + (high_t - low_t) * low / (low - high)
        if last:
            break
        inner = field(origins + middle[:, None] * directions).to(low.dtype) - level
        inside = inner < 0
        low_t, low = torch.where(inside, low_t, middle), torch.where(inside, low, inner.clamp_min(1e-12))
        high_t, high = torch.where(inside, middle, high_t), torch.where(inside, inner, high)
    return t.masked_scatter(bracketed, middle)
