"""Signed distance to meshes (exact) and to oriented point clouds (estimated): negative inside, positive outside.

The magnitude is always the exact distance to the closest triangle. libigl's and point-cloud-utils' own fast-winding
signed distance multiplies the distance by an approximate winding number and is off by up to 1e-3 of the box; here the
winding number only ever chooses the sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdf_tools.clean import degenerate_faces, edge_table, first_occurrences, signed_volume
from sdf_tools.cloud_distance import CloudDistance
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.inside_cells import InsideCells
from sdf_tools.rays import FacingRays
from sdf_tools.shapes import Mesh, Shape, normalize
from sdf_tools.triangles import Found, closest_on_triangles, import_igl, morton_order, pseudo_normals

SIGNS = ("auto", "pseudonormal", "winding", "rays", "unsigned")
BACKENDS = ("auto", "libigl", "fcpw", "open3d")
CHUNK = 1 << 18
MANY = 100_000  # inside tests that pay for a grid of cells
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
            ``pseudonormal``: from the normal of the closest face, edge or corner; exact for closed meshes that do
            not cross themselves. ``winding``: generalised winding number beyond one half (Barill et al., SIGGRAPH
            2018); for open, self-intersecting or broken meshes. ``rays``: what side of the first
            face a ray meets (Embree); closed meshes that do not cross themselves only.
            ``unsigned``: no sign (for clouds as well). ``auto``: pseudo-normals if the mesh is closed, consistently
            oriented and agrees with the winding number at 20,000 test points, otherwise winding.
        backend: what finds the closest triangle. ``libigl`` works in float64 and is always there; ``fcpw`` and
            ``open3d`` search in float32 (the distance to the triangle they find is still computed in float64, so
            what can differ is a choice between triangles closer together than 1e-7 of the shape's size).
            ``auto`` is fcpw if installed, else libigl: see ``scripts/benchmark.py distance``.
        method: for point clouds, see :class:`sdf_tools.cloud_distance.CloudDistance`.

    A closed mesh that is inside out (negative volume) is read as if it were turned around. Coordinates go through box
    units internally: a shape far from the origin, or very small or large, loses nothing.

    Raises:
        ShapeError: the shape is empty, has no extent, or is a point cloud without normals that should have a sign.
        MissingLibraryError: the chosen backend is not installed.
    """

    def __init__(self, shape: Shape, sign: str = "auto", backend: str = "auto", method: str = "imls") -> None:
        if sign not in SIGNS:
            raise ValueError(f"sign must be one of {', '.join(SIGNS)}, not '{sign}'.")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not '{backend}'.")
        self.shape = shape
        self._frame = normalize(shape)
        inner = self._frame.shape
        self._solver: MeshDistance | CloudDistance
        if isinstance(inner, Mesh):
            self._solver = MeshDistance(inner, sign, backend)
        else:
            self._solver = CloudDistance(inner, method, unsigned=sign == "unsigned")

    @property
    def sign(self) -> str:
        """How the side is decided, after ``auto`` has chosen."""
        return self._solver.sign

    @property
    def backend(self) -> str:
        """What finds closest points, after ``auto`` has chosen."""
        return self._solver.backend

    def __call__(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Signed distance at ``points``, in the units of the shape, in the dtype and on the device of ``points``."""
        flat, order = self._inward(points)
        result = self._chunked(lambda q: self._solver.query(q).distance, flat, order)
        return torch.from_numpy(result / self._frame.scale).reshape(points.shape[:-1]).to(points)

    def closest(self, points: Float[Tensor, "N 3"]) -> ClosestPoints:
        """Closest points, their normals, signed distances and faces, in the dtype and on the device of ``points``."""
        flat, order = self._inward(points)
        rows = [self._solver.query(flat[at]) for at in _chunks(order)]
        found = {}
        for key in ("points", "normals", "distance", "faces"):
            parts = np.concatenate([getattr(row, key) for row in rows])
            values = np.empty_like(parts)
            values[order] = parts
            found[key] = torch.from_numpy(values)
        return ClosestPoints(
            self._frame.to_world(found["points"]).to(points),
            found["normals"].to(points),
            (found["distance"] / self._frame.scale).to(points),
            found["faces"].to(points.device),
        )

    def contains(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Which points are inside; for closed meshes several times cheaper than a distance."""
        flat, order = self._inward(points)
        result = self._chunked(self._solver.inside, flat, order)
        return torch.from_numpy(result).reshape(points.shape[:-1]).to(points.device)

    def _inward(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        if points.shape[-1] != 3:
            raise ValueError(f"points must have 3 coordinates in their last dimension, not {points.shape[-1]}.")
        flat = self._frame.to_box(points.detach().cpu().double().reshape(-1, 3)).numpy()
        if not np.isfinite(flat).all():
            raise ValueError("points has coordinates that are NaN or infinite.")
        order = morton_order(flat) if len(flat) > 64 else np.arange(len(flat))
        return np.ascontiguousarray(flat), order

    @staticmethod
    def _chunked(function: Finder, flat: np.ndarray, order: np.ndarray) -> np.ndarray:
        parts = np.concatenate([function(flat[at]) for at in _chunks(order)])
        values = np.empty_like(parts)
        values[order] = parts
        return values


def _chunks(order: np.ndarray) -> list[np.ndarray]:
    return [order[i : i + CHUNK] for i in range(0, max(1, len(order)), CHUNK)]


class MeshDistance:
    """Exact signed distance to a mesh given in box units. Users want :class:`SignedDistance`."""

    def __init__(self, mesh: Mesh, sign: str, backend: str) -> None:
        vertices = np.ascontiguousarray(mesh.vertices.numpy())
        faces = mesh.faces.numpy()
        self._original = np.flatnonzero(~degenerate_faces(vertices, faces))
        if len(self._original) == 0:
            raise ShapeError(f"'{mesh.name}' has no triangle with an area; there is no surface to measure from.")
        # Joined by position, so that seams do not count as holes.
        keep, index = first_occurrences(vertices + 0.0)
        vertices, faces = np.ascontiguousarray(vertices[keep]), index[faces[self._original]]
        table = edge_table(faces)
        self.closed = bool((table.count == 2).all() and (table.balance == 0).all())
        self._flip = -1.0 if signed_volume(vertices, faces) < 0 else 1.0
        self.vertices, self.faces = vertices, np.ascontiguousarray(faces, dtype=np.int64)
        self._normals = pseudo_normals(vertices, self.faces) * self._flip
        self.backend = _choose_backend(backend)
        self._find = _FINDERS[self.backend](vertices, self.faces)
        self._cells: InsideCells | None = None
        self._asked = 0
        self._tree: Any = None
        self._rays: Any = None
        self.sign = self._choose_sign() if sign == "auto" else sign

    def query(self, points: np.ndarray) -> Found:
        """Closest points to (N, 3) points."""
        ids = self._find(points) if len(points) else np.zeros(0, np.int64)
        closest, region = closest_on_triangles(points, self.vertices, self.faces, ids)
        offset = points - closest
        distance = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        normals = self._normals[ids, region]
        if self.sign == "pseudonormal":
            inside = np.einsum("ij,ij->i", offset, normals) < 0
        elif self.sign == "unsigned":
            inside = np.zeros(len(points), bool)
        else:
            inside = self.inside(points)
        np.negative(distance, out=distance, where=inside)
        return Found(closest, normals, distance, self._original[ids])

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of (N, 3) points are inside."""
        if not self.closed or self.sign == "unsigned":
            return self._inside(points)
        if self._cells is None:
            self._asked += len(points)
            if self._asked < MANY:
                return self._inside(points)
            self._cells = InsideCells(self.vertices, self.faces, self._inside, closed=True)
        return self._cells(points)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        if self.sign in ("pseudonormal", "rays") and len(points):
            if self._rays is None:
                self._rays = self._make_rays()
            # Same answer at a fraction of the cost, where embreex is installed.
            return self._rays.inside(points) if self._rays else self._inside_by_winding(points)
        if self.sign == "unsigned":
            return np.zeros(len(points), bool)
        return self._inside_by_winding(points)

    def _make_rays(self) -> FacingRays | bool:
        faces = self.faces if self._flip > 0 else self.faces[:, ::-1]
        try:
            return FacingRays(self.vertices, faces)
        except MissingLibraryError:
            if self.sign == "rays":
                raise
            return False

    def _inside_by_winding(self, points: np.ndarray) -> np.ndarray:
        if len(points) == 0:
            return np.zeros(0, bool)
        winding = self.winding(points)
        # In a closed mesh a body that is inside out still encloses its inside; in an open one the sides matter.
        return np.abs(winding) > 0.5 if self.closed else winding > 0.5

    def winding(self, points: np.ndarray) -> np.ndarray:
        """Generalised winding number of (N, 3) points, about 1 inside and 0 outside."""
        if self._tree is None:
            igl = import_igl()
            self._tree = igl.FastWindingNumberBVH()
            self._tree.init(self.vertices, self.faces, 2)
        return self._tree.winding_number(np.ascontiguousarray(points), 2.0) * self._flip

    def _choose_sign(self) -> str:
        if not self.closed:
            return "winding"
        rng = np.random.default_rng(0)
        corners = self.vertices[self.faces[rng.integers(0, len(self.faces), 20_000)]]
        on = np.einsum("ni,nij->nj", rng.dirichlet((1, 1, 1), len(corners)), corners)
        reach = np.where(np.arange(len(on)) % 2, 0.003, 0.1)[:, None]
        points = on + rng.laplace(size=on.shape) * reach
        points = points[morton_order(points)]
        ids = self._find(points)
        closest, region = closest_on_triangles(points, self.vertices, self.faces, ids)
        side = np.einsum("ij,ij->i", points - closest, self._normals[ids, region])
        clear = np.linalg.norm(points - closest, axis=1) > 1e-6
        agree = (side < 0) == (np.abs(self.winding(points)) > 0.5)
        return "pseudonormal" if agree[clear].all() else "winding"


def _choose_backend(backend: str) -> str:
    from importlib.util import find_spec

    if backend == "auto":
        return "fcpw" if find_spec("fcpw") is not None else "libigl"
    return backend


def _libigl_finder(vertices: np.ndarray, faces: np.ndarray) -> Finder:
    tree = import_igl().AABB()
    tree.init(vertices, faces)
    return lambda points: tree.squared_distance(vertices, faces, points)[1].astype(np.int64, copy=False)


def _fcpw_finder(vertices: np.ndarray, faces: np.ndarray) -> Finder:
    try:
        import fcpw
    except ImportError:
        raise MissingLibraryError("backend='fcpw' needs fcpw, which is not installed: pip install fcpw") from None
    scene = fcpw.scene_3D()
    scene.set_object_count(1)
    scene.set_object_vertices(np.asfortranarray(vertices, dtype=np.float32), 0)
    scene.set_object_triangles(np.asfortranarray(faces, dtype=np.int32), 0)
    scene.build(fcpw.aggregate_type.bvh_surface_area, True)

    def find(points: np.ndarray) -> np.ndarray:
        found = fcpw.interaction_3D_list()
        query = np.asfortranarray(points, dtype=np.float32)
        scene.find_closest_points(query, np.full(len(points), np.inf, np.float32), found)
        return np.fromiter((hit.primitive_index for hit in found), np.int64, len(points))

    return find


def _open3d_scene(vertices: np.ndarray, faces: np.ndarray) -> Any:
    try:
        import open3d
    except (ImportError, OSError):
        raise MissingLibraryError("This choice needs open3d, which is not installed: pip install open3d") from None
    scene: Any = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(vertices.astype(np.float32), faces.astype(np.uint32))
    return scene


def _open3d_finder(vertices: np.ndarray, faces: np.ndarray) -> Finder:
    scene = _open3d_scene(vertices, faces)

    def find(points: np.ndarray) -> np.ndarray:
        answer = scene.compute_closest_points(points.astype(np.float32))
        return answer["primitive_ids"].numpy().astype(np.int64)

    return find


_FINDERS = {"libigl": _libigl_finder, "fcpw": _fcpw_finder, "open3d": _open3d_finder}
