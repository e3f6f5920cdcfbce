"""Points and normals cleaned by local quadrics whose width follows the noise and the surface's own bends."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError
from sdf_tools.spatial.neighbours import morton_order, nearest_neighbours
from sdf_tools.threads import in_threads

MOST = 200  # neighbours of a fit
GAMMA = 1.0  # half the width of the confidence intervals, standard deviations
# Weights fall to zero at the width chosen with equal weights, times the second row where noise is the first one's
# spacings: what little noise hides is finer than two spacings.
WIDER = np.array([(0.3, 0.6), (1.0, 1.3)])
EVERY = 4  # a width is chosen for one point in so many; its neighbours have the same
NEAR = 5  # chosen ones whose median is a point's width
FINEST = 1 << 21  # cells of the grid that fits look up points in, at most
BLOCK = 1 << 15


def project(
    points: np.ndarray,
    normals: np.ndarray,
    noise: float | np.ndarray,
    neighbours: int | np.ndarray,
    *,
    starts: np.ndarray | None = None,
    oriented: bool = False,
    most: int = MOST,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move points onto the surface that their neighbours tell, by moving least squares of second order.

    At each start a quadric is fitted over the plane of its normal (Alexa et al. 2003). Its width is the largest at
    which its height still agrees, within what the noise explains, with that of all smaller ones (intersection of
    confidence intervals, Goldenshluger and Nemirovski 1997; for point clouds Xu and Foi 2020): wide on smooth parts,
    narrow at edges. Widths are then smoothed by a median.

    Args:
        points: (N, 3) the noisy points.
        normals: (N, 3) unit normals of any side, or outward ones with ``oriented``.
        noise: standard deviation of the points along their normals; one number, or (N,) one for each point.
        neighbours: how many nearest points the smallest fit has, at least 16; one number or (N,).
        starts: (N, 3) where the points are by now, from an earlier pass; the points themselves if left out.
        oriented: leave out points whose normals face away, as across a thin sheet.
        most: neighbours of the widest fit, unless twice ``neighbours`` are more.

    Returns:
        (N, 3) points, (N, 3) unit normals on the given side, and (N,) the standard deviation that remains at each.
    """
    kernels = _kernels()
    starts = points if starts is None else starts
    search = nearest_neighbours(points)
    most = min(max(most, 2 * int(np.max(neighbours))), 300, len(points))
    first = np.clip(neighbours, 16, most)  # of each point
    least = int(first.min())
    scales = np.unique(np.minimum(np.geomspace(least, most, max(2, round(np.log(most / least) / 0.34) + 1)), most))
    scales = scales.astype(np.int64)
    some = np.sort(morton_order(starts)[::EVERY])
    noise = np.broadcast_to(np.maximum(noise, 1e-300), len(points))
    begin = np.searchsorted(scales, np.broadcast_to(first, len(points))[some])
    probes, facing = np.ascontiguousarray(starts[some]), np.ascontiguousarray(normals[some])
    scatter = np.ascontiguousarray(noise[some])
    width = np.empty(len(some))
    for start in range(0, len(some), BLOCK):
        rows = slice(start, start + BLOCK)
        distance, index = search(probes[rows], most)

        def choose(part: slice, rows: slice = rows, distance: np.ndarray = distance, index: np.ndarray = index) -> None:
            kernels.choose_widths(
                points, normals, probes[rows][part], facing[rows][part], index[part], distance[part], scales,
                begin[rows][part], scatter[rows][part], GAMMA, oriented, width[rows][part],
            )  # fmt: skip

        in_threads(choose, len(index))
        spacing = np.sqrt(np.pi / least) * np.maximum(distance[:, least - 1], 1e-300)
        width[rows] *= np.interp(scatter[rows] / spacing, *WIDER)
        np.minimum(width[rows], np.maximum(distance[:, -1], 1e-300), out=width[rows])
    near = nearest_neighbours(probes)(starts, min(NEAR, len(some)))[1]
    widths = np.median(width[near], axis=1)

    cells = _Cells(kernels, points, normals, float(np.median(widths)))
    out, turned, trust = np.empty_like(points), np.empty_like(points), np.empty((len(points), 2))

    def fit(rows: slice) -> None:
        kernels.fit_quadrics(
            cells.points, cells.sides, cells.low, cells.size, cells.count, cells.first, starts[rows], normals[rows],
            widths[rows], oriented, 6, out[rows], turned[rows], trust[rows],
        )  # fmt: skip

    in_threads(fit, len(points))
    return out, turned, np.maximum(trust[:, 0], noise) * trust[:, 1]


class _Cells:
    """Points and their normals in the order of a grid's cells, so that all within a radius are quickly listed."""

    def __init__(self, kernels: Any, points: np.ndarray, sides: np.ndarray, size: float) -> None:
        self.low = points.min(0)
        extent = np.ptp(points, axis=0)
        self.size = max(size, float(extent.max()) / 1024, float(np.prod(extent) / FINEST) ** (1 / 3), 1e-300)
        self.count = (extent / self.size).astype(np.int64) + 1
        self.first = np.zeros(int(np.prod(self.count)) + 1, np.int64)
        order = np.empty(len(points), np.int64)
        kernels.sort_into_cells(points, self.low, self.size, self.count, self.first, order)
        self.points, self.sides = np.ascontiguousarray(points[order]), np.ascontiguousarray(sides[order])


def _kernels() -> Any:
    try:
        from sdf_tools.cloud import _quadric_kernels
    except ImportError:
        raise MissingLibraryError("Projection needs numba, which is not installed: pip install numba") from None
    return _quadric_kernels
