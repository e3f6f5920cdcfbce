"""The inside that a person sees, whichever way the triangles of a mesh run.

Triangles are first made to agree with their neighbours; then each patch that closes a body is turned to enclose
positive volume, and each open one so that the side from which more rays leave the shape is out (Takayama et al.,
"A Simple Method for Correcting Facet Orientations in Polygon Meshes Based on Ray Casting", JCGT 2014).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from sdf_tools.geometry import Mesh
from sdf_tools.spatial._libraries import import_igl
from sdf_tools.spatial.ray_winding import RayWinding
from sdf_tools.spatial.visibility import Sky
from sdf_tools.topology import (
    EdgeTable,
    drop_unreferenced,
    edge_table,
    face_cross,
    same_vertices,
    touching_bodies,
    unit_face_normals,
)

RAYS = 20_000  # on each side of all open patches together; at least FEWEST for each
FEWEST = 32
DECIDED = 0.6  # share of the escaping rays that the outer side needs: below, both sides are seen alike
SURE = 0.75
WHOLE = 0.8  # share of a patch's triangles that run as the file has them: from it on the file means its side
UNSEEN = 0.01  # share of all rays that escape from either side of what is hidden inside


@dataclass(frozen=True)
class Oriented:
    """A mesh whose triangles run the same way round and outward.

    Attributes:
        mesh: the result; the same object as the input if nothing was wrong.
        turned: triangles that were turned round.
        doubled: triangles that were there twice, the two opposite ways; one of each was kept.
        walls: triangles of walls hidden inside the shape, which were left out.
        sheets: triangles of sheets that both sides are seen of and that enclose nothing, which were left out.
        doubtful: (F,) triangles of the result whose side was a close call; None if there are none.
    """

    mesh: Mesh
    turned: int = 0
    doubled: int = 0
    walls: int = 0
    sheets: int = 0
    doubtful: np.ndarray | None = None


def orient(mesh: Mesh, seed: int = 0) -> Oriented:
    """Find the outside of a mesh with merged vertices and no degenerate triangles.

    Cavities stay: a closed body that is inside out as a whole and lies within another is taken as a hollow in it.

    Args:
        mesh: any triangle mesh; see ``clean``.
        seed: of the rays.
    """
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    table = edge_table(faces)
    odd = (table.count == 2) & (table.balance != 0)
    first, group, opposite = same_vertices(faces)
    if not odd.any() and not opposite.any():
        return _orient_bodies(mesh, vertices, faces, table)
    twins = np.zeros(len(first), bool)
    twins[group[opposite]] = True
    kept = faces[first]
    turned_faces, patch = _agree(kept, twins)
    patches = int(patch.max()) + 1
    area = np.linalg.norm(face_cross(vertices, turned_faces), axis=1) / 2
    sizes = np.bincount(patch, area, patches)
    closed, even = _closed_patches(turned_faces, patch, patches)
    volume = np.bincount(patch, _volumes(vertices, turned_faces), patches)
    # A patch that came inside out but for a few triangles may be a cavity; mixed or doubled ones do not say so.
    told = np.bincount(patch, _same_way(turned_faces, kept) & ~twins, patches)
    whole = told >= WHOLE * np.bincount(patch, minlength=patches)
    flip = np.where(closed, volume < 0, False)
    front, back = _votes(vertices, turned_faces, patch, ~closed, seed)
    seen = front + back
    lead = np.maximum(front, back) / np.maximum(seen, 1e-12)
    flip |= ~closed & (back > front)
    turned_faces[flip[patch]] = turned_faces[flip[patch]][:, ::-1]
    if (closed & whole & flip).any():
        inner = closed & whole & _enclosed(vertices, turned_faces, patch, patches, closed & whole)
        # In a file that is inside out as a whole, as its outermost patches say, cavities enclose positive volume.
        sense = np.where(flip, -sizes, sizes)[whole & ~inner].sum()
        inner &= flip if sense >= 0 else ~flip
        turned_faces[inner[patch]] = turned_faces[inner[patch]][:, ::-1]
    twin_patch = np.bincount(patch, twins, patches) > 0
    wall = ~closed & (seen < 2 * UNSEEN) & (twin_patch | _hangs(turned_faces, patch, patches))
    sheet = ~closed & ~wall & ((lead < DECIDED) | ~even)
    close_call = ~closed & ~wall & ~sheet & (lead < SURE)
    keep = ~(wall | sheet)[patch]
    turned = int((~_same_way(turned_faces, kept) & keep & ~twins).sum())
    result = replace(mesh, faces=torch.from_numpy(np.ascontiguousarray(turned_faces[keep])), vertex_normals=None)
    return Oriented(
        drop_unreferenced(result),
        turned,
        int(opposite.sum()),
        int(wall[patch].sum()),
        int(sheet[patch].sum()),
        close_call[patch[keep]] if close_call.any() else None,
    )


def _orient_bodies(mesh: Mesh, vertices: np.ndarray, faces: np.ndarray, table: EdgeTable) -> Oriented:
    """Neighbours agree: turn the bodies that are inside out, except cavities.

    An open body keeps the side that the file gives it unless its volume and most rays say otherwise.
    """
    count, body = touching_bodies(faces, table)
    volume = np.bincount(body, _volumes(vertices, faces, body, count), count)
    if (volume >= 0).all():
        return Oriented(mesh)
    all_out = faces[:, ::-1].copy() if volume.sum() < 0 else faces.copy()
    negative = volume * (-1.0 if volume.sum() < 0 else 1.0) < 0
    if negative.any():
        closed, _ = _closed_patches(faces, body, count)
        outward = all_out.copy()
        outward[negative[body]] = outward[negative[body]][:, ::-1]
        turn = negative & closed
        if count > 1:
            turn &= ~_enclosed(vertices, outward, body, count, turn)
        front, back = _votes(vertices, all_out, body, negative & ~closed, 0)
        turn |= back > SURE * np.maximum(front + back, 1e-12)
        all_out[turn[body]] = all_out[turn[body]][:, ::-1]
    turned = int((~_same_way(all_out, faces)).sum())
    if not turned:
        return Oriented(mesh)
    mesh = replace(mesh, faces=torch.from_numpy(np.ascontiguousarray(all_out)), vertex_normals=None)
    return Oriented(mesh, turned=turned)


def _agree(faces: np.ndarray, twins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles that run like their neighbours, as most of each patch does, and the (F,) patch of each."""
    turned, patch = (np.asarray(x) for x in import_igl().bfs_orient(np.ascontiguousarray(faces, np.int64)))
    turned, patch = turned.astype(np.int64), patch.reshape(-1).astype(np.int64)
    weight = np.where(twins, 1e-6, 1.0)  # of two opposite triangles none says anything
    agrees = np.bincount(patch, weight * _same_way(turned, faces)) / np.bincount(patch, weight)
    wrong = agrees[patch] < 0.5
    turned[wrong] = turned[wrong][:, ::-1]
    return turned, patch


def _same_way(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(F,) which rows of (F, 3) faces run the same way round."""
    same = np.zeros(len(a), bool)
    for shift in range(3):
        same |= (np.roll(a, shift, axis=1) == b).all(1)
    return same


def _volumes(vertices: np.ndarray, faces: np.ndarray, body: np.ndarray | None = None, count: int = 0) -> np.ndarray:
    """(F,) share of each face in the volume, about the centre of the box, or of its own body's faces."""
    corners = vertices[faces]
    if body is None:
        corners = corners - (vertices.max(0) + vertices.min(0)) / 2
    else:
        middle = corners.mean(1)
        number = np.bincount(body, minlength=count)
        center = np.stack([np.bincount(body, middle[:, i], count) for i in range(3)], 1) / number[:, None]
        corners = corners - center[body][:, None]
    return np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6


def _closed_patches(faces: np.ndarray, patch: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,) patches without boundary, and (P,) those whose triangles all agree, each looked at by itself."""
    span = int(faces.max()) + 1
    _, own = np.unique(patch[:, None] * span + faces, return_inverse=True)
    table = edge_table(own.reshape(-1, 3))
    balanced = (table.balance == 0)[table.of_face].all(1)
    odd = ((table.count == 2) & (table.balance != 0))[table.of_face].any(1)
    return np.bincount(patch, ~balanced, count) == 0, np.bincount(patch, odd, count) == 0


def _hangs(faces: np.ndarray, patch: np.ndarray, count: int) -> np.ndarray:
    """(P,) patches that end only at other patches: every edge is shared with some other triangle."""
    table = edge_table(faces)
    free = (table.count == 1)[table.of_face].any(1)
    return np.bincount(patch, free, count) == 0


def _votes(
    vertices: np.ndarray, faces: np.ndarray, patch: np.ndarray, asked: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) shares of rays that escape from the front and the back of the patches that are asked about."""
    count = len(asked)
    if not asked.any():
        return np.zeros(count), np.zeros(count)
    rng = np.random.default_rng(seed)
    area = np.bincount(patch, np.linalg.norm(face_cross(vertices, faces), axis=1) * asked[patch], count)
    share = area / max(float(area.sum()), 1e-300)
    number = np.where(asked, np.maximum(FEWEST, np.ceil(RAYS * share)), 0).astype(np.int64)
    points, normals, owner = points_by_patch(vertices, faces, patch, number, rng)
    sky = Sky(vertices, faces)
    front, back = (
        np.bincount(owner, sky.seen(points, side * normals, rng), count) / np.maximum(number, 1) for side in (1, -1)
    )
    return front, back


def points_by_patch(
    vertices: np.ndarray, faces: np.ndarray, patch: np.ndarray, number: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points drawn by area from each patch.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        patch: (F,) of each face.
        number: (P,) points of each patch.
        rng: what draws.

    Returns:
        (M, 3) points, (M, 3) unit normals of their faces, (M,) their patches.
    """
    area = np.linalg.norm(face_cross(vertices, faces), axis=1)
    order = np.argsort(patch, kind="stable")
    running = np.concatenate([[0.0], np.cumsum(area[order])])
    ends = np.cumsum(np.bincount(patch, minlength=len(number)))
    low, high = running[np.concatenate([[0], ends[:-1]])], running[ends]
    owner = np.repeat(np.arange(len(number)), number)
    drawn = low[owner] + rng.random(len(owner)) * (high - low)[owner]
    chosen = order[np.clip(np.searchsorted(running, drawn, side="right") - 1, 0, len(faces) - 1)]
    u, v = np.sqrt(rng.random((len(owner), 1))), rng.random((len(owner), 1))
    corner = vertices[faces[chosen]]
    points = (1 - u) * corner[:, 0] + u * (1 - v) * corner[:, 1] + u * v * corner[:, 2]
    return points, unit_face_normals(vertices, faces)[chosen], owner


def _enclosed(vertices: np.ndarray, outward: np.ndarray, body: np.ndarray, count: int, asked: np.ndarray) -> np.ndarray:
    """(B,) bodies that lie wholly within others, when all of ``outward`` faces outward."""
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(asked[body])
    rows = rows[rng.permutation(len(rows))]
    order = rows[np.argsort(body[rows], kind="stable")]
    starts = np.searchsorted(body[order], body[order])
    order = order[np.arange(len(order)) - starts < 32]  # at most 32 faces a body
    corner = vertices[outward[order]]
    size = np.sqrt(np.linalg.norm(face_cross(vertices, outward[order]), axis=1))
    points = corner.mean(1) + 1e-3 * size[:, None] * unit_face_normals(vertices, outward[order])
    if is_sealed(outward):
        around = RayWinding(vertices, outward).winding(points).astype(np.float64)
    else:
        around = np.asarray(import_igl().fast_winding_number(vertices, np.ascontiguousarray(outward), points)).reshape(
            -1
        )
    outside = np.bincount(body[order], around < 0.5, count)
    return asked & (outside == 0)


def is_sealed(faces: np.ndarray) -> bool:
    """Whether every edge is run along equally often in both directions, so that winding numbers are whole."""
    return bool((edge_table(faces).balance == 0).all())
