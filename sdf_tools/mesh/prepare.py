"""From a mesh as it came to one whose inside is what a person sees; every change is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sdf_tools.errors import ShapeError, nothing_inside
from sdf_tools.geometry import Mesh, for_numpy, normalize
from sdf_tools.mesh.orientation import Oriented, is_sealed, orient, points_by_patch
from sdf_tools.spatial._libraries import import_igl
from sdf_tools.spatial.ray_winding import RayWinding
from sdf_tools.topology import (
    close_cracks,
    degenerate_faces,
    drop_unreferenced,
    edge_table,
    face_components,
    face_cross,
    is_watertight,
    merge_vertices,
    repeated_faces,
    signed_volume,
)

ORIENTATIONS = ("check", "guess", "trust")
NOTHING = 0.56  # mean winding number just below the surface: 1 of a closed body, 0.5 of a flat sheet
HARDLY = 0.64
_SAMPLES = 2_000
_CRUMB = 1e-4  # share of the area below which an open piece is not asked about


def prepare_mesh(mesh: Mesh, orientation: str = "check") -> tuple[Mesh, list[str]]:
    """Find the inside of a mesh and mend what is certain.

    Triangles that are there twice, the two opposite ways (as in ShapeNet), or the same way round where the mesh does
    not close with both, are kept once; triangles that run against their neighbours are turned; bodies that are inside
    out are turned, cavities excepted; walls hidden inside and sheets that enclose nothing are left out; cracks that
    vanish when vertices which differ in their last digits are joined are closed. A mesh that has none of these comes
    back as it is.

    Args:
        mesh: any triangle mesh, with at least one triangle that has an area.
        orientation: ``check`` mends what is certain and refuses what would be a guess; ``guess`` takes the better
            guess; ``trust`` takes the triangles as they run and changes nothing.

    Returns:
        The mesh (the same object if nothing was changed) and one sentence per change or doubt.

    Raises:
        ValueError: no such ``orientation``.
        ShapeError: the mesh encloses nothing, or (``check``) its inside would be a guess; faces of vertices that are
            not there.
    """
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation must be one of {', '.join(ORIENTATIONS)}, not '{orientation}'.")
    if orientation == "trust":
        return mesh, []
    notes: list[str] = []
    mesh = for_numpy(mesh)
    mesh = _referenced(mesh, notes)
    faces = mesh.faces.numpy()
    if not notes and _is_one_body(mesh.vertices.numpy(), faces):
        return mesh, notes
    if not (len(faces) and face_cross(mesh.vertices.numpy(), faces).any()):
        raise ShapeError(f"'{mesh.name}' has no triangle with an area; there is no surface to find an inside of.")
    if is_sealed(faces) and not degenerate_faces(mesh.vertices.numpy(), faces).any():
        work = mesh
    else:
        work = _tidy(mesh, notes)
    found = without_sheets(orient(work))
    changed = found.mesh is not work
    notes += say(found)
    if found.mesh.faces.shape[0] == 0:
        raise ShapeError(nothing_inside(mesh.name))
    sealed = is_sealed(found.mesh.faces.numpy())
    # What is sealed but was left as it is may still be a body and its own reverse, which enclose nothing.
    reach = 1.0 if sealed and not changed else enclosure(found.mesh)
    if reach < NOTHING:
        raise ShapeError(nothing_inside(mesh.name))
    doubtful = _share(found)
    if orientation == "check" and (doubtful > 0.1 or reach < HARDLY):
        why = (
            f"both sides of {doubtful:.0%} of its area are seen almost alike"
            if doubtful > 0.1
            else "it is open so widely that hardly anything is enclosed"
        )
        raise ShapeError(
            f"'{mesh.name}' has an inside that would be a guess: {why}; choose orientation guess to take the better "
            "guess, trust to take its triangles as they run, or close it first (sdf-tools repair)."
        )
    if not sealed and reach < 0.9:
        notes.append(
            f"the mesh is open (only {max(0.0, 2 * reach - 1):.0%} enclosed); across its holes the surface is where "
            "the winding number is one half"
        )
    if changed:
        return found.mesh, notes
    return (work if notes and work is not mesh else mesh), notes


def enclosure(mesh: Mesh, samples: int = _SAMPLES) -> float:
    """Mean winding number just below the surface, at most 1: 1 for closed bodies, about 0.5 for a flat sheet.

    Args:
        mesh: triangles that face outward.
        samples: points, uniform by area.
    """
    vertices, faces = _in_box(mesh)
    return float(_below(vertices, faces, np.zeros(len(faces), np.int64), np.array([samples]))[0].mean())


def without_sheets(found: Oriented) -> Oriented:
    """Leave out the open pieces that enclose nothing, such as the ground that a scan stands on, beside bodies that do.

    A piece encloses nothing if the winding number of the whole mesh just below it is that of a flat sheet; the panels
    of a body lie on what they enclose together, and stay. Sheets that lie before each other are left out in turn.

    Args:
        found: triangles that face outward.

    Returns:
        What is left, or the same object if nothing is left out or the rest would enclose nothing.
    """
    if not len(found.mesh.faces):
        return found
    kept = np.arange(len(found.mesh.faces))
    every = found.mesh.faces.numpy()
    while True:
        faces = every[kept]
        table = edge_table(faces)
        if (table.balance == 0).all():
            break
        count, piece = face_components(faces, table)
        if count == 1:
            break
        vertices, _ = _in_box(found.mesh)
        is_open = np.bincount(piece, (table.balance != 0)[table.of_face].any(1), count) > 0
        area = np.bincount(piece, np.linalg.norm(face_cross(vertices, faces), axis=1), count)
        large = is_open & (area > _CRUMB * area.sum())
        number = np.where(large, max(32, _SAMPLES // max(1, int(large.sum()))), 0)
        around, owner = _below(vertices, faces, piece, number)
        reach = np.bincount(owner, around, count) / np.maximum(number, 1)
        flat = large & (reach < NOTHING)
        if not flat.any() or flat.all():
            break
        kept = kept[~flat[piece]]
    if len(kept) == len(every):
        return found
    bodies = drop_unreferenced(replace(found.mesh, faces=found.mesh.faces[torch.from_numpy(kept)]))
    if enclosure(bodies) < HARDLY:
        return found
    doubtful = None if found.doubtful is None else found.doubtful[kept]
    return replace(found, mesh=bodies, sheets=found.sheets + len(every) - len(kept), doubtful=doubtful)


def _share(found: Oriented) -> float:
    """Of the area whose side was a close call, 0 to 1."""
    if found.doubtful is None:
        return 0.0
    area = np.linalg.norm(face_cross(found.mesh.vertices.numpy(), found.mesh.faces.numpy()), axis=1)
    return float(area[found.doubtful].sum() / max(float(area.sum()), 1e-300))


def _in_box(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    box = normalize(mesh).shape
    assert isinstance(box, Mesh)
    return np.ascontiguousarray(box.vertices.numpy()), box.faces.numpy()


def _below(
    vertices: np.ndarray, faces: np.ndarray, piece: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) winding numbers, 0 to 1, just below ``number`` random points of each piece, and the (M,) piece of each."""
    points, normals, owner = points_by_patch(vertices, faces, piece, number, np.random.default_rng(0))
    points = np.ascontiguousarray(points - 1e-3 * normals)
    solid = np.ascontiguousarray(faces[~degenerate_faces(vertices, faces)])
    if is_sealed(solid):
        return np.minimum(np.abs(RayWinding(vertices, solid).winding(points)), 1), owner
    around = np.asarray(import_igl().fast_winding_number(vertices, solid, points)).reshape(-1)
    return np.clip(around, 0, 1), owner


def _referenced(mesh: Mesh, notes: list[str]) -> Mesh:
    """Without the vertices in no triangle, if those reach beyond the surface: they would shrink it in its box."""
    used = np.zeros(len(mesh.vertices), bool)
    used[mesh.faces.numpy().reshape(-1)] = True
    if used.all():
        return mesh
    vertices = mesh.vertices.numpy()
    low, high = vertices[used].min(0), vertices[used].max(0)
    loose = vertices[~used]
    if ((loose >= low) & (loose <= high)).all():
        return mesh
    notes.append(f"left out {len(loose):,} vertices in no triangle")
    return drop_unreferenced(mesh)


def _is_one_body(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether the mesh is watertight, in one piece and outward: the quick way out for most."""
    table = edge_table(faces)
    if not is_watertight(faces, table) or signed_volume(vertices, faces) <= 0:
        return False
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(vertices)
    graph = coo_array((np.ones(len(table.edges), np.int8), table.edges.T), shape=(size, size))
    return int(connected_components(graph, directed=False)[0]) == 1


def _tidy(mesh: Mesh, notes: list[str]) -> Mesh:
    """Joined vertices, cracks closed, no triangles without area; what looks the same is not mentioned."""
    work = merge_vertices(mesh)
    closed, joined = close_cracks(work)
    if joined:
        notes.append(f"closed cracks by joining {joined:,} vertices that differ in their last digits")
    vertices, faces = closed.vertices.numpy(), closed.faces.numpy()
    drop = degenerate_faces(vertices, faces)
    twice = repeated_faces(faces) & ~drop
    if twice.any():
        notes.append(_counted("dropped {} triangles that were there twice, the same way round", int(twice.sum())))
        drop |= twice
    if drop.any() and not drop.all():
        closed = drop_unreferenced(replace(closed, faces=closed.faces[torch.from_numpy(~drop)]))
    return closed


def say(found: Oriented) -> list[str]:
    """One sentence for each thing that orientation changed."""
    notes = []
    for number, words in (
        (found.doubled, "{} triangles were there twice, the two opposite ways round: kept one of each"),
        (found.turned, "turned {} triangles so that the orientation is consistent and outward"),
        (found.walls, "left out {} triangles of walls hidden inside"),
        (found.sheets, "left out {} triangles of sheets that enclose nothing"),
    ):
        if number:
            notes.append(_counted(words, number))
    return notes


def _counted(words: str, triangles: int) -> str:
    if triangles == 1:
        words = words.replace("triangles were", "triangle was").replace("triangles that were", "triangle that was")
        words = words.replace("triangles", "triangle")
    return words.format(f"{triangles:,}")
