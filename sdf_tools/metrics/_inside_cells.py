"""Inside tests that ask the mesh only where its surface is near."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class InsideCells:
    """A box of cells around a mesh: cells that no triangle's bounding box meets lie wholly inside or outside.

    Every clear cell is asked at its centre, and where two neighbours disagree (the winding number of an open mesh
    changes its mind in a hole) both stay unclear.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        test: which of (N, 3) points are inside.
        cells: along the longest side.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        test: Callable[[np.ndarray], np.ndarray],
        cells: int = 48,
    ) -> None:
        self._test = test
        used = vertices[np.unique(faces)]
        self.low, high = used.min(0), used.max(0)
        self.size = max(float((high - self.low).max()), 1e-300) / cells
        self.shape = np.floor((high - self.low) / self.size).astype(int) + 1
        clear = ~self._touched(vertices, faces)
        self.status = np.full(self.shape, -1, dtype=np.int8)
        self._ask_all(clear)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Which of (N, 3) points are inside, boolean."""
        cell = np.floor((points - self.low) / self.size).astype(np.int64)
        within = ((cell >= 0) & (cell < self.shape)).all(1)
        inside = np.zeros(len(points), dtype=bool)
        status = self.status[tuple(cell[within].T)]
        inside[within] = status == 1
        unclear = np.flatnonzero(within)[status < 0]
        if len(unclear):
            inside[unclear] = self._test(np.ascontiguousarray(points[unclear]))
        return inside

    def _touched(self, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Cells that a triangle's bounding box meets, by the boxes' corners and a three-dimensional running sum."""
        counts = np.zeros(np.prod(self.shape + 1))
        corners = np.floor((vertices[faces] - self.low) / self.size).astype(np.int64)
        first, last = np.clip(corners.min(1), 0, self.shape - 1), np.clip(corners.max(1), 0, self.shape - 1) + 1
        for c in range(8):
            pick = np.where([c & 1, c >> 1 & 1, c >> 2 & 1], last, first)
            keys = np.ravel_multi_index(tuple(pick.T), tuple(self.shape + 1))
            counts += (-1) ** bin(c).count("1") * np.bincount(keys, minlength=len(counts))
        return counts.reshape(self.shape + 1).cumsum(0).cumsum(1).cumsum(2)[:-1, :-1, :-1] > 0.5

    def _centers(self, cells: np.ndarray) -> np.ndarray:
        return self.low + (cells + 0.5) * self.size

    def _ask_all(self, clear: np.ndarray) -> None:
        where = np.argwhere(clear)
        if len(where) == 0:
            return
        self.status[clear] = self._test(self._centers(where))
        for axis in range(3):
            status = np.moveaxis(self.status, axis, 0)
            differ = (status[:-1] >= 0) & (status[1:] >= 0) & (status[:-1] != status[1:])
            status[:-1][differ] = -1
            status[1:][differ] = -1
