"""From a mesh as it came to one whose inside is what a person sees; every change is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sdf_tools.errors import ShapeError, nothing_inside
from sdf_tools.geometry import Mesh, normalize
from sdf_tools.mesh.orientation import Oriented, is_sealed, orient
from sdf_tools.spatial._libraries import import_igl
from sdf_tools.spatial.ray_winding import RayWinding
from sdf_tools.topology import (
    close_cracks,
    degenerate_faces,
    drop_unreferenced,
    edge_table,
    face_cross,
    is_watertight,
    merge_vertices,
    signed_volume,
    unit_face_normals,
)

ORIENTATIONS = ("check", "guess", "trust")
NOTHING = 0.56  # mean winding number just below the surface: 1 of a closed body, 0.5 of a flat sheet
HARDLY = 0.64
_SAMPLES = 2_000


def prepare_mesh(mesh: Mesh, orientation: str = "check") -> tuple[Mesh, list[str]]:
    """Find the inside of a mesh and mend what is certain.

    Triangles that are there twice, the two opposite ways (as in ShapeNet), are kept once; triangles that run against
    their neighbours are turned; bodies that are inside out are turned, cavities excepted; walls hidden inside and
    sheets that enclose nothing are left out; cracks that vanish when vertices which differ in their last digits are
    joined are closed. A mesh that has none of these comes back as it is.

    Args:
        mesh: any triangle mesh, with at least one triangle that has an area.
        orientation: ``check`` mends what is certain and refuses what would be a guess; ``guess`` takes the better
            guess; ``trust`` takes the triangles as they run and changes nothing.

    Returns:
        The mesh (the same object if nothing was changed) and one sentence per change or doubt.

    Raises:
        ValueError: no such ``orientation``.
        ShapeError: the mesh encloses nothing, or (``check``) its inside would be a guess.
    """
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation must be one of {', '.join(ORIENTATIONS)}, not '{orientation}'.")
    if orientation == "trust":
        return mesh, []
    notes: list[str] = []
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
    found = orient(work)
    changed = found.mesh is not work
    notes += say(found)
    if found.mesh.faces.shape[0] == 0:
        raise ShapeError(nothing_inside(mesh.name))
    sealed = is_sealed(found.mesh.faces.numpy())
    # What is sealed but was left as it is may still be a body and its own reverse, which enclose nothing.
    reach = 1.0 if sealed and not changed else enclosure(found.mesh)
    if reach < NOTHING:
        raise ShapeError(nothing_inside(mesh.name))
    if orientation == "check" and (found.doubtful > 0.1 or reach < HARDLY):
        why = (
            f"both sides of {found.doubtful:.0%} of its area are seen almost alike"
            if found.doubtful > 0.1
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
    frame = normalize(mesh)
    box = frame.shape
    assert isinstance(box, Mesh)
    vertices, faces = box.vertices.numpy(), box.faces.numpy()
    area = np.linalg.norm(face_cross(vertices, faces), axis=1)
    rng = np.random.default_rng(0)
    chosen = np.searchsorted(np.cumsum(area) / area.sum(), rng.random(samples)).clip(max=len(faces) - 1)
    u, v = np.sqrt(rng.random((samples, 1))), rng.random((samples, 1))
    corner = vertices[faces[chosen]]
    points = (1 - u) * corner[:, 0] + u * (1 - v) * corner[:, 1] + u * v * corner[:, 2]
    points = np.ascontiguousarray(points - 1e-3 * unit_face_normals(vertices, faces)[chosen])
    solid = np.ascontiguousarray(faces[~degenerate_faces(vertices, faces)])
    if is_sealed(solid):
        return float(np.minimum(np.abs(RayWinding(vertices, solid).winding(points)), 1).mean())
    around = np.asarray(import_igl().fast_winding_number(np.ascontiguousarray(vertices), solid, points)).reshape(-1)
    return float(np.clip(around, 0, 1).mean())


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
    flat = degenerate_faces(vertices, faces)
    if flat.any() and not flat.all():
        closed = drop_unreferenced(replace(closed, faces=closed.faces[torch.from_numpy(~flat)]))
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
            notes.append(words.format(f"{number:,}"))
    return notes
