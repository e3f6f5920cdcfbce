"""Exact closest points on triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.spatial._libraries import import_kernels
from sdf_tools.spatial.neighbours import morton_order
from sdf_tools.threads import in_threads

# Regions of a triangle that can hold the closest point: corners 0-2, edges 3-5 (edge i from corner i to i + 1), face 6.
FACE_REGION = 6


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a surface that are closest to some queries, in box units.

    Attributes:
        points: (N, 3).
        normals: (N, 3) outward unit normals there.
        distance: (N,) signed distance of the query.
        faces: (N,) the triangle, or the point of a cloud, that holds the closest point.
    """

    points: np.ndarray
    normals: np.ndarray
    distance: np.ndarray
    faces: np.ndarray


class TriangleTree:
    """Finds the closest triangle, in float64 and on all cores: two to eight times faster than Open3D's float32 search.

    Neighbouring queries have neighbouring answers, so each search is bounded by the answer to the one before
    (:func:`morton_order` makes neighbours follow each other).

    Args:
        vertices: (V, 3) float64.
        faces: (F, 3), at least one.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        corners = vertices[faces]
        self._order = np.arange(len(faces))
        boxes, self._child, self._depth = import_kernels().build_tree(corners.min(1), corners.max(1), self._order)
        # float32 boxes, rounded outward: a node fits in one cache line, and nothing is lost.
        self._boxes = boxes.astype(np.float32)
        self._boxes[..., :3] = np.nextafter(self._boxes[..., :3], np.float32(-np.inf))
        self._boxes[..., 3:] = np.nextafter(self._boxes[..., 3:], np.float32(np.inf))
        a, b, c = (corners[self._order, k] for k in range(3))
        self._corners = np.concatenate([a, b - a, c - a], axis=1)

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For (N, 3) points the (N,) closest triangles, the (N, 3) points on them, and the (N,) regions (0 to 6)."""
        kernel, order = import_kernels().find_closest, morton_order(points)
        ids, region = np.empty(len(points), np.int64), np.empty(len(points), np.int8)
        closest = np.empty((len(points), 3))

        def part(rows: slice) -> None:
            kernel(
                points, order[rows], self._boxes, self._child, self._depth, self._corners, ids, closest, region
            )  # fmt: skip

        in_threads(part, len(points))
        return self._order[ids], closest, region
