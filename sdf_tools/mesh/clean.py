"""Drop what is no surface: repeated vertices, degenerate and duplicate triangles."""

from __future__ import annotations

from dataclasses import replace

import torch

from sdf_tools.geometry import Mesh, require_finite
from sdf_tools.topology import degenerate_faces, drop_unreferenced, duplicate_faces, merge_vertices


def clean(mesh: Mesh) -> Mesh:
    """Merge vertices at the same position, drop degenerate and duplicate triangles and unreferenced vertices.

    Raises:
        ShapeError: triangles with coordinates that are not finite, or faces of vertices that are not there.
    """
    mesh = drop_unreferenced(merge_vertices(mesh))
    require_finite(mesh)
    faces = mesh.faces.numpy()
    keep = ~degenerate_faces(mesh.vertices.numpy(), faces)
    keep[keep] = ~duplicate_faces(faces[keep])
    if not keep.all():
        mesh = replace(mesh, faces=mesh.faces[torch.from_numpy(keep)])
    return drop_unreferenced(mesh)
