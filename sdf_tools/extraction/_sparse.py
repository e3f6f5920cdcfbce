"""The sparse lattice: follows the surface from cell to cell, evaluating the field at those cells' corners only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction import _kernels as kernels
from sdf_tools.extraction._fields import Grid, SampledField
from sdf_tools.extraction._lattice import CoarseLattice
from sdf_tools.extraction._tables import EDGE_CORNERS, triangle_table
from sdf_tools.threads import in_threads

_BATCH = 1 << 17  # cells visited and nodes evaluated at once: bounds the temporary lists
_ROWS = 8_192  # bricks by which the storage grows


@dataclass
class CrossingEdges:
    """The lattice edges that the surface crosses: one mesh vertex each.

    Attributes:
        index: (V, 3) int64 lower node.
        axes: (V,) int64.
        ends: (V, 2) float32 values at the lower and upper node.
    """

    index: np.ndarray
    axes: np.ndarray
    ends: np.ndarray


class SparseLattice:
    """Values of the field near one level set, in bricks of 8^3 nodes."""

    def __init__(self, field: SampledField, grid: Grid, coarse: CoarseLattice) -> None:
        self.field, self.grid, self.coarse = field, grid, coarse
        self.nodes = grid.nodes.astype(np.int64)
        self.brick_map = np.zeros((self.nodes + 7) // 8, dtype=np.int32)
        self.count = 1
        self.bricks = np.zeros((_ROWS, 3), dtype=np.int32)
        self.values = np.empty((_ROWS, 512), dtype=np.float32)
        self.flags = np.empty((_ROWS, 512), dtype=np.uint8)
        self.values[0], self.flags[0] = np.nan, 0
        self._mark(0)

    def _mark(self, count: int) -> None:
        self.ranks = np.empty((count, 64), dtype=np.int64)
        self.counts = np.zeros(count, dtype=np.int64)

    def _visit(self, kernel: Callable[..., int], length: int, *arguments: object) -> np.ndarray:
        """Run ``kernel`` over its list of ``length``, evaluating what it lists on the way: the cells visited."""
        visited, done = [], 0
        while done < length:
            if self.count + 48 > len(self.values):
                rows = len(self.values) + max(_ROWS, len(self.values) // 8)
                # In place where the system can: large blocks are remapped, not copied.
                self.bricks.resize((rows, 3), refcheck=False)
                self.values.resize((rows, 512), refcheck=False)
                self.flags.resize((rows, 512), refcheck=False)
            fresh = np.empty(_BATCH, dtype=np.int64)
            missing = np.empty(2 * _BATCH, dtype=np.int64)
            state = np.array([self.count, 0, 0])
            done = kernel(
                done, *arguments, state, self.values, self.flags, self.bricks, self.brick_map, self.nodes,
                self.coarse.values, self.coarse.step, fresh, missing,
            )  # fmt: skip
            self.count = int(state[0])
            ids = missing[: state[2]]
            index = np.empty((len(ids), 3), dtype=np.int64)
            kernels.coordinates(ids, self.bricks, index)
            kernels.store(ids, self.field.at(self.grid, index), self.values)
            visited.append(fresh[: state[1]].copy())
        return np.concatenate(visited) if visited else np.empty(0, dtype=np.int64)

    def know(self, edges: np.ndarray, index: np.ndarray, values: np.ndarray) -> None:
        """Keep values at nodes (N, 3) that share a brick with one of the lattice ``edges`` (M, 3)."""
        self._visit(kernels.make_room, len(edges), edges)
        kernels.keep_known(index, values, self.values, self.brick_map)

    def seed(self, index: np.ndarray, axes: np.ndarray, level: float) -> None:
        """Follow the surface from crossed lattice edges (N, 3), (N,) through crossed faces until it closes."""
        frontier = self._visit(kernels.visit_around, len(index), index, axes.astype(np.int64))
        while len(frontier):
            frontier = self._visit(kernels.follow, len(frontier), frontier, level)

    def close(self, level: float) -> int:
        """Mark every crossed edge; first follow the surface from those that nobody has followed. How many there are."""
        while True:
            loose = self._mark_edges(level)
            rows = np.flatnonzero(loose)
            if len(rows) == 0:
                return int(self.counts.sum())
            for row in rows:
                edges = self.edges(int(row), int(row) + 1)
                self.seed(edges.index, edges.axes, level)

    def _mark_edges(self, level: float) -> np.ndarray:
        """Flag the crossed edges; (B,) how many of each brick have a cell around them that was not visited."""
        self._mark(self.count)
        loose = np.zeros(self.count, dtype=np.int64)
        lattice = (self.values, self.flags, self.bricks, self.brick_map, self.nodes, self.ranks, self.counts, loose)
        in_threads(lambda rows: kernels.mark_edges(rows.start, rows.stop, level, *lattice), self.count)
        return loose

    def edges(self, first: int = 0, last: int | None = None) -> CrossingEdges:
        """The crossed edges of bricks ``first`` to ``last`` (all), in the order of their vertices."""
        last = len(self.counts) if last is None else last
        total = int(self.counts[first:last].sum())
        edges = CrossingEdges(
            np.empty((total, 3), np.int64), np.empty(total, np.int64), np.empty((total, 2), np.float32)
        )
        kernels.list_edges(
            first, last, self.values, self.flags, self.bricks, self.brick_map, edges.index, edges.axes, edges.ends
        )
        return edges

    def edge_parts(self, most: int = 1 << 19) -> Iterator[CrossingEdges]:
        """The same in parts of at most about ``most``."""
        ends = np.cumsum(self.counts)
        first = 0
        while first < len(ends):
            last = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + most, side="right"))
            last = max(last, first + 1)
            yield self.edges(first, last)
            first = last

    def triangles(self) -> np.ndarray:
        """(F, 3) int64 triangles over the crossed edges, counter-clockwise seen from above the level."""
        triangles, table = triangle_table()
        lattice = (self.flags, self.bricks, self.brick_map)
        counts = np.zeros(len(self.counts), dtype=np.int64)
        in_threads(
            lambda rows: kernels.count_triangles(rows.start, rows.stop, *lattice, triangles, counts), len(counts)
        )
        faces = np.empty((int(counts.sum()), 3), dtype=np.int64)
        corners = np.array([corner for corner, _ in EDGE_CORNERS], dtype=np.int64)
        offsets, starts = np.cumsum(self.counts) - self.counts, np.cumsum(counts) - counts
        in_threads(
            lambda rows: kernels.triangulate(
                rows.start, rows.stop, *lattice, self.ranks, offsets, starts, triangles, table, corners, faces
            ),
            len(counts),
        )
        return faces

    def forget_values(self) -> None:
        """Give the values' memory back; what is left are the signs, enough for the triangles."""
        self.values = np.empty((0, 512), dtype=np.float32)
        self.coarse = CoarseLattice(self.grid, 1, np.empty((0, 0, 0), dtype=np.float32))

    def reset(self, coarse: CoarseLattice) -> None:
        """Forget which cells were followed, keep the values: ready for another level, searched in ``coarse``."""
        self.coarse = coarse
        self.flags[: self.count] = 0
