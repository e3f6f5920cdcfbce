"""Where a surface may be: a coarse lattice, refined where the values allow a crossing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction import _search_kernels as kernels
from sdf_tools.extraction._fields import Grid, SampledField
from sdf_tools.extraction._lattice import CoarseLattice, Segments, crossing_segments, join, no_segments
from sdf_tools.extraction._slopes import Slopes, estimate_slopes, given_slopes, unknown_slopes

# Evaluations that the search may spend on cells which only might hide something, unless it is to be thorough.
_BUDGET = 4_000_000

_MARGIN, _THOROUGH_MARGIN = 1.2, 2.0  # on measured slopes
_HUNTED_AT_ONCE = 16_384  # cells; bounds the temporary lists
_EIGHT = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(8, 3)
_CORNERS = np.array([(c & 1, c >> 1 & 1, c >> 2) for c in range(8)])
_OFFSETS = np.stack(np.meshgrid([0, 1, 2], [0, 1, 2], [0, 1, 2], indexing="ij"), -1).reshape(27, 3)


@dataclass
class Search:
    """What the search found.

    Attributes:
        finest: the lattice, refined.
        hidden: crossings that it does not show.
        unsettled: cells that may hide something and were not looked into.
        blind: side of those cells in nodes of the full lattice; closed pieces smaller than that may be missing.
    """

    finest: CoarseLattice
    hidden: Segments
    unsettled: int = 0
    blind: int = 0


def search_surface(
    field: SampledField,
    coarse: CoarseLattice,
    level: float,
    rng: np.random.Generator,
    *,
    bounded: bool = True,
    lipschitz: float | None = None,
    thorough: bool = False,
) -> Search:
    """Refine the coarse lattice, at most twice, where the surface is or may be; below that, only where it may hide.

    Args:
        field: to evaluate.
        coarse: complete lattice.
        level: of the surface.
        rng: of the places where slopes are sampled.
        bounded: whether to look where values allow a surface, or only where they show one.
        lipschitz: bound on the slope; None estimates one by value and place.
        thorough: no limit on evaluations, and a wider margin on the estimate.
    """
    if not bounded:
        slopes = unknown_slopes(coarse)
    elif lipschitz is not None:
        slopes = given_slopes(coarse, level, lipschitz)
    else:
        crossings = crossing_segments(coarse, level)
        slopes = estimate_slopes(field, coarse, level, crossings, rng, _THOROUGH_MARGIN if thorough else _MARGIN)
    budget = np.inf if thorough or lipschitz is not None else _BUDGET
    result = Search(coarse, no_segments())
    for _ in range(2):
        lattice = result.finest
        if lattice.step == 1:
            return result
        state = classify(lattice, level, slopes)
        finer, index = _halved(lattice, state)
        if slopes.known and len(index) > budget:
            result.unsettled, result.blind = int((state == kernels.SUSPECT).sum()), lattice.step
            slopes = unknown_slopes(coarse)
            state[state == kernels.SUSPECT] = 0
            finer, index = _halved(lattice, state)
        if len(index) == 0:
            return result
        budget -= len(index)
        finer.values[tuple(index.T)] = field.at(coarse.grid, finer.fine_index(index))
        result.finest = finer
    if not slopes.known or result.finest.step == 1:
        return result
    lattice = result.finest
    state = classify(lattice, level, slopes)
    # A bound that is given is a promise that nothing is missed, beside another surface neither.
    cells = np.argwhere(state > 0) if thorough or lipschitz is not None else isolated_cells(state)
    result.hidden, result.unsettled = hunt(field, lattice, cells, level, slopes, budget)
    result.blind = lattice.step if result.unsettled else 0
    return result


def classify(lattice: CoarseLattice, level: float, slopes: Slopes) -> np.ndarray:
    """``CROSSING``, ``SUSPECT`` or 0 for each cell of a lattice, uint8."""
    state = np.zeros([n - 1 for n in lattice.values.shape], dtype=np.uint8)
    size, ratio = lattice.grid.spacing * lattice.step, slopes.step // lattice.step
    kernels.classify(lattice.values, level, slopes.knots, slopes.distances, size, slopes.steepness, ratio, state)
    return state


def _halved(lattice: CoarseLattice, state: np.ndarray) -> tuple[CoarseLattice, np.ndarray]:
    """The lattice of half the step with what is known, and the (N, 3) nodes it lacks in cells that are not 0."""
    step = lattice.step // 2
    count = -(-lattice.grid.cells // step)  # cells of the finer lattice
    values = np.full(count + 1, np.nan, dtype=np.float32)
    keep = [np.minimum(2 * np.arange(n), count[axis]) for axis, n in enumerate(lattice.values.shape)]
    values[np.ix_(*keep)] = lattice.values
    wanted = np.zeros(values.shape, dtype=bool)
    index = np.empty((kernels.mark_halves(state, values, wanted), 3), np.int64)
    kernels.list_marked(wanted, index)
    return CoarseLattice(lattice.grid, step, values), index


def isolated_cells(state: np.ndarray) -> np.ndarray:
    """Suspect cells with no crossing cell around them, (N, 3): their small values have no surface to explain them."""
    cells = np.empty((kernels.isolated(state, np.empty((0, 3), np.int64)), 3), np.int64)
    kernels.isolated(state, cells)
    return cells


def hunt(
    field: SampledField, lattice: CoarseLattice, cells: np.ndarray, level: float, slopes: Slopes, budget: float
) -> tuple[Segments, int]:
    """Halve ``cells`` (N, 3) down to the full lattice where something may hide.

    Those with the smallest values first, until ``budget`` evaluations are spent.

    Returns:
        The crossings met, and how many cells were left.
    """
    if budget < np.inf:
        corners = lattice.values[tuple(np.moveaxis(cells[:, None] + _EIGHT, -1, 0))]
        cells = cells[np.argsort(np.abs(corners - np.float32(level)).min(1), kind="stable")]
    found: list[tuple[np.ndarray, ...]] = []
    last = field.evaluations + budget
    for start in range(0, len(cells), _HUNTED_AT_ONCE):
        if field.evaluations > last:
            return join(found), len(cells) - start
        waiting = [(cells[start : start + _HUNTED_AT_ONCE] * lattice.step, lattice.step)]
        while waiting:
            low, step = waiting.pop()
            low = _halve_cells(field, lattice.grid, low, step // 2, level, slopes, found)
            if step > 2:
                waiting += [(part, step // 2) for part in np.array_split(low, -(-len(low) // _HUNTED_AT_ONCE) or 1)]
    return join(found), 0


def _halve_cells(
    field: SampledField,
    grid: Grid,
    low: np.ndarray,
    step: int,
    level: float,
    slopes: Slopes,
    found: list[tuple[np.ndarray, ...]],
) -> np.ndarray:
    """Evaluate the 27 nodes ``step`` apart of cells at ``low`` (N, 3); append crossings; return suspect children."""
    if len(low) == 0:
        return low
    index = np.minimum(low[:, None] + _OFFSETS * step, grid.cells)
    keys, place = np.unique(grid.keys(index.reshape(-1, 3)), return_inverse=True)
    values = field.at(grid, grid.split(keys))[place.reshape(-1)].reshape(-1, 3, 3, 3)
    inside = values < level
    for axis in range(3):
        nodes = np.moveaxis(index.reshape(-1, 3, 3, 3, 3), axis + 1, 0)
        side = np.moveaxis(inside, axis + 1, 0)
        crossed = side[:-1] != side[1:]
        start = nodes[:-1][crossed]
        length = nodes[1:][crossed][:, axis] - start[:, axis]
        found.append((start, np.full(len(start), axis), length, side[:-1][crossed]))
    children = (low[:, None] + _EIGHT * step).reshape(-1, 3)
    corner = [values[:, c[0] : c[0] + 2, c[1] : c[1] + 2, c[2] : c[2] + 2].reshape(-1) for c in _CORNERS]
    suspect = np.zeros(len(children), dtype=bool)
    steepness = slopes.steepness[tuple(np.minimum(children // slopes.step, slopes.last_block).T)]
    kernels.suspects(
        np.stack(corner, 1), level, slopes.knots, slopes.distances, grid.spacing * step, steepness, suspect
    )
    return children[suspect & (children < grid.cells).all(1)]


def probe(field: SampledField, lattice: CoarseLattice, level: float, count: int, rng: np.random.Generator) -> Segments:
    """Look for what the coarse lattice missed: random nodes of the full lattice in cells that seem to hold no surface.

    Returns:
        A crossing segment for every probe that lies on the other side than its cell's corners.
    """
    grid, step = lattice.grid, lattice.step
    quiet = np.argwhere(classify(lattice, level, unknown_slopes(lattice)) == 0)
    if count == 0 or len(quiet) == 0 or step == 1:
        return no_segments()
    # Cells near the level are likelier to hide something than those far from it.
    distance = np.full(len(quiet), np.inf)
    for corner in _EIGHT:
        values = lattice.values[tuple((quiet + corner).T)].astype(np.float64)
        distance = np.minimum(distance, np.abs(values - level))
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
