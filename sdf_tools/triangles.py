"""Exact closest points on triangles, and the normals that tell which side a point is on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sdf_tools.clean import edge_table, face_cross
from sdf_tools.errors import MissingLibraryError

# Regions of a triangle that can hold the closest point: corners 0-2, edges 3-5 (edge i from corner i to i + 1), face 6.
FACE_REGION = 6


@dataclass(frozen=True)
class Found:
    """One chunk's answer, in box units: (N, 3), (N, 3), (N,), (N,)."""

    points: np.ndarray
    normals: np.ndarray
    distance: np.ndarray
    faces: np.ndarray


def import_igl() -> Any:
    """libigl, or the sentence that says how to get it."""
    try:
        import igl
    except ImportError:
        raise MissingLibraryError("Signed distances need libigl, which is not installed: pip install libigl") from None
    return igl


@lru_cache(maxsize=1)
def _kernel() -> Callable:
    try:
        import numba
    except ImportError:
        raise MissingLibraryError("Signed distances need numba, which is not installed: pip install numba") from None

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def closest_on_triangles(points, vertices, faces, ids, closest, region):  # type: ignore[no-untyped-def]
        """Voronoi regions of the triangle in turn (Ericson, Real-Time Collision Detection, 5.1.5)."""
        for i in range(points.shape[0]):
            f = faces[ids[i]]
            ax, ay, az = vertices[f[0], 0], vertices[f[0], 1], vertices[f[0], 2]
            abx, aby, abz = vertices[f[1], 0] - ax, vertices[f[1], 1] - ay, vertices[f[1], 2] - az
            acx, acy, acz = vertices[f[2], 0] - ax, vertices[f[2], 1] - ay, vertices[f[2], 2] - az
            px, py, pz = points[i, 0] - ax, points[i, 1] - ay, points[i, 2] - az
            d1 = abx * px + aby * py + abz * pz
            d2 = acx * px + acy * py + acz * pz
            ab2 = abx * abx + aby * aby + abz * abz
            ac2 = acx * acx + acy * acy + acz * acz
            abac = abx * acx + aby * acy + abz * acz
            d3, d4 = d1 - ab2, d2 - abac
            d5, d6 = d1 - abac, d2 - ac2
            vc = d1 * d4 - d3 * d2
            vb = d5 * d2 - d1 * d6
            va = d3 * d6 - d5 * d4
            if d1 <= 0 and d2 <= 0:
                v, w, r = 0.0, 0.0, 0
            elif d3 >= 0 and d4 <= d3:
                v, w, r = 1.0, 0.0, 1
            elif vc <= 0 and d1 >= 0 and d3 <= 0:
                v, w, r = d1 / (d1 - d3), 0.0, 3
            elif d6 >= 0 and d5 <= d6:
                v, w, r = 0.0, 1.0, 2
            elif vb <= 0 and d2 >= 0 and d6 <= 0:
                v, w, r = 0.0, d2 / (d2 - d6), 5
            elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
                w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
                v, r = 1.0 - w, 4
            else:
                total = va + vb + vc
                v, w, r = vb / total, vc / total, 6
            closest[i, 0] = ax + v * abx + w * acx
            closest[i, 1] = ay + v * aby + w * acy
            closest[i, 2] = az + v * abz + w * acz
            region[i] = r

    return closest_on_triangles


def closest_on_triangles(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each of (N, 3) points the closest point on triangle ``faces[ids]``, and the region it lies in (0 to 6)."""
    closest = np.empty((len(points), 3))
    region = np.empty(len(points), np.int8)
    _kernel()(points, vertices, faces, ids, closest, region)
    return closest, region


def unit_face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals; zero for triangles without area."""
    cross = face_cross(vertices, faces)
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    return np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)


def corner_angles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) interior angles in radians."""
    corners = vertices[faces]
    forward = np.roll(corners, -1, axis=1) - corners
    backward = np.roll(corners, 1, axis=1) - corners
    sine = np.linalg.norm(np.cross(forward, backward), axis=-1)
    return np.arctan2(sine, np.einsum("fij,fij->fi", forward, backward))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, each the angle-weighted mean of the faces around it."""
    weighted = corner_angles(vertices, faces)[:, :, None] * unit_face_normals(vertices, faces)[:, None]
    flat, index = weighted.reshape(-1, 3), faces.reshape(-1)
    normals = np.stack([np.bincount(index, flat[:, i], minlength=len(vertices)) for i in range(3)], 1)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


def pseudo_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 7, 3) normal of each region of each face: corners, edges, face.

    Corners are angle-weighted, edges the mean of their two faces. The sign of ``(p - closest) . normal`` then says
    which side of a closed, embedded mesh ``p`` is on (Baerentzen and Aanaes, TVCG 2005).
    """
    face = unit_face_normals(vertices, faces)
    table = edge_table(faces)
    index = table.of_face.reshape(-1)
    repeated = np.repeat(face, 3, axis=0)
    edge = np.stack([np.bincount(index, repeated[:, i], minlength=len(table.edges)) for i in range(3)], 1)
    length = np.linalg.norm(edge, axis=1, keepdims=True)
    edge = np.divide(edge, length, out=np.zeros_like(edge), where=length > 0)
    return np.concatenate([vertex_normals(vertices, faces)[faces], edge[table.of_face], face[:, None]], axis=1)


def morton_order(points: np.ndarray) -> np.ndarray:
    """The order that visits (N, 3) points along a Z curve, so that neighbours in it share caches."""
    low = points.min(0)
    cell = np.ptp(points, axis=0).max() / 1023
    if not cell > 0:
        return np.arange(len(points))
    grid = ((points - low) / cell).astype(np.uint32)

    def spread(x: np.ndarray) -> np.ndarray:
        for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
            x = (x | (x << np.uint32(shift))) & np.uint32(mask)
        return x

    code = spread(grid[:, 0]) | (spread(grid[:, 1]) << np.uint32(1)) | (spread(grid[:, 2]) << np.uint32(2))
    return np.argsort(code, kind="stable")
