"""Compiled loops of the search: which cells a surface crosses, and in which it could hide."""

from __future__ import annotations

import numpy as np
from numba import njit

CROSSING = np.uint8(1)
SUSPECT = np.uint8(2)

_DEPTH = 4  # a cell is judged by boxes of down to 1/16 of its side


@njit(cache=True, inline="always")
def _distance(value, knots, distances):  # type: ignore[no-untyped-def]
    """How far from the level set ``value`` is at least: linear between ``knots``, constant beyond."""
    last = knots.shape[0] - 1
    if value <= knots[0]:
        return abs(distances[0])
    if value >= knots[last]:
        return abs(distances[last])
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= value:
            low = middle
        else:
            high = middle
    share = (value - knots[low]) / (knots[high] - knots[low])
    return abs(distances[low] + share * (distances[high] - distances[low]))


@njit(cache=True)
def _hides(radius, size, diagonal, stack):  # type: ignore[no-untyped-def]
    """Whether the eight corners' balls leave a part of the cell uncovered.

    Boxes that no single ball holds are cut in eight, down to 1/16 of the cell's side. ``stack`` is (64, 4) scratch.
    """
    largest = 0.0
    smallest = np.inf
    for c in range(8):
        largest = max(largest, radius[c])
        smallest = min(smallest, radius[c])
    if largest >= diagonal or smallest > diagonal / 2:
        return False
    if largest <= diagonal / 4:
        return True  # the middle is out of everybody's reach
    stack[0, 0] = stack[0, 1] = stack[0, 2] = 0.5
    stack[0, 3] = 0
    count = 1
    while count > 0:
        count -= 1
        x, y, z, depth = stack[count, 0], stack[count, 1], stack[count, 2], stack[count, 3]
        half = 0.5 ** (depth + 1)
        covered = False
        for c in range(8):
            # The box's corner that is farthest from the cell's corner.
            dx = (abs(x - (c & 1)) + half) * size[0]
            dy = (abs(y - (c >> 1 & 1)) + half) * size[1]
            dz = (abs(z - (c >> 2)) + half) * size[2]
            if dx * dx + dy * dy + dz * dz < radius[c] * radius[c]:
                covered = True
                break
        if covered:
            continue
        if depth >= _DEPTH:
            return True
        for c in range(8):
            stack[count, 0] = x + (half / 2 if c & 1 else -half / 2)
            stack[count, 1] = y + (half / 2 if c & 2 else -half / 2)
            stack[count, 2] = z + (half / 2 if c & 4 else -half / 2)
            stack[count, 3] = depth + 1
            count += 1
    return False


@njit(cache=True, nogil=True)
def classify(values, level, knots, distances, size, steepness, ratio, state):  # type: ignore[no-untyped-def]
    """Set ``state`` of every cell with known corners; no suspects where ``knots`` is empty.

    Args:
        values: (n0, n1, n2) float32 lattice, NaN where unknown.
        level: of the surface.
        knots, distances: from a value to a distance.
        size: (3,) of a cell.
        steepness: (b0, b1, b2) float32, how many times steeper than ``distances`` say the field may be, by block.
        ratio: cells along a block's side.
        state: (n0 - 1, n1 - 1, n2 - 1) uint8, zeros.
    """
    radius = np.empty(8)
    stack = np.empty((64, 4))
    diagonal = np.sqrt(size[0] ** 2 + size[1] ** 2 + size[2] ** 2)
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            for k in range(state.shape[2]):
                inside, unknown = 0, np.isnan(values[i, j, k])
                if unknown:
                    continue
                for c in range(8):
                    value = values[i + (c & 1), j + (c >> 1 & 1), k + (c >> 2)]
                    unknown |= np.isnan(value)
                    inside += value < level
                if unknown:
                    continue
                if 0 < inside < 8:
                    state[i, j, k] = CROSSING
                    continue
                if knots.shape[0] == 0:
                    continue
                steep = steepness[i // ratio, j // ratio, k // ratio]
                for c in range(8):
                    value = values[i + (c & 1), j + (c >> 1 & 1), k + (c >> 2)]
                    radius[c] = _distance(value, knots, distances) / steep
                if _hides(radius, size, diagonal, stack):
                    state[i, j, k] = SUSPECT


@njit(cache=True, nogil=True)
def suspects(corners, level, knots, distances, size, steepness, out):  # type: ignore[no-untyped-def]
    """The same for a list of cells: (N, 8) corner values, (N,) steepness; ``out`` (N,) bool."""
    radius = np.empty(8)
    stack = np.empty((64, 4))
    diagonal = np.sqrt(size[0] ** 2 + size[1] ** 2 + size[2] ** 2)
    for n in range(corners.shape[0]):
        inside = 0
        for c in range(8):
            inside += corners[n, c] < level
            radius[c] = _distance(corners[n, c], knots, distances) / steepness[n]
        out[n] = (inside == 0 or inside == 8) and _hides(radius, size, diagonal, stack)


@njit(cache=True, nogil=True)
def steepest(values, knots, distances, level, spacing, out):  # type: ignore[no-untyped-def]
    """The largest slope, in distances by ``knots``, along the edges of each cell of a dense lattice."""
    for axis in range(3):
        da, db, dc = axis == 0, axis == 1, axis == 2
        for i in range(values.shape[0] - da):
            for j in range(values.shape[1] - db):
                for k in range(values.shape[2] - dc):
                    low, high = values[i, j, k], values[i + da, j + db, k + dc]
                    if abs(low) > 1e30 or abs(high) > 1e30:
                        continue  # the stand-in values of a capped border
                    one, other = _distance(low, knots, distances), _distance(high, knots, distances)
                    slope = (one + other if (low < level) != (high < level) else abs(one - other)) / spacing[axis]
                    # The cells around the edge.
                    for u in range(2):
                        for v in range(2):
                            a = i - (0 if da else u)
                            b = j - (0 if db else (u if da else v))
                            c = k - (0 if dc else v)
                            if 0 <= a < out.shape[0] and 0 <= b < out.shape[1] and 0 <= c < out.shape[2]:
                                out[a, b, c] = max(out[a, b, c], slope)


@njit(cache=True, nogil=True)
def mark_halves(state, values, wanted):  # type: ignore[no-untyped-def]
    """Mark the unknown nodes of a lattice of half the step in the cells whose ``state`` is not 0; return how many."""
    count = 0
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            for k in range(state.shape[2]):
                if state[i, j, k] == 0:
                    continue
                for a in range(2 * i, min(2 * i + 3, values.shape[0])):
                    for b in range(2 * j, min(2 * j + 3, values.shape[1])):
                        for c in range(2 * k, min(2 * k + 3, values.shape[2])):
                            if np.isnan(values[a, b, c]) and not wanted[a, b, c]:
                                wanted[a, b, c] = True
                                count += 1
    return count


@njit(cache=True, nogil=True)
def list_marked(wanted, index):  # type: ignore[no-untyped-def]
    """The nodes that are marked, a row of ``index`` each."""
    count = 0
    for i in range(wanted.shape[0]):
        for j in range(wanted.shape[1]):
            for k in range(wanted.shape[2]):
                if wanted[i, j, k]:
                    index[count, 0] = i
                    index[count, 1] = j
                    index[count, 2] = k
                    count += 1


@njit(cache=True, nogil=True)
def isolated(state, out):  # type: ignore[no-untyped-def]
    """List the suspect cells with no crossing cell next to them, a row of ``out`` each; return how many there are."""
    count = 0
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            for k in range(state.shape[2]):
                if state[i, j, k] != SUSPECT:
                    continue
                alone = True
                for a in range(max(i - 1, 0), min(i + 2, state.shape[0])):
                    for b in range(max(j - 1, 0), min(j + 2, state.shape[1])):
                        for c in range(max(k - 1, 0), min(k + 2, state.shape[2])):
                            if state[a, b, c] == CROSSING:
                                alone = False
                if alone:
                    if count < out.shape[0]:
                        out[count, 0] = i
                        out[count, 1] = j
                        out[count, 2] = k
                    count += 1
    return count


@njit(cache=True, nogil=True)
def list_crossings(values, level, index, axes, inside):  # type: ignore[no-untyped-def]
    """List the edges of a lattice with known ends on both sides, as far as the arrays reach; return how many."""
    count = 0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            for k in range(values.shape[2]):
                here = values[i, j, k]
                if np.isnan(here):
                    continue
                for axis in range(3):
                    a, b, c = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if a == values.shape[0] or b == values.shape[1] or c == values.shape[2]:
                        continue
                    there = values[a, b, c]
                    if np.isnan(there) or (here < level) == (there < level):
                        continue
                    if count < axes.shape[0]:
                        index[count, 0] = i
                        index[count, 1] = j
                        index[count, 2] = k
                        axes[count] = axis
                        inside[count] = here < level
                    count += 1
    return count
