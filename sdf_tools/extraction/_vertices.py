"""Where the vertices of an extracted mesh stand, and which way they face."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdf_tools.extraction._fields import STAND_IN, Grid, SampledField
from sdf_tools.topology import vertex_normals
from sdf_tools.vectors import unit_vectors

if TYPE_CHECKING:
    from sdf_tools.extraction._sparse import CrossingEdges, SparseLattice

# Vertices keep this share of a cell's edge between themselves and the lattice nodes: a value that equals the level
# at a node would otherwise put several vertices on one point and leave triangles without area.
_CLEARANCE = 1e-3


def place_vertices(field: SampledField, grid: Grid, edges: CrossingEdges, level: float, steps: int) -> np.ndarray:
    """(V, 3) float64 positions on the crossed edges: linear interpolation, then regula falsi inside the bracket."""
    rows, axes = np.arange(len(edges.axes)), edges.axes
    below, above = np.zeros(len(rows)), np.ones(len(rows))
    value_below, value_above = (edges.ends.astype(np.float64) - level).T
    t = np.clip(value_below / (value_below - value_above), _CLEARANCE, 1 - _CLEARANCE)
    position = edges.index.astype(np.float64)
    wild = _wild_edges(field, grid, edges) if steps else np.zeros(len(rows), dtype=bool)
    for step in range(steps + 1):
        position[rows, axes] = edges.index[rows, axes] + t
        if step == steps:
            break
        value = field(grid.positions(position)).astype(np.float64) - level
        left = (value < 0) == (value_below < 0)
        below, value_below = np.where(left, t, below), np.where(left, value, value_below)
        above, value_above = np.where(left, above, t), np.where(left, value_above, value)
        share = value_below / np.where(value_below == value_above, 1.0, value_below - value_above)
        if wild.any():  # regula falsi never leaves the other end
            share = np.where(wild & (np.maximum(np.abs(value_below), np.abs(value_above)) >= STAND_IN), 0.5, share)
        t = np.clip(below + (above - below) * share, _CLEARANCE, 1 - _CLEARANCE)
    return grid.positions(position)


def _wild_edges(field: SampledField, grid: Grid, edges: CrossingEdges) -> np.ndarray:
    """(V,) whether the field, not the cap, leaps to a stand-in value along an edge: nothing to interpolate."""
    sizes = np.abs(edges.ends)
    leaps = (sizes.max(1) >= STAND_IN) & (sizes.min(1) < 1e-6 * sizes.max(1))
    return leaps & ~field.capped(grid, edges.index, edges.axes) if leaps.any() else leaps


def leaps_everywhere(lattice: SparseLattice) -> bool:
    """Whether the field leaps from one value to one other all over the surface, as an occupancy does."""
    known: set[float] = set()
    for edges in lattice.edge_parts():
        known |= set(np.unique(edges.ends[np.abs(edges.ends) < STAND_IN])[:3].tolist())
        if len(known) > 2:
            return False
    return True


def outward_normals(
    gradient: np.ndarray, vertices: np.ndarray, faces: np.ndarray, capped: Grid | None, method: str
) -> np.ndarray:
    """(V, 3) unit normals: the outward unit gradients, but for those of caps and those of length 0."""
    normals = gradient
    if capped is not None:
        caps = _cap_normals(capped, vertices)
        # A vertex of dual contouring can belong to a cap and to what it meets; the faces know.
        normals = np.where(caps.any(1)[:, None], caps if method == "marching_cubes" else 0.0, normals)
    flat = ~normals.any(1)
    if flat.any():
        normals[flat] = vertex_normals(vertices, faces[flat[faces].any(1)])[flat]
    return normals


def _cap_normals(grid: Grid, vertices: np.ndarray) -> np.ndarray:
    """(V, 3) outward normals of the caps, in the outermost cells; 0 for the other vertices."""
    at = (vertices - grid.low) / grid.spacing
    margin = 1 - _CLEARANCE / 2
    return unit_vectors((at > grid.cells - margin).astype(np.float64) - (at < margin))
