"""The marching cubes table, derived instead of typed in.

A cell's corner ``c`` sits at (c & 1, c >> 1 & 1, c >> 2 & 1); bit ``c`` of a configuration says that the corner is
inside (value below the level). Edge ``e`` runs along axis ``e // 4`` from ``EDGE_CORNERS[e][0]``.

On each face of the cube, runs of inside corners are cut off one by one. That depends on the four corners of the face
alone, so two cells that share a face always agree and the surface closes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

EDGE_CORNERS = tuple((c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1)

# Each face's corners, counter-clockwise as seen from outside the cube.
_FACES = ((0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1), (4, 5, 7, 6))

_EDGE_OF = {frozenset(corners): e for e, corners in enumerate(EDGE_CORNERS)}


def surface_loops(configuration: int) -> list[list[int]]:
    """The closed polygons of cube edges that separate inside from outside corners."""
    inside = [bool(configuration >> c & 1) for c in range(8)]
    following: dict[int, int] = {}
    for face in _FACES:
        edges = [_EDGE_OF[frozenset((face[i], face[(i + 1) % 4]))] for i in range(4)]
        for i in range(4):
            if inside[face[i]] or not inside[face[(i + 1) % 4]]:
                continue
            end = (i + 1) % 4
            while inside[face[(end + 1) % 4]]:
                end = (end + 1) % 4
            following[edges[i]] = edges[end]  # around the run, so that the polygon faces outside
    loops = []
    while following:
        first, edge = following.popitem()
        loop = [first]
        while edge != first:
            loop.append(edge)
            edge = following.pop(edge)
        loops.append(loop)
    return loops


def _shares_face(a: int, b: int) -> bool:
    corners = {*EDGE_CORNERS[a], *EDGE_CORNERS[b]}
    return any(corners <= set(face) for face in _FACES)


def _triangulations(polygon: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    if len(polygon) < 3:
        return [[]]
    first, last = polygon[0], polygon[-1]
    return [
        [*left, *right, (first, polygon[i], last)]
        for i in range(1, len(polygon) - 1)
        for left in _triangulations(polygon[: i + 1])
        for right in _triangulations(polygon[i:])
    ]


def _in_face_diagonals(polygon: list[int], triangles: list[tuple[int, int, int]]) -> int:
    """Diagonals in a face of the cube: the cell behind may draw the same one, and four triangles would meet there."""
    sides = {frozenset((polygon[i - 1], polygon[i])) for i in range(len(polygon))}
    diagonals = {frozenset(pair) for a, b, c in triangles for pair in ((a, b), (b, c), (c, a))} - sides
    return sum(_shares_face(*diagonal) for diagonal in diagonals)


@lru_cache(maxsize=1)
def triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Triangles of each configuration.

    Returns:
        counts: (256,) int8, how many triangles.
        table: (256, T, 3) int8, edges of each triangle, counter-clockwise seen from outside; -1 where there is none.
    """
    rows = []
    for configuration in range(256):
        row: list[tuple[int, int, int]] = []
        for loop in surface_loops(configuration):
            row += min(_triangulations(tuple(loop)), key=lambda t, p=loop: _in_face_diagonals(p, t))  # type: ignore[misc]
        rows.append(row)
    counts = np.array([len(row) for row in rows], dtype=np.int8)
    table = np.full((256, int(counts.max()), 3), -1, dtype=np.int8)
    for configuration, row in enumerate(rows):
        if row:
            table[configuration, : len(row)] = row
    return counts, table
