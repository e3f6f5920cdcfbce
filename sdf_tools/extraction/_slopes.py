"""How far from the surface a value is at least: a bound on the field's slope that depends on the value and the place.

A signed distance has slope 1 everywhere, but a density, an occupancy or a truncated distance is steep at the surface
and flat away from it, so that one bound for all values either says nothing or is wrong. With s(v) the largest slope
where the field has the value v, a point of value v is at least the integral of dv / s(v) from the level to v away from
the surface: for ``100 / (1 + exp(k d))`` that gives back d itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdf_tools.extraction import _search_kernels as kernels
from sdf_tools.extraction._fields import SampledField
from sdf_tools.extraction._lattice import CoarseLattice, Segments, bisect, no_segments

_SURFACE_SAMPLES = 200  # places on the surface from which slopes are sampled outwards and inwards
_BINS = 64  # of values, on each side of the level
_SUBKNOTS = 8
_QUANTILE = 0.98  # of the slopes in a bin: a network's few creases do not count for all
_REACH = 1.5  # diagonals of a coarse cell
_DIFFERENCE = 0.25  # cells, for slopes: values can change e-fold within one

# A block this much steeper than the samples shows that the field has parts of a steepness of their own. Others like
# them may lie between the coarse lattice's nodes, so it then counts everywhere. Trained networks stay below.
_STEEPER = 1.5
_STEEP_SAMPLES = 1_024


@dataclass
class Slopes:
    """What keeps a surface away from a value.

    Attributes:
        knots, distances: (K,) increasing values and their signed distances from the surface, at least; K = 0: unknown.
        steepness: (b0, b1, b2) float32 how many times steeper the field may be, a block each.
        step: nodes of the full lattice along a block's side.
    """

    knots: np.ndarray
    distances: np.ndarray
    steepness: np.ndarray
    step: int

    @property
    def last_block(self) -> np.ndarray:
        return np.array(self.steepness.shape) - 1

    @property
    def known(self) -> bool:
        return len(self.knots) > 0


def unknown_slopes(lattice: CoarseLattice) -> Slopes:
    return Slopes(np.empty(0), np.empty(0), _flat(lattice), lattice.step)


def given_slopes(lattice: CoarseLattice, level: float, lipschitz: float) -> Slopes:
    """One bound for all values and places."""
    reach = 4.0 * float(np.linalg.norm(lattice.grid.spacing * lattice.step))
    knots = level + lipschitz * np.array([-reach, 0.0, reach])
    return Slopes(knots, np.array([-reach, 0.0, reach]), _flat(lattice), lattice.step)


def estimate_slopes(
    field: SampledField,
    lattice: CoarseLattice,
    level: float,
    crossings: Segments,
    rng: np.random.Generator,
    margin: float,
) -> Slopes:
    """Slopes by value from samples across the surface and near it, and by place from the coarse lattice.

    Args:
        field: evaluated some 18,000 times.
        lattice: complete.
        level: of the surface.
        crossings: where the lattice shows the surface.
        rng: of the samples.
        margin: on what is measured.
    """
    values, slopes = _samples(field, lattice, level, crossings, rng)
    below, above = (_side(values[side], slopes[side], level, margin) for side in (values < level, values >= level))
    if below is None and above is None:
        return unknown_slopes(lattice)
    # A side without samples (a piece smaller than their spacing) is as steep at the level as the other.
    (v0, d0), (v1, d1) = below or _mirrored(above, level), above or _mirrored(below, level)
    knots, distances = np.concatenate([v0[:0:-1], v1]), np.concatenate([-d0[:0:-1], d1])
    # Farther than that no cell asks; in the tail of a density, rounding would.
    reach = _REACH * float(np.linalg.norm(lattice.grid.spacing * lattice.step))
    near = np.abs(distances) <= reach
    knots, distances = knots[near], distances[near]
    steepness = _flat(lattice)
    steepness[:] = 0
    kernels.steepest(lattice.values, knots, distances, level, lattice.grid.spacing * lattice.step, steepness)
    steepness = np.maximum(1, margin * _dilated(steepness))
    if steepness.max() > _STEEPER:
        steepness = np.maximum(steepness, margin * _steepest_inside(field, lattice, steepness, knots, distances, rng))
    return Slopes(knots, distances, steepness, lattice.step)


def _steepest_inside(
    field: SampledField,
    lattice: CoarseLattice,
    steepness: np.ndarray,
    knots: np.ndarray,
    distances: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """How many times steeper than ``distances`` the field is in the steepest blocks, whose edges show a part of it."""
    blocks = np.argwhere(steepness > max(1.0, 0.7 * float(steepness.max())))
    place = blocks[rng.integers(0, len(blocks), _STEEP_SAMPLES)] + rng.uniform(0, 1, (_STEEP_SAMPLES, 3))
    index = np.minimum(place * lattice.step, lattice.grid.cells - 1)
    here = np.interp(field(lattice.grid.positions(index)), knots, distances)
    squares = np.zeros(len(index))
    for axis in range(3):
        there = index.copy()
        there[:, axis] += _DIFFERENCE
        moved = np.interp(field(lattice.grid.positions(there)), knots, distances)
        squares += ((moved - here) / (_DIFFERENCE * lattice.grid.spacing[axis])) ** 2
    return float(np.sqrt(np.quantile(squares, _QUANTILE)))


def _flat(lattice: CoarseLattice) -> np.ndarray:
    return np.ones([n - 1 for n in lattice.values.shape], dtype=np.float32)


def _dilated(blocks: np.ndarray) -> np.ndarray:
    """The largest of each block and its 26 neighbours."""
    for axis in range(3):
        padded = np.pad(blocks, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        parts = [padded.take(np.arange(blocks.shape[axis]) + shift, axis=axis) for shift in range(3)]
        blocks = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return blocks


def _samples(
    field: SampledField, lattice: CoarseLattice, level: float, crossings: Segments, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Values and the lengths of their gradients, by differences over a part of a cell of the full lattice."""
    grid, step = lattice.grid, lattice.step
    some = rng.permutation(len(crossings.axis))[:_SURFACE_SAMPLES]
    chosen = Segments(crossings.start[some], crossings.axis[some], crossings.length[some], crossings.start_inside[some])
    surface = bisect(field, grid, chosen, level)[0] if len(some) else no_segments().start
    # 0, 1, 2, 3, 4, 6, 8, 12, ... edges along the crossing's axis, to both sides, past the coarse cell's diagonal.
    doubling = [n << bits for bits in range(step.bit_length()) for n in (2, 3)]
    reach = [0, 1, *(n for n in doubling if n <= 2 * step)]
    nodes = []
    for offset in sorted({*reach, *(1 - r for r in reach)}):
        moved = surface.copy()
        moved[np.arange(len(some)), chosen.axis] += offset
        nodes.append(moved)
    # Coarse nodes near the level, from wherever they are, and nodes beside them.
    off = np.abs(lattice.values - np.float32(level)).ravel().astype(np.float64)
    weight = 1 / (off + np.median(off) * 0.1 + 1e-30)
    node = rng.choice(off.size, size=min(2_048, off.size), p=weight / weight.sum())
    near = lattice.fine_index(np.stack(np.unravel_index(node, lattice.values.shape), 1))
    nodes.append(near + rng.integers(-step, step + 1, size=near.shape) // 2)
    index = np.concatenate(nodes)
    index = np.unique(np.clip(index, 0, grid.cells - 1), axis=0)
    here = field(grid.positions(index)).astype(np.float64)
    squares = np.zeros(len(index))
    for axis in range(3):
        there = index.astype(np.float64)
        there[:, axis] += _DIFFERENCE
        squares += ((field(grid.positions(there)) - here) / (_DIFFERENCE * grid.spacing[axis])) ** 2
    fine = (np.abs(here) < 1e30) & (squares < 1e60)
    return here[fine], np.sqrt(squares[fine])


def _side(values: np.ndarray, slopes: np.ndarray, level: float, margin: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Knots and distances on one side of the level, outwards; None without a sample that is not flat."""
    values, slopes = values[slopes > 0], slopes[slopes > 0]
    if len(values) == 0:
        return None
    order = np.argsort(np.abs(values - level), kind="stable")
    bins = np.array_split(order, min(_BINS, max(1, len(order) // 8)))
    at = np.array([level, *(values[b[-1]] for b in bins)])
    steep = margin * np.array([np.quantile(slopes[b], _QUANTILE) for b in bins])
    middle = np.array([np.median(values[b]) for b in bins])
    # Slopes at the ends of the bins; the first is also the level's.
    at_slope = np.interp(np.abs(at - level), np.abs(middle - level), steep)
    knots, distances = [level], [0.0]
    for n in range(len(bins)):
        if at[n + 1] == at[n]:
            continue
        # The slope is linear in the value between the ends: equal steps of its logarithm.
        first, last = at_slope[n], at_slope[n + 1]
        share = np.arange(1, _SUBKNOTS + 1) / _SUBKNOTS
        if abs(last / first - 1) > 1e-3:
            part = np.expm1(share * np.log(last / first)) / (last / first - 1)
            length = (at[n + 1] - at[n]) / (last - first) * np.log(last / first)
        else:
            part, length = share, (at[n + 1] - at[n]) / first
        knots.extend(at[n] + part * (at[n + 1] - at[n]))
        start = distances[-1]
        distances.extend(start + share * abs(length))
    knots_, steps = np.array(knots), np.array(distances)
    new = np.concatenate([[True], np.abs(np.diff(knots_)) > 0])
    return knots_[new], steps[new]


def _mirrored(side: tuple[np.ndarray, np.ndarray] | None, level: float) -> tuple[np.ndarray, np.ndarray]:
    assert side is not None
    return 2 * level - side[0], side[1]
