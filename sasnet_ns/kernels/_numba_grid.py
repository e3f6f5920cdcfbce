"""Hash grid on a CPU, compiled by numba.

Points are handled in blocks that stay in the first-level cache: row numbers and weights of a block are computed by
loops over points that vectorise, then each point's corners are gathered or scattered. Threads share out points where
results are per point, and levels where the result is a table, so no two threads write the same entry.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numba import prange
from torch import Tensor

from sasnet_ns.kernels._numba import LOCK, array, jit, jit_parallel, use_threads
from sasnet_ns.kernels.layout import PRIMES, HashGridLayout

BLOCK = 128
"""Points per block: corner rows and weights of 3D points take 8 KB."""


PRIME1, PRIME2, PRIME3 = PRIMES[1:]


@jit
def _transpose(axes, points, start, count, columns):  # type: ignore[no-untyped-def]
    """Rows ``start`` onwards of ``points`` (N, in_dim) as columns (in_dim, B), which loops over points can stream."""
    if points is not None:
        for b in range(count):
            for axis in range(len(axes)):
                columns[axis, b] = points[start + b, axis]


@jit
def _address(columns, axes, smooth, count, level, table_mask, keys, rows, factors):  # type: ignore[no-untyped-def]
    """Corner rows (corners, B) of a block, and per axis and corner bit the factor of the weight.

    ``factors`` is (3, 2 * in_dim, B): factor ``2 * axis + bit`` and its first two derivatives by x. ``keys`` holds the
    contribution of each axis and bit to the row number.
    """
    in_dim = len(axes)
    number = columns.dtype.type
    zero, half, one, two, three, six = number(0), number(0.5), number(1), number(2), number(3), number(6)
    resolution, offset, dense = level[0], level[1], level[2]
    scale = number(resolution - 1)
    rate = scale * half
    last = number(resolution - 2)
    stride = 1
    for axis in range(in_dim):
        low, high = 2 * axis, 2 * axis + 1
        prime = PRIME1 if axis == 1 else PRIME2 if axis == 2 else PRIME3 if axis == 3 else 1
        multiplier = np.int64(stride if dense else prime)
        stride *= resolution
        column = columns[axis]
        key_low, key_high = keys[low], keys[high]
        value_low, value_high = factors[0, low], factors[0, high]
        slope_low, slope_high = factors[1, low], factors[1, high]
        bend_low, bend_high = factors[2, low], factors[2, high]
        for b in range(count):
            clamped = min(max(column[b], -one), one)
            slope = rate if clamped == column[b] else zero
            # the cell is found without an addition after the product, so that no machine can fuse the two and pick
            # another cell; the fraction in one fused step keeps all its digits
            cell = min(np.floor((clamped + one) * half * scale), last)
            t = clamped * rate + (rate - cell)
            key = np.int32(cell) * multiplier
            key_low[b], key_high[b] = np.uint32(key), np.uint32(key + multiplier)
            if len(smooth) > 0:
                first = slope * six * t * (one - t)
                second = slope * slope * six * (one - two * t)
                t = t * t * (three - two * t)
                bend_low[b], bend_high[b] = -second, second
            else:
                first = slope
            value_low[b], value_high[b] = one - t, t
            slope_low[b], slope_high[b] = -first, first
    for corner in range(1 << in_dim):
        row = rows[corner]
        key0 = keys[corner & 1]
        key1 = keys[2 + ((corner >> 1) & 1)] if in_dim > 1 else key0
        key2 = keys[4 + ((corner >> 2) & 1)] if in_dim > 2 else key0
        key3 = keys[6 + ((corner >> 3) & 1)] if in_dim > 3 else key0
        if dense:
            for b in range(count):
                total = key0[b]
                if in_dim > 1:
                    total += key1[b]
                if in_dim > 2:
                    total += key2[b]
                if in_dim > 3:
                    total += key3[b]
                row[b] = np.uint32(total + offset)
        else:
            for b in range(count):
                total = key0[b]
                if in_dim > 1:
                    total ^= key1[b]
                if in_dim > 2:
                    total ^= key2[b]
                if in_dim > 3:
                    total ^= key3[b]
                row[b] = np.uint32((total & table_mask) + offset)


@jit
def _weigh(axes, tangent, columns, count, factors, weights):  # type: ignore[no-untyped-def]
    """Corner weights (corners, B), or if ``tangent`` is not None their derivatives along ``columns`` (in_dim, B)."""
    in_dim = len(axes)
    for corner in range(1 << in_dim):
        if tangent is None:
            for b in range(count):
                w = factors[0, corner & 1, b]
                for axis in range(1, in_dim):
                    w = w * factors[0, 2 * axis + ((corner >> axis) & 1), b]
                weights[corner, b] = w
        else:
            for b in range(count):
                # dual number: the weight so far and its derivative along its column
                w, d = factors[0, corner & 1, b], factors[1, corner & 1, b] * columns[0, b]
                for axis in range(1, in_dim):
                    k = 2 * axis + ((corner >> axis) & 1)
                    d = d * factors[0, k, b] + w * factors[1, k, b] * columns[axis, b]
                    w = w * factors[0, k, b]
                weights[corner, b] = d


@jit
def _gather_part(begin, end, x, axes, channels, smooth, v, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    corners = 1 << len(axes)
    columns = np.empty((len(axes), BLOCK), x.dtype)
    tangents = np.zeros((len(axes), BLOCK), x.dtype)
    keys = np.empty((2 * len(axes), BLOCK), np.uint32)
    rows = np.empty((corners, BLOCK), np.uint32)
    factors = np.zeros((3, 2 * len(axes), BLOCK), x.dtype)
    weights = np.empty((corners, BLOCK), x.dtype)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _transpose(axes, x, start, count, columns)
        _transpose(axes, v, start, count, tangents)
        for level in range(levels.shape[0]):
            _address(columns, axes, smooth, count, levels[level], table_mask, keys, rows, factors)
            _weigh(axes, v, tangents, count, factors, weights)
            for b in range(count):
                for channel in range(len(channels)):
                    total = x.dtype.type(0)
                    for corner in range(corners):
                        total += weights[corner, b] * table[rows[corner, b], channel]
                    out[start + b, level * len(channels) + channel] = total


@jit
def _scatter_part(begin, end, first, step, x, axes, channels, smooth, v, g, levels, table_mask, out):  # type: ignore[no-untyped-def]
    corners = 1 << len(axes)
    columns = np.empty((len(axes), BLOCK), x.dtype)
    tangents = np.zeros((len(axes), BLOCK), x.dtype)
    keys = np.empty((2 * len(axes), BLOCK), np.uint32)
    rows = np.empty((corners, BLOCK), np.uint32)
    factors = np.zeros((3, 2 * len(axes), BLOCK), x.dtype)
    weights = np.empty((corners, BLOCK), x.dtype)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _transpose(axes, x, start, count, columns)
        _transpose(axes, v, start, count, tangents)
        for level in range(first, levels.shape[0], step):
            _address(columns, axes, smooth, count, levels[level], table_mask, keys, rows, factors)
            _weigh(axes, v, tangents, count, factors, weights)
            for b in range(count):
                for corner in range(corners):
                    row, weight = rows[corner, b], weights[corner, b]
                    for channel in range(len(channels)):
                        out[row, channel] += weight * g[start + b, level * len(channels) + channel]


@jit
def _contract_part(begin, end, x, axes, channels, smooth, v, g, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    in_dim, corners = len(axes), 1 << len(axes)
    columns = np.empty((in_dim, BLOCK), x.dtype)
    tangents = np.zeros((in_dim, BLOCK), x.dtype)
    keys = np.empty((2 * in_dim, BLOCK), np.uint32)
    rows = np.empty((corners, BLOCK), np.uint32)
    factors = np.zeros((3, 2 * in_dim, BLOCK), x.dtype)
    dots = np.empty((corners, BLOCK), x.dtype)
    sums = np.empty((in_dim, BLOCK), x.dtype)
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        _transpose(axes, x, start, count, columns)
        _transpose(axes, v, start, count, tangents)
        sums[:] = 0
        for level in range(levels.shape[0]):
            _address(columns, axes, smooth, count, levels[level], table_mask, keys, rows, factors)
            for b in range(count):
                for corner in range(corners):
                    total = x.dtype.type(0)
                    for channel in range(len(channels)):
                        total += table[rows[corner, b], channel] * g[start + b, level * len(channels) + channel]
                    dots[corner, b] = total
            for axis in range(in_dim):
                for corner in range(corners):
                    # the factor of this axis is differentiated once more than the others
                    order, bit = (1 if axis == 0 else 0), corner & 1
                    if v is None:
                        for b in range(count):
                            w = factors[order, bit, b]
                            for other in range(1, in_dim):
                                k = 2 * other + ((corner >> other) & 1)
                                w = w * factors[1 if other == axis else 0, k, b]
                            sums[axis, b] += dots[corner, b] * w
                    else:
                        for b in range(count):
                            w, d = factors[order, bit, b], factors[order + 1, bit, b] * tangents[0, b]
                            for other in range(1, in_dim):
                                k = 2 * other + ((corner >> other) & 1)
                                o = 1 if other == axis else 0
                                d = d * factors[o, k, b] + w * factors[o + 1, k, b] * tangents[other, b]
                                w = w * factors[o, k, b]
                            sums[axis, b] += dots[corner, b] * d
        for b in range(count):
            for axis in range(in_dim):
                out[start + b, axis] = sums[axis, b]


@jit_parallel
def _gather(parts, x, axes, channels, smooth, v, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    size = (x.shape[0] + parts - 1) // parts
    for part in prange(parts):
        begin, end = part * size, min(x.shape[0], (part + 1) * size)
        _gather_part(begin, end, x, axes, channels, smooth, v, table, levels, table_mask, out)


@jit_parallel
def _scatter(lanes, copies, x, axes, channels, smooth, v, g, levels, table_mask, out):  # type: ignore[no-untyped-def]
    # lane: every lanes-th level; copy: one part of the points, into a table of its own
    size = (x.shape[0] + copies - 1) // copies
    for job in prange(lanes * copies):
        lane, copy = job % lanes, job // lanes
        begin, end = copy * size, min(x.shape[0], (copy + 1) * size)
        _scatter_part(begin, end, lane, lanes, x, axes, channels, smooth, v, g, levels, table_mask, out[copy])


@jit_parallel
def _contract(parts, x, axes, channels, smooth, v, g, table, levels, table_mask, out):  # type: ignore[no-untyped-def]
    size = (x.shape[0] + parts - 1) // parts
    for part in prange(parts):
        begin, end = part * size, min(x.shape[0], (part + 1) * size)
        _contract_part(begin, end, x, axes, channels, smooth, v, g, table, levels, table_mask, out)


@functools.cache
def _constants(layout: HashGridLayout) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...], np.ndarray]:
    """What the kernels compile against, as lengths of tuples, and (levels, 3): resolution, first row, dense or not."""
    smooth = (True,) if layout.interpolation == "smoothstep" else ()
    levels = np.array(list(zip(layout.resolutions, layout.offsets, layout.dense, strict=True)), dtype=np.int64)
    return (0,) * layout.in_dim, (0,) * layout.feature_dim, smooth, levels


def gather(x: Tensor, v: Tensor | None, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Features (N, out_dim) of points x (N, d), or their derivatives along v (N, d)."""
    axes, channels, smooth, levels = _constants(layout)
    mask = layout.table_size - 1
    out = x.new_empty(x.shape[0], layout.out_dim)
    with LOCK:
        parts = _parts(x.shape[0], use_threads())
        _gather(parts, array(x), axes, channels, smooth, array(v), array(table), levels, mask, out.numpy())
    return out


def scatter(x: Tensor, v: Tensor | None, g: Tensor, layout: HashGridLayout) -> Tensor:
    """Table gradient (total_entries, feature_dim) of <features, g> (N, out_dim), or of their derivatives along v."""
    axes, channels, smooth, levels = _constants(layout)
    mask = layout.table_size - 1
    with LOCK:
        threads = use_threads()
        lanes = min(threads, layout.levels)
        copies = max(1, min(threads // lanes, x.shape[0] // (8 * BLOCK)))
        out = x.new_zeros(copies, layout.total_entries, layout.feature_dim)
        _scatter(lanes, copies, array(x), axes, channels, smooth, array(v), array(g), levels, mask, out.numpy())
    return out[0] if copies == 1 else out.sum(0)


def contract(x: Tensor, v: Tensor | None, g: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Point gradient (N, d) of <features, g> (N, out_dim), or the derivative of that gradient along v (N, d)."""
    axes, channels, smooth, levels = _constants(layout)
    mask = layout.table_size - 1
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    with LOCK:
        parts = _parts(x.shape[0], use_threads())
        _contract(parts, array(x), axes, channels, smooth, array(v), array(g), array(table), levels, mask, out.numpy())
    return out


def _parts(points: int, threads: int) -> int:
    """Work items of a loop over points: a few per thread, so that a late thread does not hold up the rest."""
    return max(1, min(4 * threads, points // BLOCK))
