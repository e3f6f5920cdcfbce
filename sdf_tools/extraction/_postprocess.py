"""What is done to a mesh after extraction: keep the pieces that matter, close holes, simplify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sdf_tools.errors import needs
from sdf_tools.geometry import Mesh
from sdf_tools.topology import drop_unreferenced, face_components


def _keep_faces(mesh: Mesh, keep: np.ndarray) -> Mesh:
    return drop_unreferenced(replace(mesh, faces=mesh.faces[torch.from_numpy(keep)]))


def drop_small_components(mesh: Mesh, min_faces: int) -> Mesh:
    """Remove the connected components with fewer than ``min_faces`` triangles; the largest stays, whatever its size."""
    count, label = face_components(mesh.faces.numpy())
    if count <= 1:
        return mesh
    sizes = np.bincount(label, minlength=count)
    kept = sizes >= min(min_faces, sizes.max())
    return mesh if kept.all() else _keep_faces(mesh, kept[label])


def largest_component(mesh: Mesh) -> Mesh:
    """The connected component with the most faces. Inner cavities are components too, and go."""
    count, label = face_components(mesh.faces.numpy())
    if count <= 1:
        return mesh
    return _keep_faces(mesh, label == np.bincount(label, minlength=count).argmax())


def fill_holes(mesh: Mesh, max_edges: int | None = None) -> Mesh:
    """Close loops of boundary edges (of at most ``max_edges`` edges) with fans around their centres.

    For holes in the surface itself. Where the surface only leaves the box, ``extract_mesh(cap=True)`` closes it flat.
    """
    from sdf_tools.mesh.repair import fill_boundary_loops

    return fill_boundary_loops(mesh, max_edges)[0]


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """Quadric edge collapse (Garland and Heckbert 1997) to about ``faces`` triangles, by fast-simplification.

    Vertex normals and colours are dropped: they belong to vertices that no longer exist.

    Raises:
        ValueError: fewer than four faces asked for.
        MissingLibraryError: fast-simplification is not installed.
    """
    if faces < 4:
        raise ValueError(f"A closed mesh has at least 4 faces; cannot simplify to {faces}.")
    if mesh.faces.shape[0] <= faces:
        return mesh
    with needs("fast-simplification", "Simplification"):
        import fast_simplification
    # The library computes in float32: centre and scale first, so that a far-away or tiny mesh keeps its digits.
    vertices = mesh.vertices.numpy()
    center = (vertices.max(0) + vertices.min(0)) / 2
    size = float((vertices.max(0) - vertices.min(0)).max()) or 1.0
    points, triangles = fast_simplification.simplify(
        ((vertices - center) / size).astype(np.float32), mesh.faces.numpy().astype(np.int32), target_count=faces
    )
    return Mesh(
        torch.from_numpy(points.astype(np.float64) * size + center),
        torch.from_numpy(triangles.astype(np.int64)),
        name=mesh.name,
    )
