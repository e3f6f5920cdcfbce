"""Dual contouring: a vertex inside each piece of surface in a cell, where the field's tangent planes meet."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from sdf_tools.extraction._fields import Grid, SampledField
from sdf_tools.extraction._tables import EDGE_CORNERS, surface_loops
from sdf_tools.vectors import unit_vectors

if TYPE_CHECKING:
    from sdf_tools.extraction._sparse import CrossingEdges, SparseLattice

# Singular values below this share of the largest say nothing about where planes meet (Ju et al. 2002 use 0.1 as well).
_RANK_TOLERANCE = 0.1
_CHUNK = 1 << 19


@lru_cache(maxsize=1)
def _piece_table() -> np.ndarray:
    """(256, 12) int8: which of a cell's pieces of surface crosses each edge; -1 where none does."""
    table = np.full((256, 12), -1, dtype=np.int8)
    for configuration in range(256):
        for piece, loop in enumerate(surface_loops(configuration)):
            table[configuration, loop] = piece
    return table


def dual_contour(
    field: SampledField, lattice: SparseLattice, edges: CrossingEdges, crossings: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dual contouring (Ju, Losasso, Schaefer and Warren, SIGGRAPH 2002) over a sparse lattice.

    A cell that several pieces of surface pass gets a vertex for each (Nielson 2004, "Dual marching cubes"), so thin
    gaps do not weld together. Each vertex minimises the squared distances to the tangent planes at the crossed edges
    of its piece, kept inside its cell: it comes to lie on sharp edges and corners that marching cubes cuts off.

    Args:
        field: evaluates values and gradients.
        lattice: values around the surface.
        edges: its crossed edges.
        crossings: (E, 3) where the surface crosses them.
        level: of the surface.

    Returns:
        (V, 3) float64 vertices and (F, 3) int64 triangles, counter-clockwise seen from above the level.
    """
    grid = lattice.grid
    gradient = unit_vectors(field.gradient(crossings, grid.spacing * 1e-2))
    # Where the surface is capped at the box, its plane is the box's, not the field's.
    capped = field.capped(grid, edges.index, edges.axes)
    gradient[capped] = np.eye(3)[edges.axes[capped]]
    index, axes = edges.index, edges.axes
    keys = np.stack([_vertex_keys(lattice, grid, index, axes, level, turn) for turn in range(4)], 1)
    names, quads = np.unique(keys, return_inverse=True)
    quads = quads.reshape(-1, 4)
    kept = names >= 0  # the first name, -1, stands for cells outside the box
    vertices = _minimise(grid, names, quads, crossings, gradient)
    whole = (keys >= 0).all(1)
    outside = int((~kept).sum())
    faces = _triangles(field, vertices[kept], quads[whole] - outside, edges.ends[whole, 0] < level, level)
    return vertices[kept], faces


def _vertex_keys(
    lattice: SparseLattice, grid: Grid, index: np.ndarray, axes: np.ndarray, level: float, turn: int
) -> np.ndarray:
    """(E,) names of the vertices that the ``turn``-th of the four cells around each edge gives it, -1 outside the box.

    The four follow each other counter-clockwise, seen from the edge's upper end.
    """
    # Offsets of the cells along the two axes after the edge's own, cyclically.
    first, second = ((-1, 0, 0, -1)[turn], (-1, -1, 0, 0)[turn])
    rows = np.arange(len(axes))
    cell = index.copy()
    cell[rows, (axes + 1) % 3] += first
    cell[rows, (axes + 2) % 3] += second
    names = np.full(len(axes), -1, dtype=np.int64)
    within = np.flatnonzero(((cell >= 0) & (cell < grid.cells)).all(1))
    # The corner of the cell that the edge starts from, and so the edge's number there.
    corner = np.zeros(len(axes), dtype=np.int64)
    corner |= (-first) << ((axes + 1) % 3)
    corner |= (-second) << ((axes + 2) % 3)
    numbers = np.full((3, 8), -1, dtype=np.int64)
    for number, (start, _) in enumerate(EDGE_CORNERS):
        numbers[number // 4, start] = number
    for start in range(0, len(within), _CHUNK):
        at = within[start : start + _CHUNK]
        configuration = np.zeros(len(at), dtype=np.int64)
        for c in range(8):
            node = cell[at] + [c & 1, c >> 1 & 1, c >> 2 & 1]
            brick = lattice.brick_map[tuple((node >> 3).T)]
            slot = ((node[:, 0] & 7) << 6) | ((node[:, 1] & 7) << 3) | (node[:, 2] & 7)
            configuration |= (lattice.values[brick, slot] < level).astype(np.int64) << c
        piece = _piece_table()[configuration, numbers[axes[at], corner[at]]]
        names[at] = grid.keys(cell[at]) * 4 + piece
    return names


def _minimise(
    grid: Grid, names: np.ndarray, quads: np.ndarray, crossings: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """(V, 3) the point of each vertex's cell that is closest to its tangent planes, in the least-squares sense."""
    count = len(names)
    share = np.bincount(quads.reshape(-1), minlength=count).astype(np.float64)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(quads.reshape(-1), np.repeat(values, 4), minlength=count)

    mean = np.stack([total(crossings[:, i]) for i in range(3)], 1) / share[:, None]
    # In units of a cell, about the mean crossing, which the directions that no plane decides keep.
    scaled = normals * grid.spacing
    matrix = np.empty((count, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            matrix[:, i, j] = matrix[:, j, i] = total(scaled[:, i] * scaled[:, j])
    height = (normals * crossings).sum(1)
    right = np.empty((count, 3))
    for i in range(3):
        right[:, i] = total(scaled[:, i] * height)
        for j in range(3):
            right[:, i] -= total(scaled[:, i] * normals[:, j]) * mean[:, j]
    values, vectors = np.linalg.eigh(matrix)
    useful = values > _RANK_TOLERANCE**2 * np.maximum(values[:, -1:], 1e-30)
    inverse = np.where(useful, 1 / np.where(useful, values, 1.0), 0.0)
    step = np.einsum("nij,nj->ni", vectors, inverse * np.einsum("nji,nj->ni", vectors, right))
    low = grid.positions(grid.split(np.maximum(names, 0) // 4))
    return np.clip(mean + step * grid.spacing, low, low + grid.spacing)


def _triangles(
    field: SampledField, vertices: np.ndarray, quads: np.ndarray, starts_inside: np.ndarray, level: float
) -> np.ndarray:
    """Cut each quad along the diagonal whose middle is nearer the surface: along a crease, not across it."""
    quads = np.where(starts_inside[:, None], quads, quads[:, ::-1])
    middle = [(vertices[quads[:, i]] + vertices[quads[:, i + 2]]) / 2 for i in range(2)]
    off = [np.abs(field(points).astype(np.float64) - level) for points in middle]
    turned = np.where((off[1] < off[0])[:, None], np.roll(quads, -1, axis=1), quads)
    faces = np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])
    return np.ascontiguousarray(faces[np.argsort(np.tile(np.arange(len(quads)), 2), kind="stable")])
