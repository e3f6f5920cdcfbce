"""Polygons to triangles: fans where a polygon is convex, ear clipping where it is not."""

from __future__ import annotations

import warnings

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeWarning

_BLOCK = 1 << 18
_PATIENCE = 10.0  # seconds for all polygons of a file that need cutting
# Worst cases, polygons that cross themselves: seconds for a square and for a cube of the number of corners.
_EARCUT, _CLIP = 1.2e-8, 1e-7


def triangulate(vertices: np.ndarray, corners: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Triangles of planar (or nearly planar) polygons.

    Triangles and convex polygons become fans, in one go for all polygons of a size. A polygon with a corner that turns
    the other way is cut by ear clipping in its own plane (mapbox's earcut), so that no triangle lies across a notch.
    Where that could take more than ten seconds in all, the rest become fans too, with a warning.

    Args:
        vertices: (V, 3).
        corners: vertex numbers of all polygons, one polygon after the other; must lie in range.
        offsets: (P + 1,) where each polygon starts; fewer than three corners make none.

    Returns:
        (F, 3) int64, in the order of the polygons, with their orientation.
    """
    corners = np.asarray(corners, np.int64)
    sizes = np.diff(offsets)
    parts, order = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    patience, uncut = _PATIENCE, 0
    for size in np.unique(sizes[sizes >= 3]).tolist():
        rows = np.flatnonzero(sizes == size)
        for block in np.array_split(rows, max(1, len(rows) * size // _BLOCK)):
            polygons = corners[offsets[block][:, None] + np.arange(size)]
            fans = np.stack([polygons[:, [0, i, i + 1]] for i in range(1, size - 1)], 1)
            if size > 3:
                for bad in np.flatnonzero(_concave(vertices, polygons)):
                    spent = _EARCUT * size**2
                    if spent > patience:
                        uncut += 1
                        continue
                    patience -= spent
                    fans[bad], spent = _ears(vertices, polygons[bad], patience)
                    patience -= spent
            parts.append(fans.reshape(-1, 3))
            order.append(np.repeat(block, size - 2))
    if uncut:
        warnings.warn(
            f"{uncut} polygons that are not convex became fans, which may lie across their notches: cutting "
            "so many corners takes too long; export the mesh as triangles.",
            ShapeWarning,
            stacklevel=4,
        )
    return np.concatenate(parts)[np.argsort(np.concatenate(order), kind="stable")]


def _concave(vertices: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """(P,) which polygons a fan from the first corner would cover wrongly: some triangle of it faces the other way."""
    corner = vertices[polygons]
    spoke = corner[:, 1:] - corner[:, :1]
    cross = np.cross(spoke[:, :-1], spoke[:, 1:])
    area = cross.sum(1)  # Newell's normal, twice the area
    along = np.einsum("pkj,pj->pk", cross, area)
    return (along < -1e-9 * np.einsum("pj,pj->p", area, area)[:, None]).any(1)


def _ears(vertices: np.ndarray, polygon: np.ndarray, patience: float) -> tuple[np.ndarray, float]:
    """(n - 2, 3) triangles of one polygon, and the seconds that the slower clipping may have taken of those left.

    A fan where the polygon crosses itself, so that clipping finds no ears.
    """
    try:
        from mapbox_earcut import triangulate_float64
    except ImportError:
        raise MissingLibraryError(
            "Concave polygons need mapbox-earcut, which is not installed: pip install mapbox-earcut"
        ) from None
    corner = vertices[polygon] - vertices[polygon].mean(0)
    normal = np.cross(corner, np.roll(corner, -1, axis=0)).sum(0)
    drop = int(np.argmax(np.abs(normal)))
    flat = np.delete(corner, drop, axis=1)
    size = len(polygon)
    found = triangulate_float64(np.ascontiguousarray(flat), np.array([size], np.uint32)).reshape(-1, 3).astype(np.int64)
    spent = 0.0
    if len(found) != size - 2:
        # Corners on a straight line are left out by the clipping; without them neighbours would not share edges.
        spent = _CLIP * size**3
        if size <= 256 and spent <= patience:
            found = _clip(flat, normal[drop] * (1 if drop != 1 else -1))
        else:
            found = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], 1)
            spent = 0.0
    a, b, c = (corner[found[:, k]] for k in range(3))
    if np.cross(b - a, c - a).sum(0) @ normal < 0:
        found = found[:, ::-1]
    return polygon[found], spent


def _clip(flat: np.ndarray, turn: float) -> np.ndarray:
    """(n - 2, 3) by plain ear clipping that keeps every corner; straight ones end in triangles without area."""
    points = flat * np.array([1.0, np.sign(turn) or 1.0])  # counter-clockwise
    left, triangles = list(range(len(points))), []

    def area(i: int, j: int, k: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = points[i], points[j], points[k]
        return float((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))

    while len(left) > 3:
        best, ear = -np.inf, 0
        for at in range(len(left)):
            i, j, k = left[at - 1], left[at], left[(at + 1) % len(left)]
            size = area(i, j, k)
            if size <= 0:
                continue
            inside = [p for p in left if p not in (i, j, k)]
            if any(area(i, j, p) >= 0 and area(j, k, p) >= 0 and area(k, i, p) >= 0 for p in inside):
                continue
            longest = max(float(((points[a] - points[b]) ** 2).sum()) for a, b in ((i, j), (j, k), (k, i)))
            if size / longest > best:
                best, ear = size / longest, at
        triangles.append([left[ear - 1], left[ear], left[(ear + 1) % len(left)]])
        left.pop(ear)
    return np.array([*triangles, left], np.int64)
