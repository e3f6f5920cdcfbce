"""Fewer points of a cloud, evenly: one in each cell of a grid."""

from __future__ import annotations

import numpy as np
import torch

from sdf_tools.geometry import PointCloud, select_points

MOST_POINTS = 1_500_000
"""Points of a cloud that are kept: more than a pool draws from, and about what 4 GiB of memory can prepare."""
_CELLS = 1 << 20  # along an axis at most, so that three numbers of a cell fit into one of 64 bits
_TRIES = 8


def thin(cloud: PointCloud, most: int = MOST_POINTS) -> PointCloud:
    """The cloud, or one point of each cell of the finest grid that leaves no more than ``most``; the order stays.

    Dense places lose more than sparse ones: 50 times as many points there become as many.

    Raises:
        ValueError: ``most`` is less than 16.
    """
    if most < 16:
        raise ValueError(f"a cloud is thinned to 16 points or more, not {most}.")
    points = cloud.points.double().numpy()
    smallest = float(np.ptp(points, axis=0).max(initial=0)) / _CELLS if len(points) > most else 0.0
    if not smallest:  # few points, or many at one place
        return cloud
    cell, kept = 1024 * smallest, one_a_cell(points, 1024 * smallest)
    fewest = int(0.8 * most)
    best = kept if len(kept) <= most else kept[:0]
    for _ in range(_TRIES):
        if fewest <= len(best):
            break
        # On a surface cells grow in number with the square of their fineness. A little coarser, to end below.
        cell = max(smallest, cell * (len(kept) / (0.92 * most)) ** 0.5)
        kept = one_a_cell(points, cell)
        if len(best) < len(kept) <= most:
            best = kept
    return select_points(cloud, torch.from_numpy(best if len(best) else kept[:most]))


def one_a_cell(points: np.ndarray, cell: float) -> np.ndarray:
    """Indices, rising, of the first of (N, 3) points in each cell of a grid whose cells are ``cell`` wide."""
    place = ((points - points.min(0)) / cell).astype(np.int64)
    size = place.max(0) + 1
    key = (place[:, 0] * size[1] + place[:, 1]) * size[2] + place[:, 2]
    return np.sort(np.unique(key, return_index=True)[1])


def even_subset(points: np.ndarray, count: int) -> np.ndarray:
    """Indices, rising, of at most ``count`` of (N, 3) points of about unit size, so that dense regions do not dominate.

    Fewer than ``count``, one a cell of a grid, where there are more points.
    """
    if len(points) <= count:
        return np.arange(len(points))
    low, high = 1e-4, 1.0
    best = np.arange(count)
    for _ in range(12):
        cell = np.sqrt(low * high)
        kept = one_a_cell(points, cell)
        if len(kept) > count:
            low = cell
        else:
            high, best = cell, kept
    return best
