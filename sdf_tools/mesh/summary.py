"""A summary of a shape that a person can read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdf_tools.geometry import Mesh, Shape, for_numpy, positions
from sdf_tools.topology import (
    boundary_loops,
    degenerate_faces,
    duplicate_faces,
    edge_table,
    face_components,
    face_cross,
    first_occurrences,
    is_watertight,
    opposite_duplicates,
    signed_volume,
)


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
        volume: signed enclosed volume, cubed units; only meaningful if closed. Negative: the mesh is inside out.
        holes: loops of boundary edges.
        boundary_edges: edges with one triangle.
        non_manifold_edges: edges with more than two triangles.
        turned_edges: edges of two triangles that run along it the same way, so one of the two is the wrong way round.
        duplicate_faces: triangles with the same three vertices as an earlier one.
        opposite_duplicates: those of them that face the other way: a double-sided mesh has one for every other face.
        degenerate_faces: triangles without area.
        duplicate_vertices: vertices at the position of an earlier one.
        unreferenced_vertices: vertices in no triangle.
        euler: vertices - edges + faces over the referenced vertices.
        closed: watertight, or touching itself along edges that are run along equally often in both directions.
        has_normals: vertex or point normals are stored.
        scans: range scans of a point cloud; 0 when it does not know them.
        has_colors: vertex or point colours are stored.
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
    turned_edges: int = 0
    duplicate_faces: int = 0
    opposite_duplicates: int = 0
    degenerate_faces: int = 0
    duplicate_vertices: int = 0
    unreferenced_vertices: int = 0
    euler: int = 0
    closed: bool = False
    has_normals: bool = False
    scans: int = 0
    has_colors: bool = False
    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __str__(self) -> str:
        size = [h - low for low, h in zip(self.low, self.high, strict=True)]
        bounds = f"{_triple(self.low, max(size))} to {_triple(self.high, max(size))}"
        rows = [("bounds", bounds), ("size", _triple(size))]
        if self.kind == "point cloud":
            rows = [("points", f"{self.vertices:,}"), ("normals", "yes" if self.has_normals else "no"), *rows]
            if self.has_colors:
                rows.insert(2, ("colours", "yes"))
            if self.scans:
                rows.insert(2, ("scans", str(self.scans)))
            if self.duplicate_vertices:
                rows.insert(1, ("duplicate points", f"{self.duplicate_vertices:,}"))
        else:
            volume = f"{self.volume:.6g}" + ("" if self.closed else " (open: not meaningful)")
            touching = "no (closed, but with edges of more than two triangles)" if self.closed else "no"
            rows = [
                ("vertices", f"{self.vertices:,}"),
                ("faces", f"{self.faces:,}"),
                ("watertight", "yes" if self.watertight else touching),
                ("bodies", f"{self.bodies:,}"),
                ("area", f"{self.area:.6g}"),
                ("volume", volume),
                ("holes", f"{self.holes:,} ({self.boundary_edges:,} boundary edges)"),
                ("non-manifold edges", f"{self.non_manifold_edges:,}"),
                ("edges run twice the same way", f"{self.turned_edges:,}"),
                ("duplicate faces", f"{self.duplicate_faces:,}"),
                ("opposite duplicates", f"{self.opposite_duplicates:,}"),
                ("degenerate faces", f"{self.degenerate_faces:,}"),
                ("duplicate vertices", f"{self.duplicate_vertices:,}"),
                ("unreferenced", f"{self.unreferenced_vertices:,} vertices"),
                ("Euler number", str(self.euler)),
                *rows,
            ]
        width = max(len(key) for key, _ in rows)
        return "\n".join([f"{self.name} ({self.kind})", *(f"  {key:<{width}}  {value}" for key, value in rows)])


def _triple(values: tuple[float, ...] | list[float], size: float | None = None) -> str:
    """Three numbers with six digits, or so many that differences of a millionth of ``size`` show (UTM needs eleven)."""
    largest = max((abs(v) for v in values), default=0.0)
    digits = 6
    if size and size > 0 and largest > 0:
        digits = min(17, max(6, 6 + math.ceil(math.log10(largest / size))))
    return "(" + ", ".join(f"{v:.{digits}g}" for v in values) + ")"


def summarize(shape: Shape) -> Summary:
    """Count what there is to know about a shape before trusting it.

    Raises:
        ShapeError: faces of vertices that are not there.
    """
    shape = for_numpy(shape)
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
            has_colors=shape.colors is not None,
            duplicate_vertices=len(points) - len(first_occurrences(points + 0.0)[0]),
            low=low,
            high=high,
        )
    faces = shape.faces.numpy()
    distinct, _ = first_occurrences(points + 0.0)
    common: dict[str, Any] = {
        "duplicate_vertices": len(points) - len(distinct),
        "has_normals": shape.vertex_normals is not None,
        "has_colors": shape.vertex_colors is not None,
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
        turned_edges=int(((table.count == 2) & (table.balance != 0)).sum()),
        duplicate_faces=int(duplicate_faces(faces).sum()),
        opposite_duplicates=opposite_duplicates(faces),
        degenerate_faces=int(degenerate.sum()),
        unreferenced_vertices=len(points) - used,
        euler=used - len(table.edges) + len(faces),
        closed=bool((table.balance == 0).all()),
        **common,
    )
