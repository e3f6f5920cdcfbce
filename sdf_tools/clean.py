"""Mesh hygiene: merging, dropping what is no surface, and a summary a person can read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sdf_tools.shapes import Mesh, Shape, positions


@dataclass(frozen=True)
class Summary:
    """What a shape is. ``str(summary)`` is a short table.

    Attributes:
        kind: ``mesh`` or ``point cloud``.
        name: the shape's name.
        vertices: vertices or points.
        faces: triangles; 0 for a point cloud.
        watertight: every edge belongs to exactly two triangles that run along it in opposite directions.
        bodies: components connected by shared edges, by the vertex indices as they are: ``load`` merges vertices at the
            same position, so seams do not separate bodies unless it is told not to (``merge=False``).
        area: surface area, squared units.
        volume: signed enclosed volume, cubed units; only meaningful if watertight. Negative: the mesh is inside out.
        holes: loops of boundary edges.
        boundary_edges: edges with one triangle.
        non_manifold_edges: edges with more than two triangles.
        duplicate_faces: triangles with the same three vertices as an earlier one.
        degenerate_faces: triangles without area.
        duplicate_vertices: vertices at the position of an earlier one.
        unreferenced_vertices: vertices in no triangle.
        euler: vertices - edges + faces over the referenced vertices.
        has_normals: vertex or point normals are stored.
        scans: range scans of a point cloud; 0 when it does not know them.
        low: lowest corner of the bounding box.
        high: highest corner of the bounding box.
    """

    kind: str
    name: str
    vertices: int
    faces: int = 0
    watertight: bool = False
    bodies: int = 0
    area: float = 0.0
    volume: float = 0.0
    holes: int = 0
    boundary_edges: int = 0
    non_manifold_edges: int = 0
    duplicate_faces: int = 0
    degenerate_faces: int = 0
    duplicate_vertices: int = 0
    unreferenced_vertices: int = 0
    euler: int = 0
    has_normals: bool = False
    scans: int = 0
    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __str__(self) -> str:
        size = [h - low for low, h in zip(self.low, self.high, strict=True)]
        rows = [("bounds", f"{_triple(self.low)} to {_triple(self.high)}"), ("size", _triple(size))]
        if self.kind == "point cloud":
            rows = [("points", f"{self.vertices:,}"), ("normals", "yes" if self.has_normals else "no"), *rows]
            if self.scans:
                rows.insert(2, ("scans", str(self.scans)))
        else:
            volume = f"{self.volume:.6g}" + ("" if self.watertight else " (open: not meaningful)")
            rows = [
                ("vertices", f"{self.vertices:,}"),
                ("faces", f"{self.faces:,}"),
                ("watertight", "yes" if self.watertight else "no"),
                ("bodies", f"{self.bodies:,}"),
                ("area", f"{self.area:.6g}"),
                ("volume", volume),
                ("holes", f"{self.holes:,} ({self.boundary_edges:,} boundary edges)"),
                ("non-manifold edges", f"{self.non_manifold_edges:,}"),
                ("duplicate faces", f"{self.duplicate_faces:,}"),
                ("degenerate faces", f"{self.degenerate_faces:,}"),
                ("duplicate vertices", f"{self.duplicate_vertices:,}"),
                ("unreferenced", f"{self.unreferenced_vertices:,} vertices"),
                ("Euler number", str(self.euler)),
                *rows,
            ]
        width = max(len(key) for key, _ in rows)
        return "\n".join([f"{self.name} ({self.kind})", *(f"  {key:<{width}}  {value}" for key, value in rows)])


def _triple(values: tuple[float, ...] | list[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def first_occurrences(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows (N, k): the indices of the distinct rows in order of appearance, and the row -> distinct-row map."""
    if len(rows) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])
    group = np.empty(len(rows), np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]  # lexsort is stable: the first of each group is the one that appears first
    rank = np.empty(len(first), np.int64)
    appearance = np.argsort(first, kind="stable")
    rank[appearance] = np.arange(len(first))
    return first[appearance], rank[group]


def merge_vertices(mesh: Mesh) -> Mesh:
    """Join vertices at exactly the same position. Normals of joined vertices are averaged, colours are the first's."""
    keep, index = first_occurrences(mesh.vertices.numpy() + 0.0)
    if len(keep) == mesh.vertices.shape[0]:
        return mesh
    normals = None
    if mesh.vertex_normals is not None:
        summed = torch.zeros(len(keep), 3, dtype=mesh.vertex_normals.dtype)
        summed.index_add_(0, torch.from_numpy(index), mesh.vertex_normals)
        normals = torch.nn.functional.normalize(summed, dim=1)
    kept = torch.from_numpy(keep)
    return replace(
        mesh,
        vertices=mesh.vertices[kept],
        faces=torch.from_numpy(index)[mesh.faces],
        vertex_normals=normals,
        vertex_colors=None if mesh.vertex_colors is None else mesh.vertex_colors[kept],
    )


def drop_unreferenced(mesh: Mesh) -> Mesh:
    """Remove the vertices that no triangle uses."""
    used = np.zeros(mesh.vertices.shape[0], bool)
    used[mesh.faces.numpy().reshape(-1)] = True
    if used.all():
        return mesh
    index = torch.from_numpy(np.cumsum(used) - 1)
    keep = torch.from_numpy(used)
    return replace(
        mesh,
        vertices=mesh.vertices[keep],
        faces=index[mesh.faces],
        vertex_normals=None if mesh.vertex_normals is None else mesh.vertex_normals[keep],
        vertex_colors=None if mesh.vertex_colors is None else mesh.vertex_colors[keep],
    )


def face_cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) cross products of two edges: the face normals times twice the areas."""
    a = vertices[faces[:, 0]]
    return np.cross(vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a)


def degenerate_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) which triangles have no area: twice a vertex, or a height below 1e-12 of their longest side."""
    longest = np.zeros(len(faces))
    for i in range(3):
        edge = vertices[faces[:, i]] - vertices[faces[:, i - 1]]
        longest = np.maximum(longest, np.einsum("ij,ij->i", edge, edge))
    return np.linalg.norm(face_cross(vertices, faces), axis=1) <= 1e-12 * longest


def duplicate_faces(faces: np.ndarray) -> np.ndarray:
    """(F,) which triangles have the same three vertices, in any order, as an earlier one."""
    first, _ = first_occurrences(np.sort(faces, axis=1))
    extra = np.ones(len(faces), bool)
    extra[first] = False
    return extra


def clean(mesh: Mesh) -> Mesh:
    """Merge vertices at the same position, drop degenerate and duplicate triangles and unreferenced vertices."""
    mesh = merge_vertices(mesh)
    faces = mesh.faces.numpy()
    keep = ~degenerate_faces(mesh.vertices.numpy(), faces)
    keep[keep] = ~duplicate_faces(faces[keep])
    if not keep.all():
        mesh = replace(mesh, faces=mesh.faces[torch.from_numpy(keep)])
    return drop_unreferenced(mesh)


@dataclass(frozen=True)
class EdgeTable:
    """The undirected edges of a mesh.

    Attributes:
        edges: (E, 2) vertex pairs, low index first.
        of_face: (F, 3) edge i runs from corner i to corner i + 1.
        count: (E,) triangles at each edge.
        balance: (E,) triangles that run along it low to high minus those that run high to low.
    """

    edges: np.ndarray
    of_face: np.ndarray
    count: np.ndarray
    balance: np.ndarray


def edge_table(faces: np.ndarray) -> EdgeTable:
    """Collect the undirected edges of (F, 3) faces."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, end), np.maximum(start, end)
    span = int(faces.max()) + 1 if len(faces) else 1
    keys, index = np.unique(low.astype(np.int64) * span + high, return_inverse=True)
    index = index.reshape(-1)
    count = np.bincount(index, minlength=len(keys))
    balance = np.bincount(index, weights=np.where(start < end, 1, -1), minlength=len(keys)).astype(np.int64)
    return EdgeTable(np.stack([keys // span, keys % span], 1), index.reshape(-1, 3), count, balance)


def is_watertight(faces: np.ndarray, table: EdgeTable | None = None) -> bool:
    """Whether every edge belongs to exactly two triangles that run along it in opposite directions.

    Args:
        faces: (F, 3) vertex indices.
        table: their :func:`edge_table`, where there is one already.
    """
    table = edge_table(faces) if table is None else table
    return len(faces) > 0 and bool((table.count == 2).all() and (table.balance == 0).all())


def face_components(faces: np.ndarray, table: EdgeTable | None = None) -> tuple[int, np.ndarray]:
    """The number of components connected by shared edges, and the (F,) component of each face.

    Args:
        faces: (F, 3) vertex indices.
        table: their :func:`edge_table`, where there is one already.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edge = (edge_table(faces) if table is None else table).of_face.reshape(-1)
    order = np.argsort(edge, kind="stable")
    same = edge[order[:-1]] == edge[order[1:]]
    neighbours = order[:-1][same] // 3, order[1:][same] // 3
    graph = coo_array((np.ones(len(neighbours[0]), np.int8), neighbours), shape=(len(faces), len(faces)))
    count, component = connected_components(graph, directed=False)
    return int(count), component


def boundary_loops(table: EdgeTable) -> int:
    """The number of connected loops of boundary edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = table.edges[table.count == 1]
    if len(edges) == 0:
        return 0
    _, index = np.unique(edges, return_inverse=True)
    index = index.reshape(-1, 2)
    size = int(index.max()) + 1
    return int(
        connected_components(
            coo_array((np.ones(len(index)), (index[:, 0], index[:, 1])), shape=(size, size)), directed=False
        )[0]
    )


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Enclosed volume by the divergence theorem, about the bounding box's centre so that far shapes keep precision."""
    moved = vertices - (vertices.max(0) + vertices.min(0)) / 2
    return float(np.einsum("ij,ij->", moved[faces[:, 0]], np.cross(moved[faces[:, 1]], moved[faces[:, 2]])) / 6)


def summarize(shape: Shape) -> Summary:
    """Count what there is to know about a shape before trusting it."""
    points = positions(shape).numpy()
    if len(points) == 0:
        return Summary("mesh" if isinstance(shape, Mesh) else "point cloud", shape.name, 0)
    low, high = tuple(points.min(0).tolist()), tuple(points.max(0).tolist())
    if not isinstance(shape, Mesh):
        scans = 0 if shape.scan_ids is None else len(torch.unique(shape.scan_ids))
        return Summary(
            "point cloud",
            shape.name,
            len(points),
            has_normals=shape.normals is not None,
            scans=scans,
            low=low,
            high=high,
        )
    faces = shape.faces.numpy()
    distinct, _ = first_occurrences(points + 0.0)
    common: dict[str, Any] = {
        "duplicate_vertices": len(points) - len(distinct),
        "has_normals": shape.vertex_normals is not None,
        "low": low,
        "high": high,
    }
    if len(faces) == 0:
        return Summary("mesh", shape.name, len(points), unreferenced_vertices=len(points), **common)
    used = len(np.unique(faces))
    table = edge_table(faces)
    degenerate = degenerate_faces(points, faces)
    return Summary(
        "mesh",
        shape.name,
        len(points),
        faces=len(faces),
        watertight=is_watertight(faces, table),
        bodies=face_components(faces, table)[0],
        area=float(np.linalg.norm(face_cross(points, faces), axis=1).sum() / 2),
        volume=signed_volume(points, faces),
        holes=boundary_loops(table),
        boundary_edges=int((table.count == 1).sum()),
        non_manifold_edges=int((table.count > 2).sum()),
        duplicate_faces=int(duplicate_faces(faces).sum()),
        degenerate_faces=int(degenerate.sum()),
        unreferenced_vertices=len(points) - used,
        euler=used - len(table.edges) + len(faces),
        **common,
    )


def repair(mesh: Mesh, **options: Any) -> tuple[Mesh, list[str]]:
    """See :func:`sdf_tools.repair.repair`."""
    from sdf_tools import repair as module

    return module.repair(mesh, **options)
