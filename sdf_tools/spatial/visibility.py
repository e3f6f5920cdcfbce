"""Which side of a surface is seen from far away, by rays through Embree."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError


class Sky:
    """Tells whether rays from points beside a surface leave it behind.

    Args:
        vertices: (V, 3).
        faces: (F, 3).

    Raises:
        MissingLibraryError: embreex is not installed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        try:
            import embreex  # noqa: F401
            import trimesh
            from trimesh.ray.ray_pyembree import RayMeshIntersector
        except ImportError:
            raise MissingLibraryError(
                "Finding the outside of a mesh needs Embree, which is not installed: pip install embreex trimesh"
            ) from None
        # Embree counts in float32: about the origin, of size one.
        self._center = (vertices.max(0) + vertices.min(0)) / 2
        self._scale = 1 / max(float(np.ptp(vertices, axis=0).max()), 1e-300)
        moved = (vertices - self._center) * self._scale
        self._scene: Any = RayMeshIntersector(trimesh.Trimesh(moved, faces, process=False))

    def seen(self, points: np.ndarray, normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(N,) whether a random ray from beside each surface point, on the side of its normal, meets nothing.

        Args:
            points: (N, 3) on the surface.
            normals: (N, 3) unit normals towards the side that is asked about.
            rng: of the directions, uniform over the half space.
        """
        start = (points - self._center) * self._scale + 1e-4 * normals
        direction = rng.normal(size=points.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        direction *= np.where(np.einsum("ij,ij->i", direction, normals) < 0, -1.0, 1.0)[:, None]
        return ~np.asarray(self._scene.intersects_any(start, direction), bool)
