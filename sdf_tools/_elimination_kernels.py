"""Compiled loops of sample elimination: which of many candidates are the most crowded.

Importing this module needs numba; ``sdf_tools.sampling`` does so at first use and says how to get it. Neighbours are
found in the cells around a point whenever they are needed, so that no pair is ever stored.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np

LEVELS = 4096
"""Points at the same level count as equally crowded: the root of the crowding, in so many parts of the largest."""


def sort_into_cells(points: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points by cells, so that all within ``reach`` of a point lie in nine runs of points.

    Args:
        points: (N, 3).
        reach: length; cells are larger where the points' extent has more than 2^20 of it.

    Returns:
        order: (N,) the points' order by cell.
        cell: (N,) the cell of each point in that order, counted from 0.
        runs: (C, 9, 2) first and last + 1 of the points in each cell's nine rows of three cells.
    """
    low = points.min(0)
    size = max(reach, float((points - low).max()) / (1 << 20))  # 21 bits an axis
    corner = ((points - low) / size).astype(np.int64) + 1
    # Cells along the last axis have consecutive keys, so a row of three is one run.
    key = (corner[:, 0] << 42) + (corner[:, 1] << 21) + corner[:, 2]
    order = np.argsort(key)
    key = key[order]
    cells, cell = np.unique(key, return_inverse=True)
    rows = np.array([(x << 42) + (y << 21) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    middle = cells[:, None] + rows
    runs = np.stack([np.searchsorted(key, middle - 1), np.searchsorted(key, middle + 1, side="right")], -1)
    return order, cell, runs


@numba.njit(cache=True, nogil=True, fastmath=True)
def _weight(points, i, j, inverse):
    """The weight of two points on each other, ``(1 - d / reach)^8``; ``inverse`` is ``1 / reach^2``."""
    x, y, z = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
    ratio = (x * x + y * y + z * z) * inverse
    if ratio >= 1:
        return 0.0
    # Yuksel's exponent 8: near pairs count so much more that the closest one decides.
    weight = 1 - np.sqrt(ratio)
    weight *= weight
    weight *= weight
    return weight * weight


@numba.njit(cache=True, nogil=True)
def crowd(start, points, cell, runs, reach, out):
    """Fill ``out`` (M,) with the crowding of points ``start`` to ``start + M``: their neighbours' weights, summed."""
    inverse = 1 / (reach * reach)
    for i in range(start, start + len(out)):
        total = -1.0  # its own
        for r in range(9):
            for j in range(runs[cell[i], r, 0], runs[cell[i], r, 1]):
                total += _weight(points, i, j, inverse)
        out[i - start] = total


@numba.njit(cache=True, nogil=True)
def eliminate(points, cell, runs, reach, crowding, keep):
    """(N,) whether a point stays when the most crowded one goes until ``keep`` are left; changes ``crowding``."""
    inverse = 1 / (reach * reach)
    left = len(points)
    alive = np.ones(left, np.bool_)
    # A linked list of the points at each level of crowding. A neighbour that goes does not move a point: one that is
    # met above its level is put where it belongs. Crowding only falls, so the highest level does too.
    # Yuksel keeps a heap, which every neighbour of a point that goes would change.
    scale = (LEVELS - 1) / np.sqrt(max(crowding.max(), 1e-300))
    head, following = np.full(LEVELS, -1), np.empty(left, np.int64)
    for i in range(left):
        level = int(np.sqrt(crowding[i]) * scale)
        following[i] = head[level]
        head[level] = i
    top = LEVELS - 1
    while left > keep:
        while head[top] < 0:
            top -= 1
        i = head[top]
        head[top] = following[i]
        level = int(np.sqrt(max(crowding[i], 0.0)) * scale)
        if level < top:
            following[i] = head[level]
            head[level] = i
            continue
        alive[i] = False
        left -= 1
        for r in range(9):
            for j in range(runs[cell[i], r, 0], runs[cell[i], r, 1]):
                if alive[j]:
                    crowding[j] -= _weight(points, i, j, inverse)
    return alive
