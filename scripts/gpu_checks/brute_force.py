"""Exact signed distances in plain torch, for machines without numba: every point with every triangle."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.pools import PoolConfig, SDFPool

PAIRS = 1 << 24
"""Points times triangles at a time, some 128 MB a temporary."""


def signed_distance(
    points: Float[Tensor, "N 3"], vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, " N"]:
    """Distance to the nearest triangle, negative where the winding number exceeds one half.

    In float64, from scalar products alone, which are matrix products of points and triangles. The winding number is
    the sum of solid angles (van Oosterom and Strackee 1983).

    Args:
        points: (N, 3).
        vertices: (V, 3), same units.
        faces: (F, 3), counter-clockwise from outside, areas above 0.
    """
    a, b, c = (vertices.double()[faces[:, k]] for k in range(3))
    size = max(1, PAIRS // faces.shape[0])
    return torch.cat([_part(part.double(), a, b, c) for part in points.split(size)]).to(points.dtype)


def _part(p: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    normal = torch.linalg.cross(b - a, c - a)
    own = p.square().sum(1)[:, None]
    # (N, F) squared distances to the corners
    squares = [own - 2 * p @ v.T + v.square().sum(1) for v in (a, b, c)]
    height = p @ normal.T - (a * normal).sum(1)  # times the normal's length
    inside, to_edges = torch.ones_like(height, dtype=torch.bool), torch.full_like(height, math.inf)
    for (start, end), square in zip(((a, b), (b, c), (c, a)), squares, strict=True):
        edge, side = end - start, torch.linalg.cross(normal, end - start)
        inside &= p @ side.T >= (start * side).sum(1)
        along, length = p @ edge.T - (start * edge).sum(1), edge.square().sum(1)
        t = (along / length).clamp(0, 1)
        to_edges = torch.minimum(to_edges, square - t * (2 * along - t * length))
    nearest = torch.where(inside, height.square() / normal.square().sum(1), to_edges)
    la, lb, lc = (square.clamp_min(0).sqrt() for square in squares)
    dots = [own - p @ (u + v).T + (u * v).sum(1) for u, v in ((a, b), (b, c), (c, a))]
    angles = torch.atan2(-height, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb)
    outside = angles.sum(1) / (2 * math.pi) < 0.5
    return nearest.amin(1).clamp_min(0).sqrt() * torch.where(outside, 1.0, -1.0)


def build_pool(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], config: PoolConfig, device: torch.device
) -> SDFPool:
    """A pool as ``config.build_pool`` makes it, with other random numbers, on ``device``."""
    generator = torch.Generator().manual_seed(config.seed)
    uniform = round(config.pool_size * config.uniform_share)
    coarse = (config.pool_size - uniform) // 2
    counts = (config.pool_size - uniform - coarse, coarse, uniform)
    near = torch.cat([torch.full((counts[0],), config.fine_scale), _coarse_scales(coarse, config, generator)])
    points = surface(vertices, faces, counts[0] + coarse, generator)
    share = torch.rand(points.shape, generator=generator, dtype=torch.float64) - 0.5
    noise = -share.sign() * (1 - 2 * share.abs()).clamp_min(1e-12).log()  # Laplace
    points = (points + near[:, None] * noise).clamp(-0.5, 0.5)
    anywhere = torch.rand(uniform, 3, generator=generator, dtype=torch.float64) - 0.5
    points = torch.cat([points, anywhere]).float().to(device)
    sdf = signed_distance(points, vertices.to(device), faces.to(device))
    kind = torch.repeat_interleave(torch.arange(3, dtype=torch.uint8), torch.tensor(counts)).to(device)
    return SDFPool(points, sdf, kind, counts)


def _coarse_scales(count: int, config: PoolConfig, generator: torch.Generator) -> Tensor:
    scales = torch.tensor(config.coarse_scales)
    return scales[torch.randint(len(scales), (count,), generator=generator)]


def surface(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], count: int, generator: torch.Generator
) -> Float[Tensor, "count 3"]:
    """Points uniform on a mesh, float64."""
    a, b, c = (vertices.double()[faces[:, k]] for k in range(3))
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1).cumsum(0)
    rows = torch.searchsorted(areas, torch.rand(count, generator=generator, dtype=torch.float64) * areas[-1])
    rows = rows.clamp_max(len(areas) - 1)
    u, v = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    root = u.sqrt()
    return (1 - root) * a[rows] + root * (1 - v) * b[rows] + root * v * c[rows]
