"""What camera rays meet on a mesh, through Embree: faces, points, depths, normals, corner weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.errors import needs
from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.vectors import unit_vectors


@dataclass(frozen=True)
class MeshHits:
    """The first faces that rays meet.

    Attributes:
        ray: (N,) index of each ray that hit.
        face: (N,) the face it hit.
        point: (N, 3) where, float64.
        distance: (N,) along the ray, in units of its direction's length.
        normal: (N, 3) the face's unit normal, turned towards the ray's origin.
        smooth: (N, 3) the same from interpolated normals of the corners, where there are any.
        weights: (N, 3) barycentric weights of the face's corners.
    """

    ray: np.ndarray
    face: np.ndarray
    point: np.ndarray
    distance: np.ndarray
    normal: np.ndarray
    smooth: np.ndarray
    weights: np.ndarray


class MeshRays:
    """Casts rays at one mesh; coordinates of order one suit Embree's float32 best.

    Args:
        mesh: what to hit.
        corner_normals: (F, 3, 3) unit normals of the faces' corners, to be interpolated; default the mesh's vertex
            normals, where it has them.

    Raises:
        ShapeError: faces of vertices that are not there.
        MissingLibraryError: embreex is not installed.
    """

    def __init__(self, mesh: Mesh, corner_normals: np.ndarray | None = None) -> None:
        with needs("embreex", "A picture of a mesh"):
            import embreex  # noqa: F401
            import trimesh
            from trimesh.ray.ray_pyembree import RayMeshIntersector
        mesh = for_numpy(mesh)
        self.vertices = mesh.vertices.double().numpy()
        self.faces = mesh.faces.numpy()
        if corner_normals is None and mesh.vertex_normals is not None:
            corner_normals = mesh.vertex_normals.double().numpy()[self.faces]
        self._corner_normals = corner_normals
        self._scene = RayMeshIntersector(trimesh.Trimesh(self.vertices, self.faces, process=False))

    def first(self, origins: np.ndarray, directions: np.ndarray) -> MeshHits:
        """Cast rays from (N, 3) or (3,) origins along (N, 3) directions.

        The point is computed in float64 on the plane of the face that Embree found.
        """
        origins = np.broadcast_to(origins, directions.shape)
        found = self._scene.intersects_first(origins, directions)
        ray = np.flatnonzero(found >= 0)
        face, origin, direction = found[ray], origins[ray], directions[ray]
        corners = self.faces[face]
        a, b, c = (self.vertices[corners[:, k]] for k in range(3))
        normal = unit_vectors(np.cross(b - a, c - a))
        distance = ((a - origin) * normal).sum(1) / _away_from_zero((direction * normal).sum(1))
        point = origin + distance[:, None] * direction
        weights = _barycentric(a, b, c, point)
        smooth = normal
        if self._corner_normals is not None:
            smooth = unit_vectors((self._corner_normals[face] * weights[..., None]).sum(1))
        facing = -np.sign((normal * direction).sum(1, keepdims=True))
        return MeshHits(ray, face, point, distance, normal * facing, smooth * facing, weights)

    def interpolate(self, hits: MeshHits, values: np.ndarray) -> np.ndarray:
        """(N, C) values of the hit points from (V, C) values of the vertices."""
        return (values[self.faces[hits.face]] * hits.weights[..., None]).sum(1)

    def openness(self, point: np.ndarray, normal: np.ndarray, count: int, seed: int, offset: float) -> np.ndarray:
        """(N,) share of cosine-distributed rays that leave the mesh: 1 in the open, 0 in a closed crevice.

        Args:
            point: (N, 3) points on the surface.
            normal: (N, 3) unit normals there, towards the open side.
            count: rays per point; 0 gives ones.
            seed: of the directions.
            offset: how far off the surface the rays start.
        """
        if count == 0:
            return np.ones(len(point))
        rng = np.random.default_rng(seed)
        free = np.zeros(len(point))
        start = point + offset * normal
        for _ in range(count):
            free += ~self._scene.intersects_any(start, normal + unit_vectors(rng.normal(size=point.shape)))
        return free / count


def _barycentric(a: np.ndarray, b: np.ndarray, c: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(N, 3) weights of the corners."""
    u, v, w = b - a, c - a, point - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    bottom = _away_from_zero(uu * vv - uv * uv)
    beta, gamma = (vv * wu - uv * wv) / bottom, (uu * wv - uv * wu) / bottom
    weights = np.clip(np.stack([1 - beta - gamma, beta, gamma], 1), 0, 1)
    return weights / weights.sum(1, keepdims=True)


def _away_from_zero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-30, 1e-30, x)
