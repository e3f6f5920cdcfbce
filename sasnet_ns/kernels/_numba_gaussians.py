"""A sum of 2-D Gaussians on a CPU, compiled by numba: tile by tile, a block of points at a time.

Threads take the next tile when they are done with one; a tile's sums belong to one thread. A Gaussian's gradients are
kept for each tile that it meets and summed afterwards, so that any number of threads gives the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sasnet_ns.kernels._numba import array, jit, run, scratch, threads_for
from sasnet_ns.kernels._numba_sine import ONE, ZERO
from sasnet_ns.kernels._numba_step import BLOCK, exp_of
from sasnet_ns.kernels._numba_values import claim
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels._vector import dot, wide

if TYPE_CHECKING:
    from sasnet_ns.kernels.gaussians import TileGrid

POINTS_PER_THREAD = 4_096
"""Fewer are not worth a thread."""
_HALF = np.float32(0.5)
_MOMENTS = 5
"""Sums over a tile's points that the gradients by centre and factor are made of; those by the colours come after."""


@jit
def _sort_points(points, low, side, rows, columns):  # type: ignore[no-untyped-def]
    """First point of each tile of a grid that holds all points, and the points in that order."""
    count = points.shape[0]
    tile = np.empty(count, np.int64)
    starts = np.zeros(rows * columns + 1, np.int64)
    for i in range(count):
        # Floors stay floats until they are within the grid: a coordinate too large for an integer touches no memory.
        row = min(max(np.floor((points[i, 0] - low[0]) / side), 0.0), rows - 1.0)
        column = min(max(np.floor((points[i, 1] - low[1]) / side), 0.0), columns - 1.0)
        tile[i] = np.int64(row) * columns + np.int64(column)
        starts[tile[i] + 1] += 1
    for t in range(rows * columns):
        starts[t + 1] += starts[t]
    free, order = starts[:-1].copy(), np.empty(count, np.int64)
    for i in range(count):
        order[free[tile[i]]] = i
        free[tile[i]] += 1
    return starts, order


@jit
def _meet(center, cholesky, low, side, rows, columns, reach, point_starts):  # type: ignore[no-untyped-def]
    """Which tiles with points the bounding box of each Gaussian's contour touches.

    Returns:
        first: (G + 1,) number of a Gaussian's first pair; its pairs follow each other.
        starts: (tiles + 1,) where a tile's list begins.
        gaussians: the Gaussian of each entry of the lists, in order within a tile.
        pairs: and the number of the pair.
    """
    count = center.shape[0]
    box = np.zeros((count, 4), np.int64)
    first, starts = np.zeros(count + 1, np.int64), np.zeros(rows * columns + 1, np.int64)
    limits = (rows - 1.0, columns - 1.0)
    for n in range(count):
        l11, l21, l22 = cholesky[n, 0], cholesky[n, 1], cholesky[n, 2]
        far = (reach * abs(np.float64(l11)), reach * math.hypot(np.float64(l21), np.float64(l22)))
        seen = l11 * l22 != 0 and math.isfinite(far[0]) and math.isfinite(far[1])
        for axis in range(2):
            begin = np.floor((center[n, axis] - far[axis] - low[axis]) / side)
            end = np.floor((center[n, axis] + far[axis] - low[axis]) / side)
            seen = seen and end >= 0 and begin <= limits[axis]  # never where one of them is NaN
            if seen:
                box[n, axis], box[n, 2 + axis] = np.int64(max(begin, 0.0)), np.int64(min(end, limits[axis])) + 1
        if not seen:
            box[n] = 0
        first[n + 1] = first[n]
        for row in range(box[n, 0], box[n, 2]):
            for column in range(box[n, 1], box[n, 3]):
                t = row * columns + column
                if point_starts[t] < point_starts[t + 1]:
                    starts[t + 1] += 1
                    first[n + 1] += 1
    for t in range(rows * columns):
        starts[t + 1] += starts[t]
    free = starts[:-1].copy()
    gaussians, pairs = np.empty(first[count], np.int64), np.empty(first[count], np.int64)
    for n in range(count):
        pair = first[n]
        for row in range(box[n, 0], box[n, 2]):
            for column in range(box[n, 1], box[n, 3]):
                t = row * columns + column
                if point_starts[t] < point_starts[t + 1]:
                    gaussians[free[t]], pairs[free[t]] = n, pair
                    free[t] += 1
                    pair += 1
    return first, starts, gaussians, pairs


@jit
def _weigh(center, cholesky, n, cut, x, y, u, v, weight):  # type: ignore[no-untyped-def]
    """Weights of a Gaussian at a block of points, and the offsets in its own units."""
    wide()
    c0, c1, slope = center[n, 0], center[n, 1], cholesky[n, 1]
    across, along = ONE / cholesky[n, 0], ONE / cholesky[n, 2]
    for b in range(BLOCK):
        first = (x[b] - c0) * across
        second = ((y[b] - c1) - slope * first) * along
        w = exp_of(-_HALF * (first * first + second * second))
        u[b], v[b] = first, second
        weight[b] = w if w >= cut else ZERO


@jit
def _forward_part(part, parts, counter, points, order, point_starts, starts, gaussians, center, cholesky, color, cut, out):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    wide()
    channels = color.shape[1]
    rows = scratch((5 + channels, BLOCK), np.float32)
    x, y, u, v, weight = rows[0], rows[1], rows[2], rows[3], rows[4]
    tile = claim(counter)
    while tile < starts.shape[0] - 1:
        for start in range(point_starts[tile], point_starts[tile + 1], BLOCK):
            count = min(BLOCK, point_starts[tile + 1] - start)
            for b in range(count):
                x[b], y[b] = points[order[start + b], 0], points[order[start + b], 1]
            rows[5:] = ZERO
            for at in range(starts[tile], starts[tile + 1]):
                n = gaussians[at]
                _weigh(center, cholesky, n, cut, x, y, u, v, weight)
                for c in range(channels):
                    total, value = rows[5 + c], color[n, c]
                    for b in range(BLOCK):
                        total[b] += weight[b] * value
            for c in range(channels):
                for b in range(count):
                    out[order[start + b], c] = rows[5 + c, b]
        tile = claim(counter)


@jit
def _backward_part(part, parts, counter, grad, points, order, point_starts, starts, gaussians, pairs, center, cholesky, color, cut, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Sums over each tile's points, into the rows of ``sums`` (pairs, moments + channels)."""
    wide()
    channels = color.shape[1]
    rows = scratch((8 + channels, BLOCK), np.float32)
    x, y, u, v, weight, slope, first, second = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    flat = rows.reshape(-1)
    tile = claim(counter)
    while tile < starts.shape[0] - 1:
        for at in range(starts[tile], starts[tile + 1]):
            sums[pairs[at]] = ZERO
        for start in range(point_starts[tile], point_starts[tile + 1], BLOCK):
            count = min(BLOCK, point_starts[tile + 1] - start)
            rows[8:] = ZERO  # beyond the points no gradient comes in
            for b in range(count):
                x[b], y[b] = points[order[start + b], 0], points[order[start + b], 1]
                for c in range(channels):
                    rows[8 + c, b] = grad[order[start + b], c]
            for at in range(starts[tile], starts[tile + 1]):
                n, total = gaussians[at], sums[pairs[at]]
                _weigh(center, cholesky, n, cut, x, y, u, v, weight)
                slope[:] = ZERO
                for c in range(channels):
                    row, value = rows[8 + c], color[n, c]
                    for b in range(BLOCK):
                        slope[b] -= row[b] * value
                for b in range(BLOCK):
                    slope[b] *= weight[b]
                    first[b], second[b] = slope[b] * u[b], slope[b] * v[b]
                total[0] += dot(flat, 5 * BLOCK, flat, 2 * BLOCK, BLOCK)
                total[1] += dot(flat, 5 * BLOCK, flat, 3 * BLOCK, BLOCK)
                total[2] += dot(flat, 6 * BLOCK, flat, 2 * BLOCK, BLOCK)
                total[3] += dot(flat, 6 * BLOCK, flat, 3 * BLOCK, BLOCK)
                total[4] += dot(flat, 7 * BLOCK, flat, 3 * BLOCK, BLOCK)
                for c in range(channels):
                    total[_MOMENTS + c] += dot(flat, 4 * BLOCK, flat, (8 + c) * BLOCK, BLOCK)
        tile = claim(counter)


@jit
def _add_up(cholesky, first, sums, grad_center, grad_cholesky, grad_color):  # type: ignore[no-untyped-def]
    """Gradients of each Gaussian from its pairs' sums."""
    for n in range(cholesky.shape[0]):
        for pair in range(first[n] + 1, first[n + 1]):
            for k in range(sums.shape[1]):
                sums[first[n], k] += sums[pair, k]
        if first[n] == first[n + 1]:
            grad_center[n], grad_cholesky[n], grad_color[n] = ZERO, ZERO, ZERO
            continue
        total = sums[first[n]]
        across, along = ONE / cholesky[n, 0], ONE / cholesky[n, 2]
        lean = cholesky[n, 1] * along
        grad_center[n, 0], grad_center[n, 1] = -(total[0] - lean * total[1]) * across, -total[1] * along
        grad_cholesky[n, 0] = -(total[2] - lean * total[3]) * across
        grad_cholesky[n, 1], grad_cholesky[n, 2] = -total[3] * along, -total[4] * along
        for c in range(grad_color.shape[1]):
            grad_color[n, c] = total[_MOMENTS + c]


@jit
def _forward(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_forward_part, team, parts, arguments)


@jit
def _backward(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_backward_part, team, parts, arguments)


Tiles = tuple[Any, ...]


def forward(
    points: Tensor, center: Tensor, cholesky: Tensor, color: Tensor, grid: TileGrid, cut: float, reach: float
) -> tuple[Tensor, Tiles]:
    """Sums (N, C) at points (N, 2), at least one and all in the grid, and what :func:`backward` needs beside them."""
    xs, centers, factors = array(points), array(center), array(cholesky)
    point_starts, order = _sort_points(xs, *grid)
    first, *lists = _meet(centers, factors, *grid, reach, point_starts)
    out = points.new_empty(len(points), color.shape[1])
    arguments = (
        np.zeros(1, np.int64),
        xs,
        order,
        point_starts,
        *lists[:2],
        centers,
        factors,
        array(color),
        np.float32(cut),
        out.numpy(),
    )
    run(_forward, _forward_part, threads_for(len(points), POINTS_PER_THREAD), *arguments)
    return out, (order, point_starts, first, *lists)


def backward(
    grad: Tensor, points: Tensor, center: Tensor, cholesky: Tensor, color: Tensor, cut: float, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by centre (G, 2), factor (G, 3) and colour (G, C)."""
    order, point_starts, first, starts, gaussians, pairs = tiles
    sums = np.empty((len(pairs), _MOMENTS + color.shape[1]), np.float32)
    factors, lists = array(cholesky), (starts, gaussians, pairs)
    inputs = (
        np.zeros(1, np.int64),
        array(grad),
        array(points),
        order,
        point_starts,
        *lists,
        array(center),
        factors,
        array(color),
    )
    run(_backward, _backward_part, threads_for(len(points), POINTS_PER_THREAD), *inputs, np.float32(cut), sums)
    found = (center.new_empty(center.shape), center.new_empty(cholesky.shape), center.new_empty(color.shape))
    _add_up(factors, first, sums, *(tensor.numpy() for tensor in found))
    return found
