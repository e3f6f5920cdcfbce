"""Hash grid on a CPU, compiled by numba.

Points are handled in blocks that stay in the first-level cache: row numbers and weights of a block are computed by
loops over points that vectorise, then each point's corners are gathered or scattered. Corners are built up axis by
axis: those of the first ``k`` axes are doubled by axis ``k``. Threads share out points where results are per point, and
levels where the result is a table, so no two threads write the same entry.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels._numba import array, entry, jit, run, scratch, span, threads_for
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels.layout import PRIMES, HashGridLayout

BLOCK = 128
"""Points per block: corner rows and weights of 3D points take 8 KB."""
POINTS_PER_THREAD = 1024
PRIME1, PRIME2, PRIME3 = PRIMES[1:]


@jit
def _transpose(points, start, count, columns):  # type: ignore[no-untyped-def]
    """Rows ``start`` onwards of ``points`` (N, in_dim) as columns (in_dim, B), which loops over points can stream."""
    if points is not None:
        for b in range(count):
            for axis in range(points.shape[1]):
                columns[axis, b] = points[start + b, axis]


# Inlined, because a call from a cached function is not, and the loops would not become vector instructions.
@numba.njit(inline="always")
def _locate(x, scale, rate, last):  # type: ignore[no-untyped-def]
    """Cell of a coordinate, clamped to the box, and the fraction of the way through it."""
    one = type(x)(1)
    clamped = min(max(x, -one), one)
    # the cell is found without an addition after the product, so that no machine can fuse the two and pick another
    # cell; the fraction in one fused step keeps all its digits
    cell = min(np.floor((clamped + one) * type(x)(0.5) * scale), last)
    # NaN is in no cell: it takes the first one, so that it touches no foreign memory, and stays NaN in the fraction
    safe = cell if cell >= type(x)(0) else type(x)(0)
    return np.int32(safe), clamped * rate + (rate - cell)


@jit
def _address(columns, smooth, count, level, table_mask, key, rows, factors):  # type: ignore[no-untyped-def]
    """Corner rows (corners, B) of a block within the level, and per axis and corner bit the factor of the weight.

    ``factors`` is (3, 2 * in_dim, B): factor ``2 * axis + bit`` and its first two derivatives by x.
    """
    number = columns.dtype.type
    zero, half, one, two, three, six = number(0), number(0.5), number(1), number(2), number(3), number(6)
    resolution, dense = level[0], level[2]
    scale = number(resolution - 1)
    rate = scale * half
    last = number(resolution - 2)
    # and distributes over xor, so hashes can be cut to the table's size axis by axis
    mask = np.uint32(0xFFFFFFFF) if dense else np.uint32(table_mask)
    stride = 1
    for axis in range(columns.shape[0]):
        prime = PRIME1 if axis == 1 else PRIME2 if axis == 2 else PRIME3 if axis == 3 else 1
        multiplier = np.int64(stride if dense else prime)
        stride *= resolution
        column = columns[axis]
        value_low, value_high = factors[0, 2 * axis], factors[0, 2 * axis + 1]
        slope_low, slope_high = factors[1, 2 * axis], factors[1, 2 * axis + 1]
        for b in range(count):
            cell, t = _locate(column[b], scale, rate, last)
            key[b] = np.uint32((cell * multiplier) & mask)
            value_low[b], value_high[b] = one - t, t
        for b in range(count):
            slope = rate if min(max(column[b], -one), one) == column[b] else zero
            slope_low[b], slope_high[b] = -slope, slope
        if smooth:
            bend_low, bend_high = factors[2, 2 * axis], factors[2, 2 * axis + 1]
            for b in range(count):
                t, slope = value_high[b], slope_high[b]
                first, second = slope * six * t * (one - t), slope * slope * six * (one - two * t)
                slope_low[b], slope_high[b] = -first, first
                bend_low[b], bend_high[b] = -second, second
                t = t * t * (three - two * t)
                value_low[b], value_high[b] = one - t, t
        if axis == 0:
            first_row, second_row = rows[0], rows[1]
            for b in range(count):
                first_row[b] = key[b]
                second_row[b] = np.uint32((key[b] + multiplier) & mask)
        else:
            for corner in range(1 << axis):
                low, high = rows[corner], rows[corner + (1 << axis)]
                if dense:
                    for b in range(count):
                        total = low[b] + key[b]
                        low[b], high[b] = np.uint32(total), np.uint32(total + multiplier)
                else:
                    for b in range(count):
                        before = low[b]
                        low[b], high[b] = np.uint32(before ^ key[b]), np.uint32(before ^ ((key[b] + multiplier) & mask))


@jit
def _corners(columns, axes, smooth, count, level, table_mask, rows, weights):  # type: ignore[no-untyped-def]
    """Corner rows of a block within the level and their weights, both (corners * BLOCK,).

    One loop over the points for all corners. The corners' numbers lie in one flat array a constant distance apart, or
    the compiler could not tell that they never overlap, and would not make vector instructions of the loop.
    """
    number = columns.dtype.type
    half, one, two, three = number(0.5), number(1), number(2), number(3)
    resolution, dense = level[0], level[2]
    scale = number(resolution - 1)
    rate = scale * half
    last = number(resolution - 2)
    mask = np.uint32(0xFFFFFFFF) if dense else np.uint32(table_mask)
    stride1 = np.uint32(resolution if dense else PRIME1)
    stride2 = np.uint32(resolution * resolution if dense else PRIME2)
    stride3 = np.uint32(resolution * resolution * resolution if dense else PRIME3)
    for b in range(count):
        for axis in range(len(axes)):
            stride = stride1 if axis == 1 else stride2 if axis == 2 else stride3 if axis == 3 else np.uint32(1)
            cell, t = _locate(columns[axis, b], scale, rate, last)
            if smooth:
                t = t * t * (three - two * t)
            near = np.uint32(np.uint32(cell) * stride) & mask
            far = np.uint32(near + stride) & mask
            if axis == 0:
                rows[b], rows[BLOCK + b] = near, far
                weights[b], weights[BLOCK + b] = one - t, t
            else:
                for corner in range(1 << axis):
                    low, high = corner * BLOCK + b, (corner + (1 << axis)) * BLOCK + b
                    row, weight = rows[low], weights[low]
                    rows[low] = np.uint32(row + near) if dense else np.uint32(row ^ near)
                    rows[high] = np.uint32(row + far) if dense else np.uint32(row ^ far)
                    weights[low], weights[high] = weight * (one - t), weight * t


@jit
def _weigh(tangents, count, factors, values, weights):  # type: ignore[no-untyped-def]
    """Derivatives of the corner weights (corners, B) along ``tangents`` (in_dim, B)."""
    # (values, weights) are dual numbers: a product so far and its derivative
    for bit in range(2):
        value, weight, factor, rate = values[bit], weights[bit], factors[0, bit], factors[1, bit]
        for b in range(count):
            value[b], weight[b] = factor[b], rate[b] * tangents[0, b]
    for axis in range(1, tangents.shape[0]):
        tangent, rate = tangents[axis], factors[1, 2 * axis + 1]
        below, above = factors[0, 2 * axis], factors[0, 2 * axis + 1]
        for corner in range(1 << axis):
            low, high = weights[corner], weights[corner + (1 << axis)]
            value_low, value_high = values[corner], values[corner + (1 << axis)]
            for b in range(count):
                value, before, change = value_low[b], low[b], rate[b] * tangent[b]
                low[b], high[b] = before * below[b] - value * change, before * above[b] + value * change
                value_low[b], value_high[b] = value * below[b], value * above[b]


@jit
def _reduce(axis, tangents, use_tangents, count, factors, dots, values, slopes, total):  # type: ignore[no-untyped-def]
    """Add to ``total`` (B) the derivative by x_axis of sum_c weight_c dots_c, or its derivative along ``tangents``."""
    in_dim = tangents.shape[0]
    zero = dots.dtype.type(0)
    for corner in range(1 << in_dim):
        value, slope, dot = values[corner], slopes[corner], dots[corner]
        for b in range(count):
            value[b], slope[b] = dot[b], zero
    for other in range(in_dim - 1, -1, -1):
        # the factor of this axis is differentiated once more than the others
        order = 1 if other == axis else 0
        below, above = factors[order, 2 * other], factors[order, 2 * other + 1]
        rate, tangent = factors[order + 1, 2 * other + 1], tangents[other]
        for corner in range(1 << other):
            low, high = values[corner], values[corner + (1 << other)]
            if use_tangents:
                slope_low, slope_high = slopes[corner], slopes[corner + (1 << other)]
                for b in range(count):
                    change = rate[b] * tangent[b] * (high[b] - low[b])
                    slope_low[b] = slope_low[b] * below[b] + slope_high[b] * above[b] + change
            for b in range(count):
                low[b] = low[b] * below[b] + high[b] * above[b]
    result = slopes[0] if use_tangents else values[0]
    for b in range(count):
        total[b] += result[b]


@jit
def _gather_network(part, parts, x, axes, channels, smooth, v, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    begin, end = span(part, parts, x.shape[0])
    in_dim, corners, zero = x.shape[1], 1 << len(axes), x.dtype.type(0)
    columns, tangents = scratch((in_dim, BLOCK), x.dtype), scratch((in_dim, BLOCK), x.dtype)
    key, rows = scratch((BLOCK,), np.uint32), scratch((corners, BLOCK), np.uint32)
    factors = scratch((3, 2 * in_dim, BLOCK), x.dtype)
    values, weights = scratch((corners, BLOCK), x.dtype), scratch((corners, BLOCK), x.dtype)
    flat_rows, flat_weights = rows.reshape(-1), weights.reshape(-1)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _transpose(x, start, count, columns)
        _transpose(v, start, count, tangents)
        for level in range(levels.shape[0]):
            if v is None:
                _corners(columns, axes, smooth, count, levels[level], table_mask, flat_rows, flat_weights)
            else:
                _address(columns, smooth, count, levels[level], table_mask, key, rows, factors)
                _weigh(tangents, count, factors, values, weights)
            entries = table[levels[level, 1] :]
            if len(channels) == 2:  # the usual number; one pass over the corners instead of two
                for b in range(count):
                    first, second = zero, zero
                    for corner in range(corners):
                        row, weight = rows[corner, b], weights[corner, b]
                        first += weight * entries[row, 0]
                        second += weight * entries[row, 1]
                    out[start + b, 2 * level] = first
                    out[start + b, 2 * level + 1] = second
            else:
                for b in range(count):
                    for channel in range(len(channels)):
                        total = zero
                        for corner in range(corners):
                            total += weights[corner, b] * entries[rows[corner, b], channel]
                        out[start + b, level * len(channels) + channel] = total


@jit
def _scatter_network(part, parts, x, axes, channels, smooth, v, g, levels, table_mask, tables):  # type: ignore[no-untyped-def]
    # a lane does every so many-th level; beyond as many lanes as levels the points are shared, with a table for each
    copies = tables.shape[0]
    lanes, lane = parts // copies, part // copies
    begin, end = span(part % copies, copies, x.shape[0])
    out = tables[part % copies]
    in_dim, corners = x.shape[1], 1 << len(axes)
    columns, tangents = scratch((in_dim, BLOCK), x.dtype), scratch((in_dim, BLOCK), x.dtype)
    key, rows = scratch((BLOCK,), np.uint32), scratch((corners, BLOCK), np.uint32)
    factors = scratch((3, 2 * in_dim, BLOCK), x.dtype)
    values, weights = scratch((corners, BLOCK), x.dtype), scratch((corners, BLOCK), x.dtype)
    flat_rows, flat_weights = rows.reshape(-1), weights.reshape(-1)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _transpose(x, start, count, columns)
        _transpose(v, start, count, tangents)
        for level in range(lane, levels.shape[0], lanes):
            if v is None:
                _corners(columns, axes, smooth, count, levels[level], table_mask, flat_rows, flat_weights)
            else:
                _address(columns, smooth, count, levels[level], table_mask, key, rows, factors)
                _weigh(tangents, count, factors, values, weights)
            entries = out[levels[level, 1] :]
            if len(channels) == 2:
                for b in range(count):
                    first, second = g[start + b, 2 * level], g[start + b, 2 * level + 1]
                    for corner in range(corners):
                        row, weight = rows[corner, b], weights[corner, b]
                        entries[row, 0] += weight * first
                        entries[row, 1] += weight * second
            else:
                for b in range(count):
                    for corner in range(corners):
                        row, weight = rows[corner, b], weights[corner, b]
                        for channel in range(len(channels)):
                            entries[row, channel] += weight * g[start + b, level * len(channels) + channel]


@jit
def _contract_network(part, parts, x, axes, channels, smooth, v, g, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    begin, end = span(part, parts, x.shape[0])
    in_dim, corners, zero = x.shape[1], 1 << len(axes), x.dtype.type(0)
    columns, tangents = scratch((in_dim, BLOCK), x.dtype), scratch((in_dim, BLOCK), x.dtype)
    key, rows = scratch((BLOCK,), np.uint32), scratch((corners, BLOCK), np.uint32)
    factors, dots = scratch((3, 2 * in_dim, BLOCK), x.dtype), scratch((corners, BLOCK), x.dtype)
    values, slopes = scratch((corners, BLOCK), x.dtype), scratch((corners, BLOCK), x.dtype)
    sums = scratch((in_dim, BLOCK), x.dtype)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        for axis in range(in_dim):
            for b in range(count):
                sums[axis, b] = 0
        _transpose(x, start, count, columns)
        _transpose(v, start, count, tangents)
        for level in range(levels.shape[0]):
            _address(columns, smooth, count, levels[level], table_mask, key, rows, factors)
            entries = table[levels[level, 1] :]
            if len(channels) == 2:
                for b in range(count):
                    first, second = g[start + b, 2 * level], g[start + b, 2 * level + 1]
                    for corner in range(corners):
                        row = rows[corner, b]
                        dots[corner, b] = entries[row, 0] * first + entries[row, 1] * second
            else:
                for b in range(count):
                    for corner in range(corners):
                        total = zero
                        for channel in range(len(channels)):
                            total += entries[rows[corner, b], channel] * g[start + b, level * len(channels) + channel]
                        dots[corner, b] = total
            for axis in range(in_dim):
                _reduce(axis, tangents, v is not None, count, factors, dots, values, slopes, sums[axis])
        for b in range(count):
            for axis in range(in_dim):
                out[start + b, axis] = sums[axis, b]


@jit
def _gather_part(part, parts, x, axes, channels, smooth, v, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    for k in range(x.shape[0]):
        _gather_network(part, parts, x[k], axes, channels, smooth, entry(v, k), table[k], levels, table_mask, out[k])


@jit
def _scatter_part(part, parts, x, axes, channels, smooth, v, g, levels, table_mask, tables):  # type: ignore[no-untyped-def]
    for k in range(x.shape[0]):
        _scatter_network(part, parts, x[k], axes, channels, smooth, entry(v, k), g[k], levels, table_mask, tables[k])


@jit
def _contract_part(part, parts, x, axes, channels, smooth, v, g, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    for k in range(x.shape[0]):
        _contract_network(part, parts, x[k], axes, channels, smooth, entry(v, k), g[k], table[k], levels, table_mask, out[k])  # fmt: skip  # noqa: E501


@jit
def _gather(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_gather_part, team, parts, arguments)


@jit
def _scatter(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_scatter_part, team, parts, arguments)


@jit
def _contract(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_contract_part, team, parts, arguments)


@functools.cache
def _constants(layout: HashGridLayout) -> tuple[tuple[int, ...], tuple[int, ...], bool, np.ndarray]:
    """What the kernels compile against, as lengths of tuples; smoothstep; (levels, 3): resolution, first row, dense."""
    levels = np.array(list(zip(layout.resolutions, layout.offsets, layout.dense, strict=True)), dtype=np.int64)
    return (0,) * layout.in_dim, (0,) * layout.feature_dim, layout.interpolation == "smoothstep", levels


def gather(x: Tensor, v: Tensor | None, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Features (K, N, out_dim) of points x (K, N, d), or their derivatives along v (K, N, d)."""
    out = x.new_empty(*x.shape[:2], layout.out_dim)
    axes, channels, smooth, levels = _constants(layout)
    arguments = (array(x), axes, channels, smooth, array(v), array(table), levels, layout.table_size - 1, out.numpy())
    run(_gather, _gather_part, threads_for(x.shape[1], POINTS_PER_THREAD), *arguments)
    return out


def scatter(x: Tensor, v: Tensor | None, g: Tensor, layout: HashGridLayout) -> Tensor:
    """Table gradient (K, total_entries, feature_dim) of <features, g> (K, N, out_dim), or of their derivatives by v."""
    threads = threads_for(x.shape[1], POINTS_PER_THREAD)
    lanes = min(threads, layout.levels)
    out = x.new_zeros(x.shape[0], threads // lanes, layout.total_entries, layout.feature_dim)
    axes, channels, smooth, levels = _constants(layout)
    arguments = (array(x), axes, channels, smooth, array(v), array(g), levels, layout.table_size - 1, out.numpy())
    run(_scatter, _scatter_part, lanes * out.shape[1], *arguments)
    return out[:, 0] if out.shape[1] == 1 else out.sum(1)


def contract(x: Tensor, v: Tensor | None, g: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Point gradient (K, N, d) of <features, g> (K, N, out_dim), or that gradient's derivative along v (K, N, d)."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    axes, channels, smooth, levels = _constants(layout)
    mask = layout.table_size - 1
    arguments = (array(x), axes, channels, smooth, array(v), array(g), array(table), levels, mask, out.numpy())
    run(_contract, _contract_part, threads_for(x.shape[1], POINTS_PER_THREAD), *arguments)
    return out
