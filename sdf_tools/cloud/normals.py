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
from sdf_tools.geometry import PointCloud
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.threads import in_threads

METHODS = ("winding", "mst", "viewpoints", "scans")
_BLOCK = 1 << 16


def estimate_normals(
    points: Float[Tensor, "N 3"], k: int | Int[Tensor, " N"] = 16
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """Unit normals of the best plane through each point's ``k`` nearest neighbours (itself included), and reliability.

    The sides are arbitrary: see :func:`orient_normals`. Small ``k`` keeps detail, large ``k`` stands noise: 8 to 12
    for clean samples of a mesh, 30 to 60 for raw scans.

    Args:
        points: (N, 3).
        k: neighbours, at least 4; one number, or (N,) one for each point.

    Returns:
        (N, 3) normals and (N,) reliability in [0, 1], ``1 - l0 / l1`` of the neighbourhood's sorted variances
        ``l0 <= l1 <= l2``: 1 on a plane, 0 where no direction is flatter than another (Hoppe et al. 1992 for the
        planes). Points whose neighbours all lie on one line, or coincide, get 0.

    Raises:
        ValueError: ``k`` is less than 4.
        ShapeError: fewer than 4 points.
    """
    counts = torch.as_tensor(k).cpu().numpy()
    if counts.min() < 4:
        raise ValueError(f"k must be at least 4, not {counts.min()}.")
    array = np.ascontiguousarray(points.detach().cpu().double().numpy())
    if len(array) < 4:
        raise ShapeError(f"A cloud of {len(array)} points has no normals; at least 4 points are needed.")
    array = (array - array.mean(0)) / max(float(np.ptp(array, axis=0).max()), 1e-300)
    search, kernel = nearest_neighbours(array), _plane_kernel()
    normals, variance = np.empty_like(array), np.empty_like(array)
    counts = np.broadcast_to(np.minimum(counts, len(array)), len(array))
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        for start in range(0, len(same), _BLOCK):
            rows = same[start : start + _BLOCK]
            normals[rows], variance[rows] = _fit(kernel, array, search(array[rows], int(count))[1])
    flat = 1 - np.clip(variance[:, 0], 0, None) / np.maximum(variance[:, 1], 1e-300)
    reliability = np.where(variance[:, 1] > 1e-12 * variance[:, 2], np.clip(flat, 0, 1), 0)
    return torch.from_numpy(normals).to(points), torch.from_numpy(reliability).to(points)


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
        (N, 3) oriented unit normals.

    Raises:
        ValueError: unknown method, or its viewpoints or scan ids are missing.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
    array = points.detach().cpu().double().numpy()
    given = normals.detach().cpu().double().numpy()
    if array.shape != given.shape:
        raise ValueError(f"points {array.shape} and normals {given.shape} must have the same shape.")
    array = (array - (array.max(0) + array.min(0)) / 2) / max(float(np.ptp(array, axis=0).max()), 1e-300)
    if method == "winding":
        result = orient_by_winding(array, given, refine=refine, anchors=anchors or ANCHORS)
    elif method == "mst":
        result = orient_by_spanning_tree(array, given)
    elif method == "scans":
        if scan_ids is None:
            raise ValueError("method='scans' needs scan_ids: the (N,) scan that each point belongs to.")
        result = orient_by_scans(array, given, scan_ids.cpu().numpy())
    else:
        if viewpoints is None:
            raise ValueError("method='viewpoints' needs viewpoints: the (3,) or (N, 3) positions of the sensors.")
        towards = (viewpoints.double().to(points.device) - points.double()).cpu().numpy()
        result = np.where((towards * given).sum(1, keepdims=True) < 0, -given, given)
    return torch.from_numpy(np.ascontiguousarray(result)).to(points)


def with_normals(cloud: PointCloud, k: int | None = None, method: str | None = None) -> PointCloud:
    """The cloud with estimated, outward normals; a cloud that has normals comes back as it is.

    ``k`` defaults to 12, or 40 for range scans; ``method`` to ``winding``.
    """
    if cloud.normals is not None:
        return cloud
    normals, _ = estimate_normals(cloud.points, k or (12 if cloud.scan_ids is None else 40))
    normals = orient_normals(cloud.points, normals, method or "winding", scan_ids=cloud.scan_ids)
    return replace(cloud, normals=normals)
