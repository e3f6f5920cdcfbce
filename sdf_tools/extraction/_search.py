"""Where a surface may be: a coarse lattice, refined where the values allow a crossing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction._fields import Grid, SampledField


@dataclass
class CoarseLattice:
    """Values on every ``step``-th node (and the last one) of each axis; NaN where not evaluated."""

    grid: Grid
    step: int
    values: np.ndarray

    def fine_index(self, index: np.ndarray) -> np.ndarray:
        return np.minimum(index * self.step, self.grid.cells)


def corner_values(values: np.ndarray) -> np.ndarray:
    """(8, cells...) views of the corner values of each cell."""
    return np.stack(
        [
            values[
                slice(None, -1) if not c & 1 else slice(1, None),
                slice(None, -1) if not c & 2 else slice(1, None),
                slice(None, -1) if not c & 4 else slice(1, None),
            ]
            for c in range(8)
        ]
    )


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


def estimate_lipschitz(lattice: CoarseLattice, level: float) -> float:
    """A bound on the field's slope near the level set, from the slopes that the coarse lattice shows."""
    corners = corner_values(lattice.values) - np.float32(level)
    corners = np.where((np.abs(corners) < 1e30).all(0), corners, 0)  # the stand-in values of a capped border
    size = lattice.grid.spacing * lattice.step
    slopes = []
    for axis in range(3):
        high = [c for c in range(8) if c >> axis & 1]
        low = [c for c in range(8) if not c >> axis & 1]
        slopes.append((corners[high].mean(0) - corners[low].mean(0)) / size[axis])
    slope = np.sqrt(sum(s**2 for s in slopes))
    near = np.abs(corners).min(0) <= np.linalg.norm(size) * np.median(slope)
    return float(1.5 * np.quantile(slope[near], 0.95)) if near.any() else 0.0


def crossing_cells(corners: np.ndarray, level: float) -> np.ndarray:
    """Cells with corners on both sides; unknown corners (NaN) make a cell not crossing."""
    inside = corners < level
    return inside.any(0) & ~inside.all(0) & ~np.isnan(corners).any(0)


def suspect_cells(corners: np.ndarray, level: float, size: np.ndarray, lipschitz: float) -> np.ndarray:
    """Cells without a crossing in which one could hide.

    Each corner keeps a ball of radius ``|value - level| / lipschitz`` free of the surface. A cell is suspect unless the
    eight balls cover it, judged at 125 points with the distance between them allowed for.
    """
    radius = np.abs(corners - np.float32(level)) / lipschitz
    suspect = np.zeros(corners.shape[1:], dtype=bool)
    diagonal = float(np.linalg.norm(size))
    where = ~crossing_cells(corners, level) & (radius.min(0) <= diagonal / 2)
    radii = radius[:, where]
    offsets = np.array([(c & 1, c >> 1 & 1, c >> 2 & 1) for c in range(8)])
    found = np.zeros(radii.shape[1], dtype=bool)
    for point in np.ndindex(5, 5, 5):
        reach = np.linalg.norm((np.array(point) / 4 - offsets) * size, axis=1) + diagonal / 8
        found |= (radii <= reach[:, None]).all(0)
    suspect[where] = found
    return suspect


def refine(field: SampledField, lattice: CoarseLattice, cells: np.ndarray) -> CoarseLattice:
    """The lattice of half the step: old values kept, new nodes evaluated in ``cells`` (boolean, a cell each)."""
    grid, step = lattice.grid, lattice.step // 2
    count = -(-grid.cells // step)  # cells of the finer lattice
    values = np.full(count + 1, np.nan, dtype=np.float32)
    keep = [np.minimum(2 * np.arange(n), count[axis]) for axis, n in enumerate(lattice.values.shape)]
    values[np.ix_(*keep)] = lattice.values
    fine = cells
    for axis in range(3):
        fine = np.repeat(fine, 2, axis=axis).take(np.arange(count[axis]), axis=axis)
    wanted = np.zeros(values.shape, dtype=bool)
    for c in range(8):
        wanted[c & 1 : (c & 1) + count[0], c >> 1 & 1 : (c >> 1 & 1) + count[1], c >> 2 : (c >> 2) + count[2]] |= fine
    wanted &= np.isnan(values)
    index = np.argwhere(wanted)
    values[wanted] = field.at(grid, np.minimum(index * step, grid.cells))
    return CoarseLattice(grid, step, values)


def classify(lattice: CoarseLattice, level: float, lipschitz: float) -> tuple[np.ndarray, np.ndarray]:
    """Crossing and suspect cells of a lattice, boolean; no suspects where ``lipschitz`` is 0.

    Slab by slab: the corner values of all cells at once would take eight times the lattice.
    """
    shape = tuple(n - 1 for n in lattice.values.shape)
    crossing, suspect = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for start in range(0, shape[0], 16):
        slab = slice(start, start + 16)
        corners = corner_values(lattice.values[start : start + 17])
        crossing[slab] = crossing_cells(corners, level)
        if lipschitz > 0:
            suspect[slab] = suspect_cells(corners, level, lattice.grid.spacing * lattice.step, lipschitz)
    return crossing, suspect


def isolated_cells(lattice: CoarseLattice, level: float, lipschitz: float) -> np.ndarray:
    """Suspect cells with no crossing cell around them, (N, 3): their small values have no surface to explain them."""
    crossing, suspects = classify(lattice, level, lipschitz)
    near = np.pad(crossing, 1)
    for axis in range(3):
        near = near | np.roll(near, 1, axis) | np.roll(near, -1, axis)
    return np.argwhere(suspects & ~near[1:-1, 1:-1, 1:-1])


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
    parts: list[tuple[np.ndarray, ...]] = []
    inside, known = lattice.values < level, ~np.isnan(lattice.values)
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        index = np.argwhere(known[low] & known[high] & (inside[low] != inside[high]))
        start = lattice.fine_index(index)
        end = np.minimum((index[:, axis] + 1) * lattice.step, lattice.grid.cells[axis])
        parts.append((start, np.full(len(index), axis), end - start[:, axis], inside[tuple(index.T)]))
    return _join(parts)


def hunt(
    field: SampledField, lattice: CoarseLattice, cells: np.ndarray, level: float, lipschitz: float, most: int
) -> Segments:
    """Halve suspect ``cells`` (N, 3) down to the full lattice, the ``most`` of least values; report crossings.

    The bound has a margin, so cells one and a half away from an ordinary surface are suspect too, tens of thousands of
    them; one that hides something has a corner within half its diagonal of it, and so smaller values.
    """
    grid, step = lattice.grid, lattice.step
    eight = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(8, 3)
    if len(cells) > most:
        corners = lattice.values[tuple(np.moveaxis(cells[:, None] + eight, -1, 0))]
        cells = cells[np.argsort(np.abs(corners - level).min(1))[:most]]
    low = cells * step
    offsets = np.stack(np.meshgrid([0, 1, 2], [0, 1, 2], [0, 1, 2], indexing="ij"), -1).reshape(27, 3)
    found: list[tuple[np.ndarray, ...]] = []
    while step > 1 and len(low):
        step //= 2
        index = np.minimum(low[:, None] + offsets * step, grid.cells)
        values = field.at(grid, index.reshape(-1, 3)).reshape(-1, 3, 3, 3)
        inside = values < level
        for axis in range(3):
            nodes = np.moveaxis(index.reshape(-1, 3, 3, 3, 3), axis + 1, 0)
            side = np.moveaxis(inside, axis + 1, 0)
            crossed = side[:-1] != side[1:]
            start = nodes[:-1][crossed]
            length = nodes[1:][crossed][:, axis] - start[:, axis]
            found.append((start, np.full(len(start), axis), length, side[:-1][crossed]))
        corners = np.moveaxis(corner_values(np.moveaxis(values, 0, -1)), -1, 1)  # (8, N, 2, 2, 2)
        suspect = suspect_cells(corners.reshape(8, -1), level, grid.spacing * step, lipschitz)
        nearest = np.abs(corners.reshape(8, -1) - level).min(0)
        children = (low[:, None] + eight * step).reshape(-1, 3)
        suspect &= (children < grid.cells).all(1)
        keep = np.flatnonzero(suspect)
        if len(keep) > most:
            keep = keep[np.argsort(nearest[keep])[:most]]
        low = children[keep]
    return _join(found) if found else no_segments()


def no_segments() -> Segments:
    return Segments(np.empty((0, 3), np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))


def _join(parts: list[tuple[np.ndarray, ...]]) -> Segments:
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


def probe(field: SampledField, lattice: CoarseLattice, level: float, count: int, rng: np.random.Generator) -> Segments:
    """Look for what the coarse lattice missed: random nodes of the full lattice in cells that seem to hold no surface.

    Returns:
        A crossing segment for every probe that lies on the other side than its cell's corners.
    """
    grid, step = lattice.grid, lattice.step
    corners = corner_values(lattice.values)
    quiet = np.argwhere(~crossing_cells(corners, level) & ~np.isnan(corners).any(0))
    if count == 0 or len(quiet) == 0 or step == 1:
        return no_segments()
    # Cells near the level are likelier to hide something than those far from it.
    distance = np.abs(corners[:, quiet[:, 0], quiet[:, 1], quiet[:, 2]] - np.float32(level)).min(0).astype(np.float64)
    weight = 1 / (distance + np.median(distance) * 0.1 + 1e-30)
    cell = quiet[rng.choice(len(quiet), size=count, p=weight / weight.sum())]
    low = cell * step
    point = np.minimum(low + rng.integers(0, step + 1, size=low.shape), grid.cells)
    inside = field.at(grid, point) < level
    expected = lattice.values[tuple(cell.T)] < level
    missed = np.flatnonzero(inside != expected)
    if len(missed) == 0:
        return no_segments()
    # From the probe to the cell's lowest corner in three legs along the axes; one of them crosses.
    path = [point[missed]]
    for axis in range(3):
        path.append(path[-1].copy())
        path[-1][:, axis] = low[missed, axis]
    sides = [inside[missed]] + [field.at(grid, p) < level for p in path[1:3]] + [expected[missed]]
    axis = np.argmax(np.stack([sides[a] != sides[a + 1] for a in range(3)]), axis=0)
    rows = np.arange(len(missed))
    start = np.stack(path[1:])[axis, rows]
    length = np.stack(path[:3])[axis, rows, axis] - start[rows, axis]
    return Segments(start, axis, length, np.stack(sides[1:])[axis, rows])
