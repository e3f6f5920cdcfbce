"""Repair on request: every change is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sdf_tools.errors import ShapeError, needs, nothing_inside
from sdf_tools.geometry import Mesh, for_numpy, normalize, positions, require_finite
from sdf_tools.mesh import orientation
from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.prepare import say, without_sheets
from sdf_tools.mesh.summary import summarize
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.topology import (
    close_cracks,
    degenerate_faces,
    drop_unreferenced,
    edge_table,
    face_components,
    face_cross,
    first_occurrences,
    merge_vertices,
    signed_volume,
    touching_bodies,
)


def repair(
    mesh: Mesh, *, fill_holes: bool = True, orient: bool = True, remesh: bool | None = None, resolution: int = 192
) -> tuple[Mesh, list[str]]:
    """Make a mesh closed and outward.

    In turn: merge duplicate vertices, and those that differ in their last digits where that closes cracks; keep one of
    each pair of opposite triangles; drop degenerate and duplicate triangles and unreferenced vertices; turn
    neighbouring triangles the same way round and each body outward, and drop walls hidden inside and sheets that
    enclose nothing (see ``prepare_mesh``); give bodies that touch along edges vertices of their own; fill holes; and,
    if the mesh is still not closed (or ``remesh`` is True), replace it by the level set one half of its generalised
    winding number on a grid, which is always closed but rounds details below the grid's cell.

    Args:
        mesh: any triangle mesh.
        fill_holes: close boundary loops with a fan around their centre.
        orient: make the orientation consistent, and outward.
        remesh: True always, False never, None only if the mesh is not closed by the other means.
        resolution: grid cells along the longest side for the remesh.

    Returns:
        The mesh and one sentence per change; an empty list if nothing had to change.

    Raises:
        ShapeError: triangles with coordinates that are not finite or of vertices that are not there, nothing is left,
            or the remesh finds no inside.
    """
    changes: list[str] = []
    require_finite(drop_unreferenced(mesh))  # loose vertices go, wherever they are
    before = summarize(mesh)
    mesh = merge_vertices(mesh)
    mesh, joined = close_cracks(mesh)
    if joined:
        changes.append(f"closed cracks by joining {joined:,} vertices that differ in their last digits")
    found = orientation.orient(_with_area(mesh)) if orient else None
    mesh = clean(mesh if found is None else found.mesh)
    if found is not None:
        found = without_sheets(replace(found, mesh=mesh, doubtful=None))
        mesh = found.mesh
    for number, what in (
        (before.duplicate_vertices, "merged {} vertices at the position of another"),
        (before.degenerate_faces, "dropped {} triangles without area"),
        (before.duplicate_faces - (found.doubled if found else 0), "dropped {} triangles that were there twice"),
        (before.unreferenced_vertices, "dropped {} vertices in no triangle"),
    ):
        if number:
            changes.append(what.format(number))
    changes += [] if found is None else say(found)
    _require_faces(mesh)
    mesh, apart = _separated(mesh)
    if apart:
        changes.append(f"gave {apart} bodies that touch along edges vertices of their own")
    if fill_holes:
        mesh, filled = fill_boundary_loops(mesh)
        if filled:
            changes.append(f"filled {filled} holes")
            if orient:
                found = orientation.orient(mesh)
                changes += say(found)
                mesh = found.mesh
                _require_faces(mesh)  # a sheet filled is a sheet there twice, which encloses nothing
    if remesh or (remesh is None and not orientation.is_sealed(mesh.faces.numpy())):
        mesh = watertight_remesh(mesh, resolution)
        changes.append(f"remeshed from the winding number on a grid of {resolution} cells along the longest side")
    return mesh, changes


def _require_faces(mesh: Mesh) -> None:
    if mesh.faces.shape[0] == 0:
        raise ShapeError(nothing_inside(mesh.name))


def _separated(mesh: Mesh) -> tuple[Mesh, int]:
    """Each of the closed bodies that touch along edges with its own vertices there, and how many these are."""
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    count, body = touching_bodies(faces, table)
    more = count - face_components(faces, table)[0]
    if not more:
        return mesh, 0
    corners, index = first_occurrences(np.stack([np.repeat(body, 3), faces.reshape(-1)], 1))
    kept = torch.from_numpy(faces.reshape(-1)[corners])
    return replace(
        mesh,
        vertices=mesh.vertices[kept],
        faces=torch.from_numpy(index.reshape(-1, 3)),
        vertex_normals=None,
        vertex_colors=None if mesh.vertex_colors is None else mesh.vertex_colors[kept],
    ), more + 1


def _with_area(mesh: Mesh) -> Mesh:
    flat = degenerate_faces(mesh.vertices.numpy(), mesh.faces.numpy())
    if flat.all():
        raise ShapeError(f"'{mesh.name}' has no triangle with an area; there is nothing to repair.")
    return replace(mesh, faces=mesh.faces[torch.from_numpy(~flat)]) if flat.any() else mesh


def fill_boundary_loops(mesh: Mesh, max_edges: int | None = None) -> tuple[Mesh, int]:
    """Close every simple loop of boundary edges: with a triangle or two, or a fan around a new vertex at its centre.

    Loops of more than ``max_edges`` edges stay open. Returns the mesh and how many were closed.

    Raises:
        ShapeError: faces of vertices that are not there.
    """
    mesh = for_numpy(mesh)
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    open_edge = (table.count == 1)[table.of_face]
    vertices = mesh.vertices.numpy()
    loops = _simple_loops(vertices, faces, open_edge)  # backwards, so that the fan faces the same side
    added_faces: list[list[int]] = []
    added_vertices: list[np.ndarray] = []
    added_colors: list[torch.Tensor] = []
    total, filled = mesh.vertices.shape[0], 0
    edges = set(map(tuple, table.edges.tolist())) if loops else set()
    for loop in loops:
        if len(loop) < 3 or (max_edges is not None and len(loop) > max_edges):
            continue
        filled += 1
        if len(loop) == 4 and tuple(sorted((loop[0], loop[2]))) in edges:
            loop = [*loop[1:], loop[0]]  # the other diagonal: triangles beside the hole have this one
        if len(loop) == 3 or (len(loop) == 4 and tuple(sorted((loop[0], loop[2]))) not in edges):
            added_faces += [[loop[0], loop[i], loop[i + 1]] for i in range(1, len(loop) - 1)]
            continue
        center = total + len(added_vertices)
        added_vertices.append(vertices[loop].mean(0))
        if mesh.vertex_colors is not None:
            added_colors.append(mesh.vertex_colors[loop].double().mean(0))
        added_faces += [[loop[i - 1], loop[i], center] for i in range(len(loop))]
    if not filled:
        return mesh, 0
    grown = np.concatenate([vertices, *(v[None] for v in added_vertices)]) if added_vertices else vertices
    closed = np.concatenate([faces, np.array(added_faces, np.int64)])
    colors = mesh.vertex_colors
    if colors is not None and added_colors:
        colors = torch.cat([colors, torch.stack(added_colors).to(colors)])
    return Mesh(torch.from_numpy(grown), torch.from_numpy(closed), vertex_colors=colors, name=mesh.name), filled


def _simple_loops(vertices: np.ndarray, faces: np.ndarray, open_edge: np.ndarray) -> list[list[int]]:
    """The holes of (F, 3) faces as closed walks, backwards, that meet no vertex twice.

    Where holes touch at a vertex, the faces around it fall into fans, and a hole lies between two neighbours of them.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        open_edge: (F, 3) whether edge i, from corner i to i + 1, has no other face.
    """
    face, side = np.nonzero(open_edge)
    ends, starts = faces[face, side].tolist(), faces[face, (side + 1) % 3].tolist()  # backwards
    arriving: dict[int, list[int]] = {}
    leaving: dict[int, list[int]] = {}
    for edge, (a, b) in enumerate(zip(starts, ends, strict=True)):
        leaving.setdefault(a, []).append(edge)
        arriving.setdefault(b, []).append(edge)
    around: dict[int, list[int]] = {vertex: [] for vertex, into in arriving.items() if len(into) > 1}
    for index in np.flatnonzero(np.isin(faces, list(around)).any(1)).tolist() if around else []:
        for vertex in faces[index].tolist():
            if vertex in around:
                around[vertex].append(index)
    follow: dict[int, int] = {}
    for vertex, into in arriving.items():
        out = leaving.get(vertex, [])
        if len(into) == len(out) == 1:
            follow[into[0]] = out[0]
        elif len(into) == len(out):
            fans = _fans(faces, vertex, around[vertex])
            angles = _clockwise(vertices, faces[around[vertex]], vertex, [starts[edge] for edge in into])
            place = {fans[int(face[edge])]: angle for edge, angle in zip(into, angles, strict=True)}
            into, out = (sorted(edges, key=lambda edge: place.get(fans[int(face[edge])], 0.0)) for edges in (into, out))
            follow |= dict(zip(into, out[1:] + out[:1], strict=True))
    loops: list[list[int]] = []
    while follow:
        first = edge = next(iter(follow))
        walk = []
        while edge in follow:
            walk.append(starts[edge])
            edge = follow.pop(edge)
        if edge == first:
            loops += _apart(walk)
    return loops


def _fans(faces: np.ndarray, vertex: int, around: list[int]) -> dict[int, int]:
    """For each face ``around`` a vertex the first of those it hangs together with by edges at the vertex."""
    fans = {face: face for face in around}
    by_edge: dict[int, list[int]] = {}
    for face in around:
        for other in faces[face].tolist():
            if other != vertex:
                by_edge.setdefault(other, []).append(face)
    for _ in fans:  # as many rounds as the longest fan has faces, at most
        before = dict(fans)
        for together in by_edge.values():
            least = min(fans[face] for face in together)
            fans |= dict.fromkeys(together, least)
        if fans == before:
            break
    return fans


def _clockwise(vertices: np.ndarray, around: np.ndarray, vertex: int, others: list[int]) -> list[float]:
    """Where vertices lie around one, by angle as seen from outside, that is against the normals of the faces there."""
    axis = face_cross(vertices, around).sum(0)
    away = vertices[others] - vertices[vertex]
    first = np.cross(axis, away[0])
    return np.arctan2(away @ first, away @ np.cross(axis, first)).tolist()


def _apart(walk: list[int]) -> list[list[int]]:
    """A closed walk in parts that meet no vertex twice."""
    loops: list[list[int]] = []
    path: list[int] = []
    place: dict[int, int] = {}
    for vertex in walk:
        if vertex in place:
            loops.append(path[place[vertex] :])
            for left in loops[-1][1:]:
                del place[left]
            del path[place[vertex] + 1 :]
        else:
            place[vertex] = len(path)
            path.append(vertex)
    return [*loops, path]


def watertight_remesh(mesh: Mesh, resolution: int = 192) -> Mesh:
    """The boundary of what the mesh winds around, by marching cubes on a signed distance with winding-number sign.

    Colours are those of the nearest vertices.

    Raises:
        ShapeError: no grid point is inside, the mesh is not one that :class:`SignedDistance` takes, or what comes out
            is not closed.
    """
    with needs("scikit-image", "The watertight remesh"):
        from skimage.measure import marching_cubes

    from sdf_tools.distance.signed_distance import SignedDistance

    mesh = drop_unreferenced(for_numpy(mesh))
    frame = normalize(mesh)
    distance = SignedDistance(frame.shape, sign="winding")
    cell = 0.9 / resolution
    inner = positions(frame.shape).numpy()
    size = [int(np.ceil(side / cell)) + 6 for side in np.ptp(inner, axis=0)]
    low = -np.array(size) * cell / 2
    axes = [torch.from_numpy(low[i] + cell * np.arange(size[i] + 1)) for i in range(3)]
    grid = torch.cartesian_prod(*axes)
    # The distance matters only beside the surface; elsewhere the side is enough.
    near = _cells_near(inner[mesh.faces.numpy()], low, cell, size)
    value = torch.where(distance.contains(grid), -3 * cell, 3 * cell).double()
    chosen = torch.from_numpy(np.flatnonzero(near.reshape(-1)))
    value[chosen] = distance(grid[chosen]).clamp(-3 * cell, 3 * cell)
    # A surface through grid points comes out with triangles of no area, and torn where those are dropped.
    value[value.abs() < 1e-3 * cell] = 1e-3 * cell
    volume = value.reshape([s + 1 for s in size]).numpy()
    if not (volume < 0).any():
        raise ShapeError(f"'{mesh.name}' encloses nothing at this resolution, so it cannot be closed by a remesh.")
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(cell,) * 3, allow_degenerate=False)
    world = frame.to_world(torch.from_numpy(vertices + low))
    result = clean(Mesh(world, torch.from_numpy(faces.astype(np.int64)), name=mesh.name))
    points, triangles = result.vertices.numpy(), result.faces.numpy()
    if not orientation.is_sealed(triangles):
        raise ShapeError(f"'{mesh.name}' does not come out closed on a grid of {resolution} cells; try another number.")
    if signed_volume(points, triangles) < 0:
        result = replace(result, faces=result.faces.flip(1))
    if mesh.vertex_colors is not None:
        nearest = nearest_neighbours(np.ascontiguousarray(mesh.vertices.double().numpy()))(points, 1)[1][:, 0]
        result = replace(result, vertex_colors=mesh.vertex_colors[torch.from_numpy(nearest)])
    return result


def _cells_near(corners: np.ndarray, low: np.ndarray, cell: float, size: list[int]) -> np.ndarray:
    """Grid points within two cells of a triangle, from samples denser than the cells."""
    from scipy.ndimage import binary_dilation

    near = np.zeros([s + 1 for s in size], bool)
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(1)
    steps = np.ceil(longest / cell).astype(int) + 1
    for step in np.unique(steps):
        some = corners[steps == step]
        i, j = np.meshgrid(np.arange(step + 1), np.arange(step + 1), indexing="ij")
        keep = i + j <= step
        u, v = (i[keep] / step)[None, :, None], (j[keep] / step)[None, :, None]
        for part in np.array_split(some, max(1, len(some) * u.size // 2_000_000)):
            a, along, across = (
                part[:, None, 0],
                part[:, None, 1] - part[:, None, 0],
                part[:, None, 2] - part[:, None, 0],
            )
            points = a + u * along + v * across
            at = np.rint((points.reshape(-1, 3) - low) / cell).astype(int)
            near[tuple(at.T)] = True
    return binary_dilation(near, iterations=2)
