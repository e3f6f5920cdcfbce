"""What is done to a mesh after extraction: keep the pieces that matter, close holes, simplify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sdf_tools.errors import needs
from sdf_tools.geometry import Mesh, for_numpy, require_finite
from sdf_tools.topology import drop_unreferenced, edge_table, face_components


def _keep_faces(mesh: Mesh, keep: np.ndarray) -> Mesh:
    return drop_unreferenced(replace(mesh, faces=mesh.faces[torch.from_numpy(keep)]))


def drop_small_components(mesh: Mesh, min_faces: int) -> Mesh:
    """Remove the connected components with fewer than ``min_faces`` triangles; the largest stays, whatever its size."""
    mesh = for_numpy(mesh)
    count, label = face_components(mesh.faces.numpy())
    if count <= 1:
        return mesh
    sizes = np.bincount(label, minlength=count)
    kept = sizes >= min(min_faces, sizes.max())
    return mesh if kept.all() else _keep_faces(mesh, kept[label])


def drop_specks(mesh: Mesh, min_faces: int = 100) -> tuple[Mesh, str | None]:
    """Remove stray specks: pieces with few faces that are also too small to be a part of the shape.

    A piece goes if it has fewer than ``min_faces`` triangles and its bounding box's diagonal is below 0.5 % of the
    whole mesh's, or below three edges (the median length over the mesh): the lattice held a node or two of it and tells
    nothing of its shape. A count of faces alone would drop real parts from a coarse mesh, a size alone resolved
    ones from a fine mesh. The largest piece always stays.

    Args:
        mesh: as extracted, before it is simplified.
        min_faces: pieces with as many triangles stay; 0 keeps everything.

    Returns:
        The mesh (the same object where nothing went) and one sentence on what was left out, or None.
    """
    mesh = for_numpy(mesh)
    faces, vertices = mesh.faces.numpy(), mesh.vertices.numpy()
    count, label = face_components(faces)
    if count <= 1 or min_faces <= 0:
        return mesh, None
    sizes = np.bincount(label, minlength=count)
    few = np.flatnonzero((sizes < min_faces) & (np.arange(count) != sizes.argmax()))
    if len(few) == 0:
        return mesh, None
    sample = faces[:: max(1, len(faces) // 100_000)]
    edge = float(np.median(np.linalg.norm(vertices[sample[:, 0]] - vertices[sample[:, 1]], axis=1)))
    limit = max(0.005 * float(np.linalg.norm(np.ptp(vertices, axis=0))), 3 * edge)
    candidates = np.flatnonzero(np.isin(label, few))
    order = candidates[np.argsort(label[candidates], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(label[order]) > 0])
    corners = vertices[faces[order]]
    low = np.minimum.reduceat(corners.min(1), starts, axis=0)
    high = np.maximum.reduceat(corners.max(1), starts, axis=0)
    across = np.linalg.norm(high - low, axis=1)
    small = across < limit
    specks = label[order][starts][small]
    if len(specks) == 0:
        return mesh, None
    gone = np.isin(label, specks)
    pieces = f"{len(specks)} stray pieces" if len(specks) > 1 else "a stray piece"
    return _keep_faces(mesh, ~gone), (
        f"Left out {pieces} of {int(gone.sum()):,} triangles in all, none wider than {across[small].max():.2g} "
        f"(all of it: {float(np.linalg.norm(np.ptp(vertices, axis=0))):.2g})."
    )


def leaves_box(mesh: Mesh, bounds: Sequence[Sequence[float]], within: float = 0.0) -> bool:
    """Whether an extracted mesh is cut off by its box: open edges lie on the faces of it.

    Args:
        mesh: as extracted, before it is simplified.
        bounds: the two corners that it was extracted in.
        within: how far from the faces it may end; a cell for dual contouring, whose vertices lie inside cells.
    """
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    border = mesh.vertices.double().numpy()[np.unique(table.edges[table.count == 1])]
    corners = np.asarray(bounds, dtype=float)
    near = within + 1e-6 * float((corners[1] - corners[0]).max())
    return bool((np.abs(border[:, None] - corners).min(1) < near).any())


def largest_component(mesh: Mesh) -> Mesh:
    """The connected component with the most faces. Inner cavities are components too, and go."""
    mesh = for_numpy(mesh)
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
        ShapeError: coordinates that are not finite, or faces of vertices that are not there.
        MissingLibraryError: fast-simplification is not installed.
    """
    if faces < 4:
        raise ValueError(f"A closed mesh has at least 4 faces; cannot simplify to {faces}.")
    require_finite(mesh)
    mesh = drop_unreferenced(mesh)  # a loose vertex far away would take the digits of the rest
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
