"""Signed distance to meshes (exact) and to oriented point clouds (estimated): negative inside, positive outside.

The magnitude is always the exact distance to the closest triangle. libigl's and point-cloud-utils' own fast-winding
signed distance multiplies the distance by an approximate winding number and is off by up to 1e-3 of the box; here the
winding number only ever chooses the sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdf_tools.distance.cloud_distance import CloudDistance
from sdf_tools.distance.mesh_distance import MeshDistance
from sdf_tools.geometry import Mesh, Shape, for_numpy, like, normalize

Sign = Literal["auto", "pseudonormal", "winding", "rays", "unsigned"]


CHUNK = 1 << 20  # points at once: about 200 bytes each


Finder = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ClosestPoints:
    """Closest points on a surface, in the units of the shape.

    Attributes:
        points: (N, 3) closest points.
        normals: (N, 3) outward unit normals there; at edges and corners of a mesh the angle-weighted mean.
        distance: (N,) signed distance.
        faces: (N,) the triangle (or the nearest point of a cloud) that holds the closest point.
    """

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    distance: Float[Tensor, " N"]
    faces: Int[Tensor, " N"]


class SignedDistance:
    """Signed distance to a shape: ``SignedDistance(shape)(points)``.

    >>> import torch
    >>> from sdf_tools import SignedDistance, extract_mesh
    >>> distance = SignedDistance(extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=64))
    >>> [round(value, 3) for value in distance(torch.tensor([[0.0, 0, 0.5], [0, 0, 0.1]])).tolist()]
    [0.1, -0.3]
    >>> distance.contains(torch.tensor([0.1, 0.1, 0.1]))
    tensor(True)

    Args:
        shape: a mesh, or a point cloud with normals (``sign="unsigned"``: with or without).
        sign: how the side is decided for meshes.
            ``rays``: exact winding number by the signed crossings of a ray, for sealed meshes (every edge is run
            along equally often in both directions), whether they cross themselves or not. ``pseudonormal``: from the
            normal of the closest face, edge or corner; for closed meshes that do not cross themselves.
            ``winding``: generalised winding number beyond one half (Barill et al., SIGGRAPH 2018), for open or
            broken meshes; of a sealed mesh it is the same as ``rays``, and found that way.
            ``unsigned``: no sign (for clouds as well). ``auto``: rays if the mesh is sealed, otherwise winding.
        method: for point clouds, see :class:`sdf_tools.distance.cloud_distance.CloudDistance`.

    The closest triangle is found in float64. A closed mesh that is inside out (negative volume) is read as if it were
    turned around. Coordinates go through box units internally: a shape far from the origin, or very small or large,
    loses nothing.

    Memory beyond the mesh: about 350 bytes a face for distances and as much for inside tests of a sealed mesh, each
    built at first use, and 200 bytes a point for at most a million points at a time.

    Raises:
        ShapeError: the shape is empty, has no extent, faces of vertices that are not there or coordinates that are not
            finite, is not sealed as ``rays`` needs it, or is a point cloud whose normals or confidences do not fit it
            or that should have a sign without having normals.
    """

    def __init__(self, shape: Shape, sign: Sign = "auto", method: Literal["imls", "knn_mean"] = "imls") -> None:
        if sign not in get_args(Sign):
            raise ValueError(f"sign must be one of {', '.join(get_args(Sign))}, not '{sign}'.")
        self.shape = for_numpy(shape)
        self._frame = normalize(self.shape)
        inner = self._frame.shape
        self._solver: MeshDistance | CloudDistance
        if isinstance(inner, Mesh):
            self._solver = MeshDistance(inner, sign)
        else:
            self._solver = CloudDistance(inner, method, unsigned=sign == "unsigned")

    @property
    def sign(self) -> str:
        """How the side is decided, after ``auto`` has chosen."""
        return self._solver.sign

    def __call__(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Signed distance at ``points``, in the units of the shape, in the dtype and on the device of ``points``.

        Here and below, points of whole numbers get torch's default dtype.
        """
        result = _in_chunks(self._solver.signed_distance, self._inward(points))
        return like(torch.from_numpy(result / self._frame.scale).reshape(points.shape[:-1]), points)

    def closest(self, points: Float[Tensor, "N 3"]) -> ClosestPoints:
        """Closest points, their normals, signed distances and faces, in the dtype and on the device of ``points``."""
        flat = self._inward(points)
        rows = [self._solver.query(flat[at]) for at in _chunks(len(flat))]
        found = {
            key: torch.from_numpy(np.concatenate([getattr(row, key) for row in rows]))
            for key in ("points", "normals", "distance", "faces")
        }
        return ClosestPoints(
            like(self._frame.to_world(found["points"]), points),
            like(found["normals"], points),
            like(found["distance"] / self._frame.scale, points),
            found["faces"].to(points.device),
        )

    def contains(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Which points are inside; for closed meshes several times cheaper than a distance."""
        result = _in_chunks(self._solver.inside, self._inward(points))
        return torch.from_numpy(result).reshape(points.shape[:-1]).to(points.device)

    def trust(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """How far to trust the distance at ``points``, in (0, 1]: 1 for meshes, the nearest point's for clouds.

        A cloud's point is trusted by how far it agrees with its neighbours
        (:class:`~sdf_tools.distance.cloud_distance.CloudDistance`); weights for a loss.
        """
        if isinstance(self._solver, MeshDistance):
            return like(torch.ones(points.shape[:-1]), points)
        found = _in_chunks(self._solver.trust_at, self._inward(points))
        return like(torch.from_numpy(found).reshape(points.shape[:-1]), points)

    def point_weights(self) -> Float[np.ndarray, " N"] | None:
        """(N,) how much surface each point of a cloud stands for, in that of the typical one, times the trust in it.

        None for meshes. To draw points by, or to weigh a loss at them: its expectation is an integral over the surface
        then.
        """
        return None if isinstance(self._solver, MeshDistance) else self._solver.weights

    def _inward(self, points: Tensor) -> np.ndarray:
        if points.shape[-1] != 3:
            raise ValueError(f"points must have 3 coordinates in their last dimension, not {points.shape[-1]}.")
        flat = self._frame.to_box(points.detach().cpu().double().reshape(-1, 3)).numpy()
        if not np.isfinite(flat).all():
            raise ValueError("points has coordinates that are NaN or infinite.")
        return flat


def _in_chunks(function: Finder, flat: np.ndarray) -> np.ndarray:
    return np.concatenate([function(flat[at]) for at in _chunks(len(flat))])


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, max(1, count), CHUNK)]
