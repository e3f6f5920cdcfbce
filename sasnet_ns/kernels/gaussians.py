"""A sum of 2-D Gaussians at points, tile by tile: GaussianImage's rasteriser, at any points instead of pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sasnet_ns.kernels._choose import batched, choose, transformed
from sasnet_ns.kernels.functional import Implementation
from sdf_tools.errors import ShapeError

_CUT = 1 / 255  # smallest weight that counts, as in the authors' rasteriser
_REACH = math.sqrt(-2 * math.log(_CUT))  # where a Gaussian falls to it, in standard deviations
_PAIRS = {"cpu": 2**18, "cuda": 2**25}  # pairs of points and Gaussians at a time; the former stay in the cache
_MOST_TILES = 1 << 18  # or four for each point; where points are spread more thinly, tiles are larger


class TileGrid(NamedTuple):
    """Square tiles that hold all points: low corner, side, rows and columns."""

    low: tuple[float, float]
    side: float
    rows: int
    columns: int


def gaussian_sum(
    points: Float[Tensor, "N 2"],
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    color: Float[Tensor, "G C"],
    tile: int = 8,
    implementation: Implementation = "auto",
) -> Float[Tensor, "N C"]:
    """Sum of Gaussians at points, ``sum_n c_n exp(-|L_n^-1 (x - p_n)|^2 / 2)``, differentiable in all of them.

    Points are sorted into square tiles; a Gaussian meets the points of the tiles that the bounding box of its 1/255
    contour touches. Memory and time go with these pairs, not with N times G.

    Args:
        points: (N, 2).
        center: (G, 2), in the points' units.
        cholesky: (G, 3) entries l_11, l_21, l_22 of the covariance's lower triangular factor; a Gaussian with a zero on
            the diagonal is left out.
        color: (G, C) values at the centres.
        tile: side of a tile in the points' units, larger where so many tiles would not fit into memory.
        implementation: ``torch`` (the definition), ``numba`` (a CPU's float32) or ``auto``. Gradients by the points,
            second derivatives, and whatever is traced or transformed (``torch.compile``, ``torch.func``) are torch's;
            under ``vmap`` every Gaussian meets every point.

    Returns:
        (N, C) sums; a Gaussian counts where its weight is at least 1/255.

    Raises:
        ShapeError: the tensors do not fit each other.
        MissingLibraryError: numba is asked for by name and not installed.
        ValueError: a coordinate of a point is NaN or infinite, the tile is not positive, or the implementation is
            unknown or cannot run on these tensors.
    """
    tensors = (points, center, cholesky, color)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    count, channels = len(center), color.shape[-1]
    if shapes != ((len(points), 2), (count, 2), (count, 3), (count, channels)):
        raise ShapeError(f"gaussian_sum takes (N, 2), (G, 2), (G, 3) and (G, C); got {', '.join(map(str, shapes))}.")
    if not tile > 0:
        raise ValueError(f"tile must be positive, not {tile}.")
    fast = points.device.type == "cpu" and all(tensor.dtype == torch.float32 for tensor in tensors)
    backend = choose(implementation, points.device, fast, ("numba",))
    if len(points) == 0:
        return points.new_zeros(0, channels)
    if batched(*tensors):
        return _without_tiles(points, center, cholesky, color)
    grid = _tiles(points.detach(), tile)
    traced = torch.compiler.is_compiling() or transformed(*tensors)
    if backend == "torch" or traced or (points.requires_grad and torch.is_grad_enabled()):
        return _by_torch(points, center, cholesky, color, grid)
    return _ByNumba.apply(points, center, cholesky, color, grid)


def _tiles(points: Float[Tensor, "N 2"], tile: float) -> TileGrid:
    low, high = (ends.tolist() for ends in torch.aminmax(points, dim=0))
    extents = [b - a for a, b in zip(low, high, strict=True)]
    if not all(map(math.isfinite, extents)):
        raise ValueError("points has coordinates that are NaN or infinite.")
    most, side = max(_MOST_TILES, 4 * len(points)), float(tile)
    while math.prod(extent // side + 1 for extent in extents) > most:
        side *= 2
    rows, columns = (int(extent // side) + 1 for extent in extents)
    return TileGrid((low[0], low[1]), side, rows, columns)


class _ByNumba(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, center: Tensor, cholesky: Tensor, color: Tensor, grid: TileGrid) -> Tensor:
        from sasnet_ns.kernels import _numba_gaussians

        out, ctx.tiles = _numba_gaussians.forward(points, center, cholesky, color, grid, _CUT, _REACH)
        ctx.grid = grid
        ctx.save_for_backward(points, center, cholesky, color)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from sasnet_ns.kernels import _numba_gaussians

        points, center, cholesky, color = saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of the derivatives are wanted
            out = _by_torch(points, center, cholesky, color, ctx.grid)
            wanted = [tensor for tensor, needed in zip(saved, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None
        return None, *_numba_gaussians.backward(grad, points, center, cholesky, color, _CUT, ctx.tiles), None


def _by_torch(
    points: Float[Tensor, "N 2"],
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    color: Float[Tensor, "G C"],
    grid: TileGrid,
) -> Float[Tensor, "N C"]:
    """The definition of :func:`gaussian_sum`."""
    slots, (tiles_taken, most), tile_index = _sort_points(points.detach(), grid)
    padded = points.new_zeros(tiles_taken * most, 2).index_copy(0, slots, points).reshape(tiles_taken, most, 2)
    gaussian, owner = _intersections(center.detach(), cholesky.detach(), grid, tile_index)
    per_tile = torch.bincount(owner, minlength=tiles_taken)
    sums = []
    first_pair = 0
    for tiles in _chunks(per_tile * most, _PAIRS.get(points.device.type, 2**25)):
        count = int(per_tile[tiles].sum())
        pair = slice(first_pair, first_pair + count)
        first_pair += count
        which, local = gaussian[pair], owner[pair] - tiles.start
        offset = padded[tiles][local] - center[which][:, None]
        contribution = _weights(offset, cholesky[which][:, None])[..., None] * color[which][:, None]
        total = contribution.new_zeros(tiles.stop - tiles.start, *contribution.shape[1:])
        sums.append(total.index_add(0, local, contribution))
    return torch.cat(sums).flatten(0, 1)[slots]


def _without_tiles(
    points: Float[Tensor, "N 2"],
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    color: Float[Tensor, "G C"],
) -> Float[Tensor, "N C"]:
    """The same sum over all pairs: nothing in it depends on where the points are."""
    counted = (cholesky[:, 0] * cholesky[:, 2] != 0) & torch.isfinite(torch.cat((center, cholesky), 1)).all(1)
    center = torch.where(counted[:, None], center, 0.0)
    cholesky = torch.where(counted[:, None], cholesky, 1.0)
    return _weights(points[:, None] - center, cholesky) @ torch.where(counted[:, None], color, 0.0)


def _weights(offset: Float[Tensor, "*pairs 2"], cholesky: Float[Tensor, "*pairs 3"]) -> Float[Tensor, "*pairs"]:
    """Gaussians at offsets from their centres, zero below the cut."""
    l11, l21, l22 = cholesky.unbind(-1)
    u = offset[..., 0] / l11
    v = (offset[..., 1] - l21 * u) / l22
    weight = torch.exp(-0.5 * (u.square() + v.square()))
    return torch.where(weight < _CUT, torch.zeros_like(weight), weight)


def _sort_points(
    points: Float[Tensor, "N 2"], grid: TileGrid
) -> tuple[Int[Tensor, "N"], tuple[int, int], Int[Tensor, "rows columns"]]:
    """Put points into tiles.

    Returns:
        Each point's slot in a table of occupied tiles by the most points in a tile; the shape of that table; and its
        row for every tile of the grid, -1 for tiles without points.
    """
    low, side, rows, columns = grid
    limits = points.new_tensor((rows - 1, columns - 1), dtype=torch.float64)
    cell = ((points.double() - limits.new_tensor(low)) / side).floor().clamp(min=0).minimum(limits).long()
    flat = cell[:, 0] * columns + cell[:, 1]
    counts = torch.bincount(flat, minlength=rows * columns)
    occupied = counts > 0
    tile_index = torch.where(occupied, occupied.cumsum(0) - 1, -1)
    order = flat.argsort(stable=True)
    rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[flat[order]]
    most = int(counts.max())
    slots = torch.empty_like(flat)
    slots[order] = tile_index[flat[order]] * most + rank
    return slots, (int(occupied.sum()), most), tile_index.reshape(rows, columns)


def _intersections(
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    grid: TileGrid,
    tile_index: Int[Tensor, "rows columns"],
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """Pairs of a Gaussian and an occupied tile that its bounding box touches, sorted by tile."""
    area = cholesky[:, 0] * cholesky[:, 2]
    center, (l11, l21, l22) = center.double(), cholesky.double().unbind(-1)
    reach = _REACH * torch.stack((l11.abs(), torch.hypot(l21, l22)), dim=1)
    limits = center.new_tensor((grid.rows - 1, grid.columns - 1))
    first = ((center - reach - center.new_tensor(grid.low)) / grid.side).floor()
    last = ((center + reach - center.new_tensor(grid.low)) / grid.side).floor()
    seen = ((last >= 0) & (first <= limits)).all(1) & (area != 0) & torch.isfinite(reach).all(1)
    first = torch.minimum(first.clamp(min=0), limits)[seen].long()
    last = torch.minimum(last.clamp(min=0), limits)[seen].long()
    sides = last - first + 1
    counts = sides.prod(1)
    of = torch.repeat_interleave(torch.arange(len(counts), device=center.device), counts)
    nth = torch.arange(len(of), device=center.device) - (counts.cumsum(0) - counts)[of]
    row, column = nth // sides[of, 1], nth % sides[of, 1]
    owner = tile_index[first[of, 0] + row, first[of, 1] + column]
    gaussian = seen.nonzero()[:, 0][of]
    gaussian, owner = gaussian[owner >= 0], owner[owner >= 0]
    order = owner.argsort(stable=True)
    return gaussian[order], owner[order]


def _chunks(work: Int[Tensor, "tiles"], limit: int) -> list[slice]:
    """Consecutive tiles with about ``limit`` of work together, at least one tile each."""
    batch = (work.cumsum(0) // limit).tolist()
    starts = [0, *(i for i in range(1, len(batch)) if batch[i] != batch[i - 1])]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(batch)], strict=True)]
