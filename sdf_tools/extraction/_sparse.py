"""The sparse lattice: follows the surface from cell to cell, evaluating the field at those cells' corners only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction import _kernels as kernels
from sdf_tools.extraction._fields import Grid, SampledField
from sdf_tools.extraction._lattice import CoarseLattice
from sdf_tools.extraction._tables import EDGE_CORNERS, triangle_table

_BATCH = 1 << 18  # cells handled at once: bounds the temporary lists


@dataclass
class CrossingEdges:
    """The lattice edges that the surface crosses: one mesh vertex each.

    Attributes:
        keys: (V,) int64 lower node.
        axes: (V,) int8.
        ends: (V, 2) float32 values at the lower and upper node.
        masks, prefix, offsets: how triangles find a vertex's number (see ``_kernels.crossing_edges``).
    """

    keys: np.ndarray
    axes: np.ndarray
    ends: np.ndarray
    masks: np.ndarray
    prefix: np.ndarray
    offsets: np.ndarray


class SparseLattice:
    """Values of the field near one level set, in bricks of 8^3 nodes."""

    def __init__(self, field: SampledField, grid: Grid, coarse: CoarseLattice) -> None:
        self.field, self.grid, self.coarse = field, grid, coarse
        self.nodes = grid.nodes.astype(np.int64)
        self.brick_map = np.full((self.nodes + 7) // 8, -1, dtype=np.int32)
        self.bricks = np.empty((0, 3), dtype=np.int32)
        self.values = np.empty((0, 512), dtype=np.float32)
        self.flags = np.empty((0, 512), dtype=np.uint8)
        self.count = 0

    def _allocate(self, cells: np.ndarray) -> None:
        """Make room for the corners of ``cells``."""
        # Cells come in runs that share a brick, so eight new bricks each would be far too much to reserve.
        for part in np.array_split(cells, -(-len(cells) // 4096)) if len(cells) else ():
            self._reserve(self.count + 8 * len(part))
            start, self.count = self.count, kernels.allocate(part, self.nodes, self.brick_map, self.bricks, self.count)
            if self.count > len(self.values):
                capacity = max(self.count, int(1.5 * len(self.values)) + 1024)
                values = np.full((capacity, 512), np.nan, dtype=np.float32)
                values[:start] = self.values[:start]
                flags = np.zeros((capacity, 512), dtype=np.uint8)
                flags[:start] = self.flags[:start]
                self.values, self.flags = values, flags
            kernels.prefill(
                start, self.count, self.nodes, self.bricks, self.values, self.coarse.values, self.coarse.step
            )

    def _reserve(self, count: int) -> None:
        if count > len(self.bricks):
            bricks = np.empty((int(1.5 * count), 3), dtype=np.int32)
            bricks[: self.count] = self.bricks[: self.count]
            self.bricks = bricks

    def store(self, index: np.ndarray, values: np.ndarray) -> None:
        """Keep values at (N, 3) nodes, as far as their bricks exist."""
        known = self.brick_map[tuple((index >> 3).T)] >= 0
        kernels.store(self.grid.keys(index[known]), values[known], self.nodes, self.brick_map, self.values)

    def _evaluate(self, cells: np.ndarray) -> None:
        missing = np.empty(8 * len(cells), dtype=np.int64)
        missing = missing[: kernels.missing_corners(cells, self.nodes, self.brick_map, self.values, missing)]
        values = self.field.at(self.grid, self.grid.split(missing))
        kernels.store(missing, values, self.nodes, self.brick_map, self.values)

    def around(self, keys: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Cells around lattice edges that nobody has visited yet; marks them visited."""
        fresh = []
        for start in range(0, len(keys), _BATCH):
            part = slice(start, start + _BATCH)
            cells = np.empty(4 * len(keys[part]), dtype=np.int64)
            cells = cells[: kernels.cells_around_edges(keys[part], axes[part].astype(np.int64), self.nodes, cells)]
            self._allocate(cells)
            fresh.append(cells[: kernels.keep_unvisited(cells, self.nodes, self.brick_map, self.flags)].copy())
        return np.concatenate(fresh) if fresh else np.empty(0, dtype=np.int64)

    def grow(self, frontier: np.ndarray, level: float) -> None:
        """Follow the surface from visited ``frontier`` cells, through crossed faces, until it closes."""
        while len(frontier):
            following = []
            for start in range(0, len(frontier), _BATCH):
                cells = frontier[start : start + _BATCH]
                self._evaluate(cells)
                behind = np.empty(6 * len(cells), dtype=np.int64)
                behind = behind[
                    : kernels.grow(cells, self.nodes, self.brick_map, self.values, self.flags, level, behind)
                ]
                self._allocate(behind)
                fresh = kernels.keep_unvisited(behind, self.nodes, self.brick_map, self.flags)
                following.append(behind[:fresh].copy())
            frontier = np.concatenate(following)

    def edges(self, level: float) -> CrossingEdges:
        """Every crossed edge. Grows further where one was met whose cells the growth had not reached."""
        while True:
            masks = np.empty((self.count, 512), dtype=np.uint8)
            prefix = np.empty((self.count, 512), dtype=np.int16)
            offsets = np.empty(self.count, dtype=np.int64)
            total = kernels.crossing_edges(
                self.count, self.nodes, self.brick_map, self.bricks, self.values, level, masks, prefix, offsets
            )
            keys, axes = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int8)
            ends = np.empty((total, 2), dtype=np.float32)
            kernels.list_edges(
                self.count, self.nodes, self.brick_map, self.bricks, self.values, masks, keys, axes, ends
            )
            fresh = self.around(keys, axes)
            if len(fresh) == 0:
                return CrossingEdges(keys, axes, ends, masks, prefix, offsets)
            self.grow(fresh, level)

    def triangles(self, edges: CrossingEdges, level: float) -> np.ndarray:
        """(F, 3) int64 triangles over the crossed edges, counter-clockwise seen from above the level."""
        counts, table = triangle_table()
        state = (self.count, self.nodes, self.brick_map, self.bricks, self.values, self.flags, level)
        faces = np.empty((kernels.count_triangles(*state, counts), 3), dtype=np.int64)
        corners = np.array([corner for corner, _ in EDGE_CORNERS], dtype=np.int64)
        kernels.triangulate(*state, edges.masks, edges.prefix, edges.offsets, counts, table, corners, faces)
        return faces

    def reset(self) -> None:
        """Forget which cells were followed, keep the values: ready for another level."""
        self.flags[: self.count] = 0
