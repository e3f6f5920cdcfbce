"""Exact signed distance to triangle meshes, in box units."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.spatial._libraries import import_igl
from sdf_tools.spatial.closest_triangles import SurfacePoints, TriangleTree
from sdf_tools.spatial.neighbours import morton_order
from sdf_tools.spatial.ray_winding import RayWinding
from sdf_tools.topology import (
    EdgeTable,
    degenerate_faces,
    edge_table,
    face_cross,
    first_occurrences,
    pseudo_normals,
    repeated_faces,
    touching_bodies,
)
from sdf_tools.vectors import unit_vectors

OFF = 1e-5  # how far in front of a face its side is asked about, in sizes of the face
TURNED = [2, 1, 0, 4, 3, 5, 6]  # the regions of a face, as pseudo_normals counts them, with its corners the other way


def _closed_volume(vertices: np.ndarray, faces: np.ndarray, table: EdgeTable) -> float:
    """Signed volume of a mesh, an open one closed by fans around the middle of its open edges.

    About another centre, such as that of the bounding box, an open mesh would have another volume.
    """
    border = np.unique(table.edges[table.balance != 0])
    center = vertices[border].mean(0) if len(border) else vertices[faces.ravel()].mean(0)
    a, b, c = (vertices[faces[:, i]] - center for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


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
            table = edge_table(self.faces)
            self.sealed = bool((table.balance == 0).all())
            if not self.sealed:  # a face that is there twice would count twice in the winding number
                once = ~repeated_faces(self.faces)
                self.faces, self._original = self.faces[once], self._original[once]
                table = edge_table(self.faces)
            self._flip = -1.0 if _closed_volume(self.vertices, self.faces, table) < 0 else 1.0
        if sign == "rays" and not self.sealed:
            raise ShapeError(f"'{mesh.name}' has holes, so rays cannot tell its inside; use sign='winding'.")
        if sign in ("auto", "winding"):
            self.sign = "rays" if self.sealed else "winding"

    @cached_property
    def _triangles(self) -> TriangleTree:
        return TriangleTree(self.vertices, self.faces)

    @cached_property
    def _normals(self) -> np.ndarray:
        """(F, 7, 3) normals of each region of each face, outward whichever way each body of a sealed mesh runs."""
        wrong = self._against_the_rest() if self.sign == "rays" else np.zeros(len(self.faces), bool)
        normals = pseudo_normals(self.vertices, np.where(wrong[:, None], self.faces[:, ::-1], self.faces))
        normals[wrong] = normals[wrong][:, TURNED]
        return normals * self._flip

    def _against_the_rest(self) -> np.ndarray:
        """(F,) faces of bodies that are inside out where most of the volume is not; cavities are none of those.

        Such a body makes the winding number in front of it, where it turns its inside, negative.
        """
        count, body = touching_bodies(self.faces)
        if count == 1:
            return np.zeros(len(self.faces), bool)
        cross = face_cross(self.vertices, self.faces)
        size = np.linalg.norm(cross, axis=1)
        order = np.lexsort((size, body))
        largest = order[np.append(np.flatnonzero(np.diff(body[order])), len(order) - 1)]
        step = OFF * np.sqrt(size[largest])[:, None] * unit_vectors(cross[largest]) * self._flip
        front = self._ray_winding.winding(self.vertices[self.faces[largest]].mean(1) + step) * self._flip
        return (front < 0)[body]

    @cached_property
    def _ray_winding(self) -> RayWinding:
        return RayWinding(self.vertices, self.faces)

    @cached_property
    def _winding_tree(self) -> Any:
        tree = import_igl().FastWindingNumberBVH()
        tree.init(self.vertices, self.faces, 2)
        return tree

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) signed distances of (N, 3) points."""
        return self._closest(points)[2]

    def query(self, points: np.ndarray) -> SurfacePoints:
        """Closest points to (N, 3) points."""
        ids, closest, distance, region = self._closest(points)
        return SurfacePoints(closest, self._normals[ids, region], distance, self._original[ids])

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
        return self._ray_winding.winding(points) != 0 if self.sealed else self.winding(points) > 0.5

    def winding(self, points: np.ndarray) -> np.ndarray:
        """Generalised winding number of (N, 3) points, about 1 inside and 0 outside."""
        order = morton_order(points)  # neighbours in sequence share the tree's caches
        winding = np.empty(len(points))
        winding[order] = self._winding_tree.winding_number(points[order], 2.0) * self._flip
        return winding
