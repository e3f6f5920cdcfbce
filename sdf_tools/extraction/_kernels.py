"""Compiled loops over a sparse lattice stored in bricks of 8^3 nodes.

A node (i, j, k) has the key ``(i * n1 + j) * n2 + k`` with ``nodes = (n0, n1, n2)``; a cell is named by its lowest
node.
``brick_map`` holds each brick's row in ``values`` (NaN: not evaluated yet) and ``flags``, or -1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Why bricks: 1024^3 values take 4 GB, and a hash table a search at every corner. A map of 128^3 bricks takes 8 MB, the
# values around the surface lie in blocks of 2 KB, and cells that follow each other are mostly in the same block.

VISITED = np.uint8(1)
CROSSING = np.uint8(2)


@njit(cache=True, inline="always")
def _split(key, nodes):  # type: ignore[no-untyped-def]
    k = key % nodes[2]
    rest = key // nodes[2]
    return rest // nodes[1], rest % nodes[1], k


@njit(cache=True, inline="always")
def _slot(i, j, k):  # type: ignore[no-untyped-def]
    # The place inside a brick; its number along each axis is i >> 3.
    return ((i & 7) << 6) | ((j & 7) << 3) | (k & 7)


@njit(cache=True, nogil=True)
def allocate(keys, nodes, brick_map, bricks, count):  # type: ignore[no-untyped-def]
    """Give every brick that the corners of the cells ``keys`` touch a row; return the new number of rows."""
    for n in range(keys.shape[0]):
        i, j, k = _split(keys[n], nodes)
        for a in range(i >> 3, (min(i + 1, nodes[0] - 1) >> 3) + 1):
            for b in range(j >> 3, (min(j + 1, nodes[1] - 1) >> 3) + 1):
                for c in range(k >> 3, (min(k + 1, nodes[2] - 1) >> 3) + 1):
                    if brick_map[a, b, c] < 0:
                        brick_map[a, b, c] = count
                        bricks[count, 0] = a
                        bricks[count, 1] = b
                        bricks[count, 2] = c
                        count += 1
    return count


@njit(cache=True, nogil=True)
def prefill(start, count, nodes, bricks, values, coarse, step):  # type: ignore[no-untyped-def]
    """Copy what the coarse lattice already knows into rows ``start`` to ``count``."""
    for row in range(start, count):
        for di in range(8):
            i = bricks[row, 0] * 8 + di
            if i >= nodes[0] or (i % step != 0 and i != nodes[0] - 1):
                continue  # the last node is in the coarse lattice whether or not the step divides it
            for dj in range(8):
                j = bricks[row, 1] * 8 + dj
                if j >= nodes[1] or (j % step != 0 and j != nodes[1] - 1):
                    continue
                for dk in range(8):
                    k = bricks[row, 2] * 8 + dk
                    if k >= nodes[2] or (k % step != 0 and k != nodes[2] - 1):
                        continue
                    values[row, _slot(di, dj, dk)] = coarse[
                        (i + step - 1) // step, (j + step - 1) // step, (k + step - 1) // step
                    ]


@njit(cache=True, nogil=True)
def missing_corners(cells, nodes, brick_map, values, out):  # type: ignore[no-untyped-def]
    """List the corners of ``cells`` that have no value yet, each once; return how many."""
    count = 0
    for n in range(cells.shape[0]):
        i, j, k = _split(cells[n], nodes)
        for c in range(8):
            a, b, d = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2 & 1)
            row, slot = brick_map[a >> 3, b >> 3, d >> 3], _slot(a, b, d)
            if np.isnan(values[row, slot]):
                values[row, slot] = np.inf  # listed; the value follows
                out[count] = (a * nodes[1] + b) * nodes[2] + d
                count += 1
    return count


@njit(cache=True, nogil=True)
def store(keys, new_values, nodes, brick_map, values):  # type: ignore[no-untyped-def]
    for n in range(keys.shape[0]):
        i, j, k = _split(keys[n], nodes)
        values[brick_map[i >> 3, j >> 3, k >> 3], _slot(i, j, k)] = new_values[n]


@njit(cache=True, inline="always")
def _configuration(i, j, k, brick_map, values, level):  # type: ignore[no-untyped-def]
    configuration = 0
    for c in range(8):
        a, b, d = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2 & 1)
        if values[brick_map[a >> 3, b >> 3, d >> 3], _slot(a, b, d)] < level:
            configuration |= 1 << c
    return configuration


@njit(cache=True, nogil=True)
def grow(cells, nodes, brick_map, values, flags, level, out):  # type: ignore[no-untyped-def]
    """Flag the crossing ones among evaluated ``cells``; list the cells behind each face that the surface crosses."""
    count = 0
    # Corners on the low face of each axis, as bits of the configuration; the others are on the high face. A face is
    # crossed where its four corners disagree, and then the surface goes on behind it (Wyvill et al. 1986).
    low = (0x55, 0x33, 0x0F)
    for n in range(cells.shape[0]):
        i, j, k = _split(cells[n], nodes)
        configuration = _configuration(i, j, k, brick_map, values, level)
        if configuration == 0 or configuration == 255:
            continue
        flags[brick_map[i >> 3, j >> 3, k >> 3], _slot(i, j, k)] |= CROSSING
        for axis in range(3):
            mask = low[axis]
            stride = nodes[1] * nodes[2] if axis == 0 else (nodes[2] if axis == 1 else 1)
            position = i if axis == 0 else (j if axis == 1 else k)
            part = configuration & mask
            if part != 0 and part != mask and position > 0:
                out[count] = cells[n] - stride
                count += 1
            mask = 255 - mask
            part = configuration & mask
            if part != 0 and part != mask and position + 2 < nodes[axis]:
                out[count] = cells[n] + stride
                count += 1
    return count


@njit(cache=True, nogil=True)
def keep_unvisited(cells, nodes, brick_map, flags):  # type: ignore[no-untyped-def]
    """Move the cells not visited yet to the front of ``cells`` and mark them; return how many."""
    count = 0
    for n in range(cells.shape[0]):
        i, j, k = _split(cells[n], nodes)
        row, slot = brick_map[i >> 3, j >> 3, k >> 3], _slot(i, j, k)
        if not flags[row, slot] & VISITED:
            flags[row, slot] |= VISITED
            cells[count] = cells[n]
            count += 1
    return count


@njit(cache=True, nogil=True)
def cells_around_edges(keys, axes, nodes, out):  # type: ignore[no-untyped-def]
    """The up to four cells around each unit edge; return how many."""
    count = 0
    for n in range(keys.shape[0]):
        index = _split(keys[n], nodes)
        u, v = (axes[n] + 1) % 3, (axes[n] + 2) % 3
        for du in range(2):
            for dv in range(2):
                cell = np.array([index[0], index[1], index[2]])
                cell[u] -= du
                cell[v] -= dv
                if cell[u] < 0 or cell[v] < 0 or cell[u] > nodes[u] - 2 or cell[v] > nodes[v] - 2:
                    continue
                out[count] = (cell[0] * nodes[1] + cell[1]) * nodes[2] + cell[2]
                count += 1
    return count


@njit(cache=True, inline="always")
def _value(i, j, k, nodes, brick_map, values):  # type: ignore[no-untyped-def]
    if i >= nodes[0] or j >= nodes[1] or k >= nodes[2]:
        return np.float32(np.nan)
    row = brick_map[i >> 3, j >> 3, k >> 3]
    if row < 0:
        return np.float32(np.nan)
    return values[row, _slot(i, j, k)]


@njit(cache=True, nogil=True)
def crossing_edges(count, nodes, brick_map, bricks, values, level, masks, prefix, offsets):  # type: ignore[no-untyped-def]
    """Mark the edges (bit per axis) that the surface crosses and number them brick by brick; return how many."""
    # An edge's number is its vertex's: brick's offset + prefix of the node + lower axes of the node. Any cell finds it
    # without a search, so vertices are shared.
    total = 0
    for row in range(count):
        offsets[row] = total
        inside_brick = 0
        for slot in range(512):
            prefix[row, slot] = inside_brick
            here = values[row, slot]
            mask = 0
            if not np.isnan(here):
                i = bricks[row, 0] * 8 + (slot >> 6)
                j = bricks[row, 1] * 8 + (slot >> 3 & 7)
                k = bricks[row, 2] * 8 + (slot & 7)
                for axis in range(3):
                    there = _value(i + (axis == 0), j + (axis == 1), k + (axis == 2), nodes, brick_map, values)
                    if not np.isnan(there) and (here < level) != (there < level):
                        mask |= 1 << axis
                        inside_brick += 1
            masks[row, slot] = mask
        total += inside_brick
    return total


@njit(cache=True, nogil=True)
def list_edges(count, nodes, brick_map, bricks, values, masks, keys, axes, ends):  # type: ignore[no-untyped-def]
    """Lower node, axis and the two values of every crossing edge, in the order of ``crossing_edges``."""
    n = 0
    for row in range(count):
        for slot in range(512):
            mask = masks[row, slot]
            if mask == 0:
                continue
            i = bricks[row, 0] * 8 + (slot >> 6)
            j = bricks[row, 1] * 8 + (slot >> 3 & 7)
            k = bricks[row, 2] * 8 + (slot & 7)
            for axis in range(3):
                if mask >> axis & 1:
                    keys[n] = (i * nodes[1] + j) * nodes[2] + k
                    axes[n] = axis
                    ends[n, 0] = values[row, slot]
                    ends[n, 1] = _value(i + (axis == 0), j + (axis == 1), k + (axis == 2), nodes, brick_map, values)
                    n += 1


@njit(cache=True, nogil=True)
def count_triangles(count, nodes, brick_map, bricks, values, flags, level, counts):  # type: ignore[no-untyped-def]
    total = 0
    for row in range(count):
        for slot in range(512):
            if flags[row, slot] & CROSSING:
                i = bricks[row, 0] * 8 + (slot >> 6)
                j = bricks[row, 1] * 8 + (slot >> 3 & 7)
                k = bricks[row, 2] * 8 + (slot & 7)
                total += counts[_configuration(i, j, k, brick_map, values, level)]
    return total


@njit(cache=True, nogil=True)
def triangulate(  # type: ignore[no-untyped-def]
    count, nodes, brick_map, bricks, values, flags, level, masks, prefix, offsets, counts, table, corners, faces
):
    """Write the triangles of every crossing cell; ``corners`` is the (12,) lower corner of each cube edge."""
    n = 0
    for row in range(count):
        for slot in range(512):
            if not flags[row, slot] & CROSSING:
                continue
            i = bricks[row, 0] * 8 + (slot >> 6)
            j = bricks[row, 1] * 8 + (slot >> 3 & 7)
            k = bricks[row, 2] * 8 + (slot & 7)
            configuration = _configuration(i, j, k, brick_map, values, level)
            for t in range(counts[configuration]):
                for v in range(3):
                    edge = table[configuration, t, v]
                    c, axis = corners[edge], edge // 4
                    a, b, d = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2 & 1)
                    at, s = brick_map[a >> 3, b >> 3, d >> 3], _slot(a, b, d)
                    number = offsets[at] + prefix[at, s]
                    for lower in range(axis):
                        number += masks[at, s] >> lower & 1
                    faces[n, v] = number
                n += 1
