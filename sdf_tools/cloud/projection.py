"""Points and normals cleaned by local quadrics whose width follows the noise and the surface's own bends."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.threads import in_threads

MOST = 200  # neighbours of a fit
GAMMA = 1.0  # half the width of the confidence intervals, standard deviations
WIDER = 1.3  # weights fall to zero there, times the width chosen with equal weights
BLOCK = 1 << 15


def project(
    points: np.ndarray,
    normals: np.ndarray,
    noise: float,
    neighbours: int,
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
        noise: standard deviation of the points along their normals.
        neighbours: how many nearest points the smallest fit has, at least 16.
        starts: (N, 3) where the points are by now, from an earlier pass; the points themselves if left out.
        oriented: leave out points whose normals face away, as across a thin sheet.
        most: neighbours of the widest fit, unless twice ``neighbours`` are more.

    Returns:
        (N, 3) points, (N, 3) unit normals on the given side, and (N,) the standard deviation that remains at each.
    """
    kernels = _kernels()
    starts = points if starts is None else starts
    search, again = nearest_neighbours(points), nearest_neighbours(starts)
    most = min(max(most, 2 * neighbours), 300, len(points))
    least = min(max(16, neighbours), most)
    scales = np.unique(np.minimum(np.geomspace(least, most, max(2, round(np.log(most / least) / 0.34) + 1)), most))
    scales = scales.astype(np.int64)
    scatter = np.full(len(points), max(noise, 1e-300))
    width = np.empty(len(points))
    blocks = _blocks(len(points))
    found: tuple[np.ndarray, np.ndarray] | None = None
    for rows in blocks:
        distance, index = found = search(starts[rows], most)

        def choose(part: slice, rows: slice = rows, distance: np.ndarray = distance, index: np.ndarray = index) -> None:
            kernels.choose_widths(
                points, normals, starts[rows][part], normals[rows][part], index[part], distance[part], scales,
                scatter[rows][part], GAMMA, oriented, width[rows][part],
            )  # fmt: skip

        in_threads(choose, len(index))
    out, turned, trust = np.empty_like(points), np.empty_like(points), np.empty((len(points), 2))
    for rows in blocks:
        # One block's neighbours are kept; those of all would take 3 KB a point.
        distance, index = found if found is not None and len(blocks) == 1 else search(starts[rows], most)
        near = again(starts[rows], min(16, len(points)))[1]
        smooth = np.minimum(WIDER * np.median(width[near], axis=1), np.maximum(distance[:, -1], 1e-300))

        def fit(
            part: slice,
            rows: slice = rows,
            distance: np.ndarray = distance,
            index: np.ndarray = index,
            smooth: np.ndarray = smooth,
        ) -> None:
            kernels.fit_quadrics(
                points, normals, starts[rows][part], normals[rows][part], index[part], distance[part], smooth[part],
                oriented, 6, out[rows][part], turned[rows][part], trust[rows][part],
            )  # fmt: skip

        in_threads(fit, len(index))
    return out, turned, np.maximum(trust[:, 0], noise) * trust[:, 1]


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _kernels() -> Any:
    try:
        from sdf_tools.cloud import _quadric_kernels
    except ImportError:
        raise MissingLibraryError("Projection needs numba, which is not installed: pip install numba") from None
    return _quadric_kernels
