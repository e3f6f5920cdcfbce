"""Compiled loops over a sparse lattice stored in bricks of 8^3 nodes.

A node or cell (named by its lowest node) is ``row << 9 | slot``: the brick's row in ``values`` and ``flags`` and the
place in it. ``brick_map`` holds each brick's row; row 0, all NaN, stands for bricks that do not exist.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Why bricks: 1024^3 values take 4 GB, and a hash table a search at every corner. A map of 128^3 bricks takes 8 MB, the
# values around the surface lie in blocks of 2 KB, and cells that follow each other are mostly in the same block.

VISITED = np.uint8(1)  # the cell
CROSSING = np.uint8(2)  # the cell
EDGE = np.uint8(4)  # << axis: the edge from the node along that axis
INSIDE = np.uint8(32)  # the node
RANK = 24  # bits


@njit(cache=True, inline="always")
def _slot(i, j, k):  # type: ignore[no-untyped-def]
    return ((i & 7) << 6) | ((j & 7) << 3) | (k & 7)


@njit(cache=True, inline="always")
def _shifted(row, slot, di, dj, dk, bricks, brick_map):  # type: ignore[no-untyped-def]
    """The node (di, dj, dk) further, each -1, 0 or 1; in row 0 where its brick does not exist."""
    i, j, k = (slot >> 6) + di, (slot >> 3 & 7) + dj, (slot & 7) + dk
    if (i | j | k) & ~7:
        a, b, c = bricks[row, 0] + (i >> 3), bricks[row, 1] + (j >> 3), bricks[row, 2] + (k >> 3)
        if a < 0 or b < 0 or c < 0:
            return np.int64(0)
        if a >= brick_map.shape[0] or b >= brick_map.shape[1] or c >= brick_map.shape[2]:
            return np.int64(0)
        row = np.int64(brick_map[a, b, c])
    return row << 9 | _slot(i, j, k)


@njit(cache=True, inline="always")
def _within(slot):  # type: ignore[no-untyped-def]
    """Whether the cell's corners all lie in its own brick, ``64 * (c & 1) + 8 * (c >> 1 & 1) + (c >> 2)`` further."""
    return (slot >> 6) < 7 and (slot >> 3 & 7) < 7 and (slot & 7) < 7


@njit(cache=True, inline="always")
def _corner(row, slot, within, c, bricks, brick_map):  # type: ignore[no-untyped-def]
    if within:
        return (row << 9 | slot) + (((c & 1) << 6) | ((c & 2) << 2) | (c >> 2))
    return _shifted(row, slot, c & 1, c >> 1 & 1, c >> 2, bricks, brick_map)


@njit(cache=True)
def _visit(i, j, k, state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing):  # type: ignore[no-untyped-def]
    """Mark a cell visited and list it and its unknown corners, making room for them; nothing if it was visited before.

    ``state`` counts bricks, fresh cells and missing nodes.
    """
    row = brick_map[i >> 3, j >> 3, k >> 3]
    if row > 0 and flags[row, _slot(i, j, k)] & VISITED:
        return
    for c in range(8):
        a, b, d = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2)
        at = brick_map[a >> 3, b >> 3, d >> 3]
        if at == 0:
            at = _new_brick(a >> 3, b >> 3, d >> 3, state, values, flags, bricks, brick_map, nodes, coarse, step)
        slot = _slot(a, b, d)
        if np.isnan(values[at, slot]):
            values[at, slot] = np.inf  # listed; the value follows
            missing[state[2]] = np.int64(at) << 9 | slot
            state[2] += 1
    row, slot = brick_map[i >> 3, j >> 3, k >> 3], _slot(i, j, k)
    flags[row, slot] |= VISITED
    fresh[state[1]] = np.int64(row) << 9 | slot
    state[1] += 1


@njit(cache=True)
def _new_brick(a, b, c, state, values, flags, bricks, brick_map, nodes, coarse, step):  # type: ignore[no-untyped-def]
    row = state[0]
    state[0] += 1
    brick_map[a, b, c] = row
    bricks[row, 0] = a
    bricks[row, 1] = b
    bricks[row, 2] = c
    flags[row] = 0
    values[row] = np.nan
    _prefill(row, nodes, bricks, values, coarse, step)
    return row


@njit(cache=True)
def _prefill(row, nodes, bricks, values, coarse, step):  # type: ignore[no-untyped-def]
    """Copy what the coarse lattice knows into a brick."""
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


@njit(cache=True, inline="always")
def _full(state, values, fresh, missing):  # type: ignore[no-untyped-def]
    """Whether six more cells might not find room."""
    return state[0] + 48 > values.shape[0] or state[1] + 6 > fresh.shape[0] or state[2] + 48 > missing.shape[0]


@njit(cache=True, nogil=True)
def make_room(start, index, state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing):  # type: ignore[no-untyped-def]
    """Make bricks for (N, 3) nodes; return the number of nodes dealt with."""
    for n in range(start, index.shape[0]):
        if _full(state, values, fresh, missing):
            return n
        a, b, c = index[n, 0] >> 3, index[n, 1] >> 3, index[n, 2] >> 3
        if brick_map[a, b, c] == 0:
            _new_brick(a, b, c, state, values, flags, bricks, brick_map, nodes, coarse, step)
    return index.shape[0]


@njit(cache=True, nogil=True)
def keep_known(index, new_values, values, brick_map):  # type: ignore[no-untyped-def]
    """Store values at (N, 3) nodes as far as their bricks exist."""
    for n in range(index.shape[0]):
        row = brick_map[index[n, 0] >> 3, index[n, 1] >> 3, index[n, 2] >> 3]
        if row > 0:
            values[row, _slot(index[n, 0], index[n, 1], index[n, 2])] = new_values[n]


@njit(cache=True, nogil=True)
def visit_around(start, index, axes, state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing):  # type: ignore[no-untyped-def]
    """Visit the up to four cells around each unit edge from (N, 3) nodes; return the number of edges dealt with."""
    for n in range(start, index.shape[0]):
        if _full(state, values, fresh, missing):
            return n
        u, v = (axes[n] + 1) % 3, (axes[n] + 2) % 3
        cell = index[n].copy()
        for du in range(2):
            for dv in range(2):
                cell[u] = index[n, u] - du
                cell[v] = index[n, v] - dv
                if cell[u] < 0 or cell[v] < 0 or cell[u] > nodes[u] - 2 or cell[v] > nodes[v] - 2:
                    continue
                _visit(
                    cell[0], cell[1], cell[2],
                    state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing,
                )  # fmt: skip
    return index.shape[0]


@njit(cache=True, nogil=True)
def follow(start, cells, level, state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing):  # type: ignore[no-untyped-def]
    """Flag the crossing ones among evaluated ``cells``; visit those behind each face that the surface crosses.

    Returns how many cells were dealt with: less than all where one of the lists is full.
    """
    # Corners on the low face of each axis, as bits of the configuration; the others are on the high face. A face is
    # crossed where its four corners disagree, and then the surface goes on behind it (Wyvill et al. 1986).
    low = (0x55, 0x33, 0x0F)
    for n in range(start, cells.shape[0]):
        if _full(state, values, fresh, missing):
            return n
        row, slot = cells[n] >> 9, cells[n] & 511
        within = _within(slot)
        configuration = 0
        for c in range(8):
            at = _corner(row, slot, within, c, bricks, brick_map)
            if values[at >> 9, at & 511] < level:
                configuration |= 1 << c
        if configuration == 0 or configuration == 255:
            continue
        flags[row, slot] |= CROSSING
        i, j, k = (
            bricks[row, 0] * 8 + (slot >> 6),
            bricks[row, 1] * 8 + (slot >> 3 & 7),
            bricks[row, 2] * 8 + (slot & 7),
        )
        for face in range(6):
            axis, up = face >> 1, face & 1
            mask = 255 - low[axis] if up else low[axis]
            part = configuration & mask
            if part == 0 or part == mask:
                continue
            move = np.int64(2 * up - 1)
            di, dj, dk = move if axis == 0 else 0, move if axis == 1 else 0, move if axis == 2 else 0
            at = _shifted(row, slot, di, dj, dk, bricks, brick_map)
            if flags[at >> 9, at & 511] & VISITED:
                continue
            a, b, d = i + di, j + dj, k + dk
            if a < 0 or b < 0 or d < 0 or a > nodes[0] - 2 or b > nodes[1] - 2 or d > nodes[2] - 2:
                continue
            _visit(a, b, d, state, values, flags, bricks, brick_map, nodes, coarse, step, fresh, missing)
    return cells.shape[0]


@njit(cache=True, nogil=True)
def store(ids, new_values, values):  # type: ignore[no-untyped-def]
    for n in range(ids.shape[0]):
        values[ids[n] >> 9, ids[n] & 511] = new_values[n]


@njit(cache=True, nogil=True)
def coordinates(ids, bricks, out):  # type: ignore[no-untyped-def]
    """(N,) nodes to (N, 3) indices."""
    for n in range(ids.shape[0]):
        row, slot = ids[n] >> 9, ids[n] & 511
        out[n, 0] = bricks[row, 0] * 8 + (slot >> 6)
        out[n, 1] = bricks[row, 1] * 8 + (slot >> 3 & 7)
        out[n, 2] = bricks[row, 2] * 8 + (slot & 7)


@njit(cache=True, nogil=True)
def mark_edges(first, last, level, values, flags, bricks, brick_map, nodes, ranks, counts, loose):  # type: ignore[no-untyped-def]
    """Flag inside nodes and crossed edges in rows ``first`` to ``last``.

    Args:
        ranks: (B, 64) int64 for each run of 8 slots: its crossed edges, a bit each, and above ``RANK`` bits how many
            the brick has before it.
        counts: (B,) int64, crossed edges of each brick.
        loose: (B,) int64, crossed edges of each brick with a cell around them that was not visited.
    """
    for row in range(first, last):
        total, unvisited, run = np.int64(0), 0, np.int64(0)
        for slot in range(512):
            if slot & 7 == 0:
                run = total << RANK
            here = values[row, slot]
            mask = flags[row, slot] & (VISITED | CROSSING)
            if not np.isnan(here):
                if here < level:
                    mask |= INSIDE
                for axis in range(3):
                    dx, dy, dz = axis == 0, axis == 1, axis == 2
                    at = _shifted(row, slot, np.int64(dx), np.int64(dy), np.int64(dz), bricks, brick_map)
                    there = values[at >> 9, at & 511]
                    if np.isnan(there) or (here < level) == (there < level):
                        continue
                    mask |= EDGE << axis
                    run |= np.int64(1) << (3 * (slot & 7) + axis)
                    total += 1
                    if _loose(row, slot, axis, flags, bricks, brick_map, nodes):
                        unvisited += 1
            flags[row, slot] = mask
            if slot & 7 == 7:
                ranks[row, slot >> 3] = run
        counts[row], loose[row] = total, unvisited


@njit(cache=True)
def _loose(row, slot, axis, flags, bricks, brick_map, nodes):  # type: ignore[no-untyped-def]
    """Whether a cell of the box around an edge was not visited."""
    for turn in range(4):
        du, dv = -(turn & 1), -(turn >> 1)
        di = 0 if axis == 0 else (du if axis == 2 else dv)
        dj = 0 if axis == 1 else (du if axis == 0 else dv)
        dk = 0 if axis == 2 else (du if axis == 1 else dv)
        i = bricks[row, 0] * 8 + (slot >> 6) + di
        j = bricks[row, 1] * 8 + (slot >> 3 & 7) + dj
        k = bricks[row, 2] * 8 + (slot & 7) + dk
        if i < 0 or j < 0 or k < 0 or i > nodes[0] - 2 or j > nodes[1] - 2 or k > nodes[2] - 2:
            continue
        at = _shifted(row, slot, di, dj, dk, bricks, brick_map)
        if at >> 9 == 0 or not flags[at >> 9, at & 511] & VISITED:
            return True
    return False


@njit(cache=True, nogil=True)
def list_edges(first, last, values, flags, bricks, brick_map, index, axes, ends):  # type: ignore[no-untyped-def]
    """Lower node, axis and the two values of every crossed edge of rows ``first`` to ``last``, in their order."""
    n = 0
    for row in range(first, last):
        for slot in range(512):
            for axis in range(3):
                if not flags[row, slot] & (EDGE << axis):
                    continue
                dx, dy, dz = axis == 0, axis == 1, axis == 2
                at = _shifted(row, slot, np.int64(dx), np.int64(dy), np.int64(dz), bricks, brick_map)
                index[n, 0] = bricks[row, 0] * 8 + (slot >> 6)
                index[n, 1] = bricks[row, 1] * 8 + (slot >> 3 & 7)
                index[n, 2] = bricks[row, 2] * 8 + (slot & 7)
                axes[n] = axis
                ends[n, 0] = values[row, slot]
                ends[n, 1] = values[at >> 9, at & 511]
                n += 1


@njit(cache=True, inline="always")
def _inside_corners(row, slot, flags, bricks, brick_map):  # type: ignore[no-untyped-def]
    configuration, within = 0, _within(slot)
    for c in range(8):
        at = _corner(row, slot, within, c, bricks, brick_map)
        if flags[at >> 9, at & 511] & INSIDE:
            configuration |= 1 << c
    return configuration


@njit(cache=True, nogil=True)
def count_triangles(first, last, flags, bricks, brick_map, triangles, counts):  # type: ignore[no-untyped-def]
    """Triangles of the bricks ``first`` to ``last``, into ``counts``; ``triangles`` (256,) of each configuration."""
    for row in range(first, last):
        total = 0
        for slot in range(512):
            if flags[row, slot] & CROSSING:
                total += triangles[_inside_corners(row, slot, flags, bricks, brick_map)]
        counts[row] = total


@njit(cache=True, inline="always")
def _ones(bits):  # type: ignore[no-untyped-def]
    """How many of the lowest 24 bits are set."""
    bits = bits - ((bits >> 1) & 0x555555)
    bits = (bits & 0x333333) + ((bits >> 2) & 0x333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F
    return (bits + (bits >> 8) + (bits >> 16)) & 0x1F


@njit(cache=True, nogil=True)
def triangulate(  # type: ignore[no-untyped-def]
    first, last, flags, bricks, brick_map, ranks, offsets, starts, triangles, table, corners, faces
):
    """Write the triangles of every crossing cell of rows ``first`` to ``last``.

    Args:
        ranks: as from ``mark_edges``.
        offsets: (B,) number of the first vertex of each brick.
        starts: (B,) number of the first triangle of each brick.
        triangles, table: of each configuration.
        corners: (12,) lower corner of each cube edge.
        faces: (F, 3) int64.
    """
    nodes = np.empty(8, dtype=np.int64)
    for row in range(first, last):
        n = starts[row]
        for slot in range(512):
            if not flags[row, slot] & CROSSING:
                continue
            configuration, within = 0, _within(slot)
            for c in range(8):
                at = _corner(row, slot, within, c, bricks, brick_map)
                nodes[c] = at
                if flags[at >> 9, at & 511] & INSIDE:
                    configuration |= 1 << c
            for t in range(triangles[configuration]):
                for v in range(3):
                    edge = table[configuration, t, v]
                    at = nodes[corners[edge]]
                    run = ranks[at >> 9, (at & 511) >> 3]
                    before = run & ((np.int64(1) << (3 * (at & 7) + (edge >> 2))) - 1)
                    faces[n, v] = offsets[at >> 9] + (run >> RANK) + _ones(before)
                n += 1
