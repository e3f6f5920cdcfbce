"""Points that belong to no surface."""

from __future__ import annotations

import numpy as np
import torch

from sdf_tools.geometry import PointCloud, select_points
from sdf_tools.spatial.neighbours import morton_order, nearest_neighbours


def drop_outliers(cloud: PointCloud, neighbours: int = 16, ratio: float = 8.0) -> tuple[PointCloud, int]:
    """Remove points that lie much farther from their neighbours than those lie from theirs.

    A point goes if the mean distance to its ``neighbours`` nearest points is more than ``ratio`` times the median of
    the same over those points: the simplified local outlier factor (Breunig et al., SIGMOD 2000), which does not mind
    that some parts were scanned more densely than others. Stray points and clusters of a few go; a stray cluster larger
    than ``neighbours`` is a surface of its own to it.

    Returns:
        The cloud without them (the same object if there are none), and how many there were.
    """
    points = np.ascontiguousarray(cloud.points.double().numpy())
    count = min(neighbours + 1, len(points))
    if count < 3:
        return cloud, 0
    order = morton_order(points)
    reach, near = np.empty(len(points)), np.empty((len(points), count), np.int64)
    distance, index = nearest_neighbours(points)(points[order], count)
    reach[order], near[order] = distance[:, 1:].mean(1), index
    usual = np.median(reach[near[:, 1:]], axis=1)
    keep = torch.from_numpy(reach <= ratio * np.maximum(usual, 1e-300))
    dropped = int((~keep).sum())
    if dropped == 0:
        return cloud, 0
    return select_points(cloud, keep), dropped
