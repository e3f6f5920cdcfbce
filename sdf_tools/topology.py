"""Vertices, edges and faces of triangle meshes: merging, edge tables, components, areas, normals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.vectors import unit_vectors


def first_occurrences(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For rows (N, k): the indices of the distinct rows in order of appearance, and the row -> distinct-row map."""
    if len(rows) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    column = np.sort(rows[:, 0])
    if (column[1:] != column[:-1]).all():  # as of most scans: a tenth of the time
        return np.arange(len(rows)), np.arange(len(rows))
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
    mesh = for_numpy(mesh)
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


def close_cracks(mesh: Mesh) -> tuple[Mesh, int]:
    """Join boundary vertices that differ in their last digits, as STL files of CAD programs leave them.

    Tolerances of 1e-7 to 1e-5 of the longest side (or the float32 rounding of the coordinates, if that is more) are
    tried in turn; the smallest that leaves the fewest boundary edges is taken, if no triangle collapses by it and no
    edge gets a third triangle.

    Returns:
        The mesh (the same object if there is nothing to join), and how many vertices were joined to another.
    """
    mesh = for_numpy(mesh)
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    table = edge_table(faces)
    boundary = np.unique(table.edges[table.count == 1])
    if len(boundary) == 0:
        return mesh, 0
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    extent = float(np.ptp(vertices, axis=0).max())
    rounding = 2.4e-7 * float(np.abs(vertices).max())  # two float32 steps either way
    tree = cKDTree(vertices[boundary])
    best, fewest = None, int((table.count == 1).sum())
    crowded = int((table.count > 2).sum())
    for tolerance in sorted({min(max(1e-7 * extent, rounding), 1e-3 * extent), 1e-6 * extent, 1e-5 * extent}):
        pairs = tree.query_pairs(tolerance, output_type="ndarray")
        if len(pairs) == 0:
            continue
        size = len(boundary)
        graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(size, size))
        _, group = connected_components(graph, directed=False)
        index = np.arange(len(vertices))
        first = np.full(int(group.max()) + 1, len(vertices))
        np.minimum.at(first, group, boundary)
        index[boundary] = first[group]
        joined = index[faces]
        if ((joined == np.roll(joined, 1, axis=1)).any(1) & ~(faces == np.roll(faces, 1, axis=1)).any(1)).any():
            break
        after = edge_table(joined)
        left = int((after.count == 1).sum())
        if left < fewest and int((after.count > 2).sum()) <= crowded:
            best, fewest = (joined, int((index != np.arange(len(index))).sum())), left
    if best is None:
        return mesh, 0
    return drop_unreferenced(replace(mesh, faces=torch.from_numpy(best[0]))), best[1]


def drop_unreferenced(mesh: Mesh) -> Mesh:
    """Remove the vertices that no triangle uses."""
    mesh = for_numpy(mesh)
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


def same_vertices(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first of each set of triangles on the same vertices, (F,) the set of each, (F,) which oppose the first."""
    first, group = first_occurrences(np.sort(faces, axis=1))
    # A triangle is even if its order is a rotation of the sorted one.
    rank = np.argsort(np.argsort(faces, axis=1), axis=1)
    even = (rank[:, 1] - rank[:, 0]) % 3 == 1
    return first, group, even != even[first][group]


def repeated_faces(faces: np.ndarray) -> np.ndarray:
    """(F,) which triangles have the same three vertices, the same way round, as an earlier one."""
    start = np.argmin(faces, axis=1)[:, None]
    first, _ = first_occurrences(np.take_along_axis(faces, (start + np.arange(3)) % 3, axis=1))
    extra = np.ones(len(faces), bool)
    extra[first] = False
    return extra


def opposite_duplicates(faces: np.ndarray) -> int:
    """How many triangles have the same three vertices as an earlier one, the other way round."""
    return int(same_vertices(faces)[2].sum())


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
    if len(faces) == 0:
        return 0, np.zeros(0, np.int32)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edge = (edge_table(faces) if table is None else table).of_face.reshape(-1)
    order = np.argsort(edge, kind="stable")
    same = edge[order[:-1]] == edge[order[1:]]
    neighbours = order[:-1][same] // 3, order[1:][same] // 3
    graph = coo_array((np.ones(len(neighbours[0]), np.int8), neighbours), shape=(len(faces), len(faces)))
    count, component = connected_components(graph, directed=False)
    return int(count), component


def touching_bodies(faces: np.ndarray, table: EdgeTable | None = None) -> tuple[int, np.ndarray]:
    """As :func:`face_components`, but closed surfaces that only touch along edges are components of their own.

    A component with edges of more than two triangles is divided there if each part is closed by itself.
    """
    table = edge_table(faces) if table is None else table
    count, component = face_components(faces, table)
    if not (table.count > 2).any():
        return count, component
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = edge_pairs(table)[1] // 3
    graph = coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(len(faces), len(faces)))
    parts, part = connected_components(graph, directed=False)
    # Every edge of every part by itself, so that two triangles of another part do not close it.
    edge = table.of_face * np.int64(parts) + part[:, None]
    _, index, number = np.unique(edge.reshape(-1), return_inverse=True, return_counts=True)
    start, end = faces, np.roll(faces, -1, axis=1)
    balance = np.bincount(index.reshape(-1), np.where(start < end, 1, -1).reshape(-1), len(number))
    open_face = ((number != 2) | (balance != 0))[index.reshape(-1)].reshape(-1, 3).any(1)
    divided = np.bincount(component, open_face, count) == 0
    label = np.where(divided[component], count + part, component)
    names, label = np.unique(label, return_inverse=True)
    return len(names), label.reshape(-1)


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


def unit_face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals; zero for triangles without area."""
    return unit_vectors(face_cross(vertices, faces))


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
    return unit_vectors(np.stack([np.bincount(index, flat[:, i], minlength=len(vertices)) for i in range(3)], 1))


def edge_pairs(table: EdgeTable) -> tuple[np.ndarray, np.ndarray]:
    """The S edges with exactly two faces, and the (S, 2) places ``3 * face + i`` where these have them."""
    order = np.argsort(table.of_face.reshape(-1), kind="stable")
    first = np.concatenate([[0], np.cumsum(table.count)[:-1]])
    shared = np.flatnonzero(table.count == 2)
    return shared, np.stack([order[first[shared]], order[first[shared] + 1]], 1)


def corner_normals(vertices: np.ndarray, faces: np.ndarray, sharp: float) -> np.ndarray:
    """(F, 3, 3) unit normals of the faces' corners, smooth but for edges that bend by more than ``sharp`` degrees.

    Each is the angle-weighted mean over the faces that are reached around the vertex without crossing such an edge.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    face = unit_face_normals(vertices, faces)
    pairs = edge_pairs(edge_table(faces))[1]
    bend = np.einsum("ij,ij->i", *(face[pairs[:, k] // 3] for k in range(2)))
    start = pairs[bend > np.cos(np.radians(sharp))]
    end = start + np.where(start % 3 == 2, -2, 1)
    # Both faces run along the edge, in opposite directions: the corner where one starts is where the other ends.
    links = np.concatenate([start[:, 0], end[:, 0]]), np.concatenate([end[:, 1], start[:, 1]])
    graph = coo_array((np.ones(len(links[0]), np.int8), links), shape=(faces.size, faces.size))
    count, group = connected_components(graph, directed=False)
    weighted = (corner_angles(vertices, faces)[:, :, None] * face[:, None]).reshape(-1, 3)
    total = np.stack([np.bincount(group, weighted[:, i], minlength=count) for i in range(3)], 1)
    return unit_vectors(total)[group].reshape(-1, 3, 3)


def pseudo_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 7, 3) normal of each region of each face: corners, edges, face.

    Corners are angle-weighted, edges the mean of their two faces. The sign of ``(p - closest) . normal`` then says
    which side of a closed, embedded mesh ``p`` is on (Baerentzen and Aanaes, TVCG 2005).
    """
    face = unit_face_normals(vertices, faces)
    table = edge_table(faces)
    index = table.of_face.reshape(-1)
    repeated = np.repeat(face, 3, axis=0)
    edge = unit_vectors(np.stack([np.bincount(index, repeated[:, i], minlength=len(table.edges)) for i in range(3)], 1))
    return np.concatenate([vertex_normals(vertices, faces)[faces], edge[table.of_face], face[:, None]], axis=1)
