"""Signed distance to meshes (exact) and to oriented point clouds (estimated): negative inside, positive outside.

The magnitude is always the exact distance to the closest triangle. libigl's and point-cloud-utils' own fast-winding
signed distance multiplies the distance by an approximate winding number and is off by up to 1e-3 of the box; here the
winding number only ever chooses the sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdf_tools.clean import degenerate_faces, edge_table, first_occurrences, signed_volume
from sdf_tools.cloud_distance import CloudDistance
from sdf_tools.columns import Columns
from sdf_tools.errors import ShapeError
from sdf_tools.shapes import Mesh, Shape, normalize
from sdf_tools.triangles import Found, TriangleTree, import_igl, morton_order, pseudo_normals

SIGNS = ("auto", "pseudonormal", "winding", "rays", "unsigned")
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

    Args:
        shape: a mesh, or a point cloud with normals (``sign="unsigned"``: with or without).
        sign: how the side is decided for meshes.
            ``rays``: exact winding number by the signed crossings of a ray, for sealed meshes (every edge is run
            along equally often in both directions), whether they cross themselves or not. ``pseudonormal``: from the
            normal of the closest face, edge or corner; for closed meshes that do not cross themselves.
            ``winding``: generalised winding number beyond one half (Barill et al., SIGGRAPH 2018), for open or
            broken meshes; of a sealed mesh it is the same as ``rays``, and found that way.
            ``unsigned``: no sign (for clouds as well). ``auto``: rays if the mesh is sealed, otherwise winding.
        method: for point clouds, see :class:`sdf_tools.cloud_distance.CloudDistance`.

    The closest triangle is found in float64. A closed mesh that is inside out (negative volume) is read as if it were
    turned around. Coordinates go through box units internally: a shape far from the origin, or very small or large,
    loses nothing.

    Memory beyond the mesh: about 350 bytes a face for distances and as much for inside tests of a sealed mesh, each
    built at first use, and 200 bytes a point for at most a million points at a time.

    Raises:
        ShapeError: the shape is empty, has no extent, is not sealed as ``rays`` needs it, or is a point cloud without
            normals that should have a sign.
    """

    def __init__(self, shape: Shape, sign: str = "auto", method: str = "imls") -> None:
        if sign not in SIGNS:
            raise ValueError(f"sign must be one of {', '.join(SIGNS)}, not '{sign}'.")
        self.shape = shape
        self._frame = normalize(shape)
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
        """Signed distance at ``points``, in the units of the shape, in the dtype and on the device of ``points``."""
        result = _in_chunks(self._solver.signed_distance, self._inward(points))
        return torch.from_numpy(result / self._frame.scale).reshape(points.shape[:-1]).to(points)

    def closest(self, points: Float[Tensor, "N 3"]) -> ClosestPoints:
        """Closest points, their normals, signed distances and faces, in the dtype and on the device of ``points``."""
        flat = self._inward(points)
        rows = [self._solver.query(flat[at]) for at in _chunks(len(flat))]
        found = {
            key: torch.from_numpy(np.concatenate([getattr(row, key) for row in rows]))
            for key in ("points", "normals", "distance", "faces")
        }
        return ClosestPoints(
            self._frame.to_world(found["points"]).to(points),
            found["normals"].to(points),
            (found["distance"] / self._frame.scale).to(points),
            found["faces"].to(points.device),
        )

    def contains(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Which points are inside; for closed meshes several times cheaper than a distance."""
        result = _in_chunks(self._solver.inside, self._inward(points))
        return torch.from_numpy(result).reshape(points.shape[:-1]).to(points.device)

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


class MeshDistance:
    """Exact signed distance to a mesh given in box units. Users want :class:`SignedDistance`.

    Attributes:
        sealed: every edge is run along equally often in both directions, so that winding numbers are whole.
        sign: ``rays``, ``winding``, ``pseudonormal`` or ``unsigned``.
    """

    def __init__(self, mesh: Mesh, sign: str) -> None:
        vertices = np.ascontiguousarray(mesh.vertices.numpy())
        faces = mesh.faces.numpy()
        self._original = np.flatnonzero(~degenerate_faces(vertices, faces))
        if len(self._original) == 0:
            raise ShapeError(f"'{mesh.name}' has no triangle with an area; there is no surface to measure from.")
        self.vertices, self.faces, self.sign = vertices, faces[self._original], sign
        self.sealed = False
        self._flip = 1.0
        if sign != "unsigned":
            # Joined by position, so that seams do not count as holes.
            keep, index = first_occurrences(vertices + 0.0)
            self.vertices, self.faces = np.ascontiguousarray(vertices[keep]), index[self.faces]
            self.sealed = bool((edge_table(self.faces).balance == 0).all())
            self._flip = -1.0 if signed_volume(self.vertices, self.faces) < 0 else 1.0
        if sign == "rays" and not self.sealed:
            raise ShapeError(f"'{mesh.name}' has holes, so rays cannot tell its inside; use sign='winding'.")
        if sign in ("auto", "winding"):
            self.sign = "rays" if self.sealed else "winding"

    @cached_property
    def _triangles(self) -> TriangleTree:
        return TriangleTree(self.vertices, self.faces)

    @cached_property
    def _normals(self) -> np.ndarray:
        return pseudo_normals(self.vertices, self.faces) * self._flip

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self.vertices, self.faces)

    @cached_property
    def _winding_tree(self) -> Any:
        tree = import_igl().FastWindingNumberBVH()
        tree.init(self.vertices, self.faces, 2)
        return tree

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) signed distances of (N, 3) points."""
        return self._closest(points)[2]

    def query(self, points: np.ndarray) -> Found:
        """Closest points to (N, 3) points."""
        ids, closest, distance, region = self._closest(points)
        return Found(closest, self._normals[ids, region], distance, self._original[ids])

    def _closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        ids, closest, region = self._triangles.closest(points)
        offset = points - closest
        distance = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        if self.sign == "pseudonormal":
            inside = np.einsum("ij,ij->i", offset, self._normals[ids, region]) < 0
        else:
            inside = self.inside(points)
        np.negative(distance, out=distance, where=inside)
        return ids, closest, distance, region

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of (N, 3) points are inside."""
        if self.sign == "unsigned" or len(points) == 0:
            return np.zeros(len(points), bool)
        if self.sign == "pseudonormal":
            return self._closest(points)[2] < 0
        # In a sealed mesh a body that is inside out still encloses its inside; in an open one the sides matter.
        return self._columns.winding(points) != 0 if self.sealed else self.winding(points) > 0.5

    def winding(self, points: np.ndarray) -> np.ndarray:
        """Generalised winding number of (N, 3) points, about 1 inside and 0 outside."""
        order = morton_order(points)  # neighbours in sequence share the tree's caches
        winding = np.empty(len(points))
        winding[order] = self._winding_tree.winding_number(points[order], 2.0) * self._flip
        return winding
