"""Normals for point clouds: local planes, how far to trust them, and which side is out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.cloud.orientation import ANCHORS, orient_by_scans, orient_by_spanning_tree, orient_by_winding
from sdf_tools.errors import ShapeError, needs
from sdf_tools.geometry import PointCloud, like, require_finite
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.threads import in_threads
from sdf_tools.topology import first_occurrences

METHODS = ("winding", "mst", "viewpoints", "scans")
_BLOCK = 1 << 16


def estimate_normals(
    points: Float[Tensor, "N 3"], k: int | Int[Tensor, " N"] = 16
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """Unit normals of the best plane through each point's ``k`` nearest neighbours (itself included), and reliability.

    The sides are arbitrary: see :func:`orient_normals`. Small ``k`` keeps detail, large ``k`` stands noise: 8 to 12
    for clean samples of a mesh, 30 to 60 for raw scans. Points at the same place count as one.

    Args:
        points: (N, 3).
        k: neighbours, at least 4; one number, or (N,) one for each point.

    Returns:
        (N, 3) normals and (N,) reliability in [0, 1], ``1 - l0 / l1`` of the neighbourhood's sorted variances
        ``l0 <= l1 <= l2``: 1 on a plane, 0 where no direction is flatter than another (Hoppe et al. 1992 for the
        planes). Points whose neighbours all lie on one line, or coincide, get 0.

    Raises:
        ValueError: ``k`` is less than 4.
        ShapeError: fewer than 4 points, or coordinates that are not finite.
    """
    counts = torch.as_tensor(k).cpu().numpy()
    if counts.min() < 4:
        raise ValueError(f"k must be at least 4, not {counts.min()}.")
    if len(points) < 4:
        raise ShapeError(f"A cloud of {len(points)} points has no normals; at least 4 points are needed.")
    require_finite(PointCloud(points))
    every = points.detach().cpu().double().numpy()
    kept, place = first_occurrences(every + 0.0)
    array = every[kept]
    array = (array - array.mean(0)) / max(float(np.ptp(array, axis=0).max()), 1e-300)
    search, kernel = nearest_neighbours(array), _plane_kernel()
    normals, variance = np.empty_like(array), np.empty_like(array)
    counts = np.minimum(np.broadcast_to(counts, len(every))[kept], len(array))
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        for start in range(0, len(same), _BLOCK):
            rows = same[start : start + _BLOCK]
            normals[rows], variance[rows] = _fit(kernel, array, search(array[rows], int(count))[1])
    flat = 1 - np.clip(variance[:, 0], 0, None) / np.maximum(variance[:, 1], 1e-300)
    reliability = np.where(variance[:, 1] > 1e-12 * variance[:, 2], np.clip(flat, 0, 1), 0)
    return like(torch.from_numpy(normals[place]), points), like(torch.from_numpy(reliability[place]), points)


def _fit(kernel: Callable[..., None], points: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plane kernel on all threads: normals and variances."""
    normals, variance = np.empty((len(neighbours), 3)), np.empty((len(neighbours), 3))
    in_threads(lambda rows: kernel(points, neighbours[rows], normals[rows], variance[rows]), len(neighbours))
    return normals, variance


def _plane_kernel() -> Callable[..., None]:
    with needs("numba", "Estimating normals"):
        from sdf_tools.cloud._plane_kernels import fit_planes
    return fit_planes


def orient_normals(
    points: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    method: str = "winding",
    *,
    viewpoints: Float[Tensor, "*N 3"] | None = None,
    scan_ids: Int[Tensor, " N"] | None = None,
    refine: bool = True,
    anchors: int | None = None,
) -> Float[Tensor, "N 3"]:
    """Turn normals outward.

    Args:
        points: (N, 3).
        normals: (N, 3) unit normals of unknown side, for instance from :func:`estimate_normals`.
        method: ``winding`` finds the dipoles on the points whose winding number is one half on the surface and
            whose normals follow its gradient (:func:`~sdf_tools.cloud.orientation.orient_by_winding`): for closed or
            nearly closed surfaces, the most robust of the four. ``mst`` propagates the side along a minimum spanning
            tree over nearly parallel neighbours (Hoppe et al. 1992), then turns each component outward: for open
            sheets and very large clean clouds. ``viewpoints`` turns each normal towards its sensor.
            ``scans`` gives every scan one unknown viewing direction, and makes the scans agree where they overlap.
        viewpoints: (3,) or (N, 3) sensor positions, for ``viewpoints``.
        scan_ids: (N,), for ``scans``.
        refine: with ``winding``, replace normals more than 37 degrees off the field's (thin sheets and pins, where
            one plane mixes both sides) by the field's; otherwise only signs change.
        anchors: with ``winding``, how many points the field is solved on, 30,000 if left out; time is linear in it.

    Returns:
        (N, 3) oriented unit normals. Of ``winding`` and ``mst``, points at the same place have the same one.

    Raises:
        ValueError: unknown method, its viewpoints or scan ids are missing, fewer than 2 anchors, or not one normal for
            each point.
        ShapeError: coordinates or normals that are not finite, or all points at one place.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
    if anchors is not None and anchors < 2:
        raise ValueError(f"anchors must be at least 2, not {anchors}.")
    if points.shape != normals.shape:
        raise ValueError(f"points {tuple(points.shape)} and normals {tuple(normals.shape)} must have the same shape.")
    require_finite(PointCloud(points, normals), normals=True)
    array = points.detach().cpu().double().numpy()
    given = normals.detach().cpu().double().numpy()
    array = (array - (array.max(0) + array.min(0)) / 2) / max(float(np.ptp(array, axis=0).max()), 1e-300)
    if method in ("winding", "mst"):
        kept, place = first_occurrences(array + 0.0)
        if len(kept) < 2:
            raise ShapeError(f"All {len(array):,} points lie at one place: there is no surface with sides.")
        array, given = array[kept], given[kept]
        if method == "winding":
            found = orient_by_winding(array, given, refine=refine, anchors=ANCHORS if anchors is None else anchors)
        else:
            found = orient_by_spanning_tree(array, given)
        result = found[place]
    elif method == "scans":
        if scan_ids is None:
            raise ValueError("method='scans' needs scan_ids: the (N,) scan that each point belongs to.")
        result = orient_by_scans(array, given, scan_ids.cpu().numpy())
    else:
        if viewpoints is None:
            raise ValueError("method='viewpoints' needs viewpoints: the (3,) or (N, 3) positions of the sensors.")
        towards = (viewpoints.double().to(points.device) - points.double()).detach().cpu().numpy()
        result = np.where((towards * given).sum(1, keepdims=True) < 0, -given, given)
    return like(torch.from_numpy(np.ascontiguousarray(result)), points)


def with_normals(cloud: PointCloud, k: int | None = None, method: str | None = None) -> PointCloud:
    """The cloud with estimated, outward normals; a cloud that has normals comes back as it is.

    ``k`` defaults to 12, or 40 for range scans; ``method`` to ``winding``.

    Raises:
        ValueError: ``k`` is less than 4, or there is no such ``method``.
        ShapeError: fewer than 4 points, coordinates that are not finite, or all points at one place.
    """
    if cloud.normals is not None:
        return cloud
    if k is None:
        k = 12 if cloud.scan_ids is None else 40
    normals, _ = estimate_normals(cloud.points, k)
    normals = orient_normals(cloud.points, normals, method or "winding", scan_ids=cloud.scan_ids)
    return replace(cloud, normals=normals)
