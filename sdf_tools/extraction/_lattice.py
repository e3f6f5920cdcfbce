"""The coarse lattice, and segments of the full one that the surface crosses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction import _search_kernels as kernels
from sdf_tools.extraction._fields import Grid, SampledField


@dataclass
class CoarseLattice:
    """Values on every ``step``-th node (and the last one) of each axis; NaN where not evaluated."""

    grid: Grid
    step: int
    values: np.ndarray

    def fine_index(self, index: np.ndarray) -> np.ndarray:
        return np.minimum(index * self.step, self.grid.cells)


def sample_coarse(field: SampledField, grid: Grid, resolution: int) -> CoarseLattice:
    """Evaluate every ``step``-th node, ``step`` the largest power of two that leaves about ``resolution`` cells."""
    step = 1
    while int(grid.cells.max()) / (2 * step) >= 0.75 * resolution:
        step *= 2
    axes = [np.unique(np.append(np.arange(0, n, step), n)) for n in grid.cells]
    values = np.empty([len(axis) for axis in axes], dtype=np.float32)
    for i, x in enumerate(axes[0]):  # slab by slab: a dense list of positions would be six times the lattice
        index = np.stack(np.meshgrid([x], axes[1], axes[2], indexing="ij"), axis=-1).reshape(-1, 3)
        values[i] = field.at(grid, index).reshape(values.shape[1:])
    return CoarseLattice(grid, step, values)


@dataclass
class Segments:
    """Axis-aligned lattice segments whose ends lie on different sides of the level.

    Attributes:
        start: (N, 3) int64 index of the lower end.
        axis: (N,) int64.
        length: (N,) int64 in nodes.
        start_inside: (N,) whether the lower end is inside.
    """

    start: np.ndarray
    axis: np.ndarray
    length: np.ndarray
    start_inside: np.ndarray


def crossing_segments(lattice: CoarseLattice, level: float) -> Segments:
    """Every edge of the coarse lattice that the surface crosses."""
    nothing = no_segments()
    count = kernels.list_crossings(lattice.values, level, nothing.start, nothing.axis, nothing.start_inside)
    index, axis, inside = np.empty((count, 3), np.int64), np.empty(count, np.int64), np.empty(count, bool)
    kernels.list_crossings(lattice.values, level, index, axis, inside)
    start = lattice.fine_index(index)
    rows = np.arange(count)
    end = np.minimum((index[rows, axis] + 1) * lattice.step, lattice.grid.cells[axis])
    return join([(start, axis, end - start[rows, axis], inside)])


def no_segments() -> Segments:
    return Segments(np.empty((0, 3), np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))


def join(parts: list[tuple[np.ndarray, ...]]) -> Segments:
    """One list of segments from (start, axis, length, start_inside) of several; empty ones left out."""
    if not parts:
        return no_segments()
    start, axis, length, inside = (np.concatenate([part[i] for part in parts]) for i in range(4))
    real = length > 0
    return Segments(start[real], axis[real], length[real], inside[real])


def bisect(
    field: SampledField, grid: Grid, segments: Segments, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Halve segments down to one lattice edge each.

    Returns:
        index: (N, 3) lower nodes of the edges.
        evaluated: (M, 3) nodes evaluated on the way.
        values: (M,) their values.
    """
    start, length = segments.start.copy(), segments.length.copy()
    nodes, values = [np.empty((0, 3), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    while (open_ := np.flatnonzero(length > 1)).size:
        half = length[open_] // 2
        middle = start[open_].copy()
        middle[np.arange(len(open_)), segments.axis[open_]] += half
        value = field.at(grid, middle)
        upper = (value < level) == segments.start_inside[open_]
        start[open_[upper]] = middle[upper]
        length[open_] = np.where(upper, length[open_] - half, half)
        nodes.append(middle)
        values.append(value)
    return start, np.concatenate(nodes), np.concatenate(values)
