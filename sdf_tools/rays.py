"""Inside or outside of closed meshes by rays."""

from __future__ import annotations

import numpy as np

from sdf_tools.errors import MissingLibraryError
from sdf_tools.triangles import unit_face_normals

# Three directions with no special relation to axes or diagonals, so that rays seldom run along modelled faces.
_DIRECTIONS = np.array([[0.5377, 0.8339, -0.1237], [-0.7241, 0.2871, 0.6270], [0.3117, -0.5518, -0.7734]])


class FacingRays:
    """Inside tests for a closed, outward oriented mesh that does not cross itself.

    A point is inside if the first face its ray meets shows its back. Unlike counting crossings this needs one hit
    per ray. Two rays vote, and a third where they differ (Embree, float32, can slip between two faces).

    Raises:
        MissingLibraryError: embreex is not installed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore import EmbreeDevice
            from embreex.rtcore_scene import EmbreeScene
        except ImportError:
            raise MissingLibraryError("Inside tests by rays need embreex: pip install embreex") from None
        self._device = EmbreeDevice()
        self._scene = EmbreeScene(self._device)
        TriangleMesh(self._scene, vertices[faces].astype(np.float32))
        self._directions = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
        self._leaving = unit_face_normals(vertices, faces) @ self._directions.T > 0

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of (N, 3) points are inside."""
        origins = np.ascontiguousarray(points, dtype=np.float32)
        first, second = self._vote(origins, 0), self._vote(origins, 1)
        differ = np.flatnonzero(first != second)
        if len(differ):
            first[differ] = self._vote(origins[differ], 2)
        return first

    def _vote(self, origins: np.ndarray, axis: int) -> np.ndarray:
        direction = self._directions[axis].astype(np.float32)
        hit = self._scene.run(origins, np.tile(direction, (len(origins), 1)), query="INTERSECT")
        return (hit >= 0) & self._leaving[hit, axis]
