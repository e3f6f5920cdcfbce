"""The frozen integer frequencies of the embedding layer and their bands (SASNet, Sec. 3.2 and Supp. Sec. 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_MOST_CANDIDATES = 50_000_000


@dataclass(frozen=True)
class FrequencyBands:
    """Integer frequency multipliers, sorted by group.

    Attributes:
        multipliers: (F, d) int64; group by group, the low-frequency group first.
        group_sizes: neurons of the low group, then of each band, from low to high. They add up to F.
    """

    multipliers: Int[Tensor, "F d"]
    group_sizes: tuple[int, ...]


def _half_space(first: np.ndarray, others: np.ndarray, in_dim: int) -> np.ndarray:
    """All integer vectors whose first component is from ``first`` (k and -k give the same sinusoids).

    Raises:
        ValueError: they are too many to be listed.
    """
    count = len(first) * len(others) ** (in_dim - 1)
    if count > _MOST_CANDIDATES:
        raise ValueError(
            f"the ranges leave {count:,} frequencies in {in_dim} dimensions to draw from, more than "
            f"{_MOST_CANDIDATES:,}; take a smaller band_limit or low_range."
        )
    short = np.int16 if max(map(abs, (*first[-1:], *others[-1:])), default=0) < 1 << 15 else np.int64
    axes = np.meshgrid(first.astype(short), *([others.astype(short)] * (in_dim - 1)), indexing="ij")
    return np.stack(axes, -1).reshape(-1, in_dim)


def _draw(rng: np.random.Generator, candidates: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows without repeats where there are enough, otherwise all of them and random repeats."""
    if count <= len(candidates):
        return candidates[rng.choice(len(candidates), count, replace=False)]
    extra = rng.choice(len(candidates), count - len(candidates), replace=True)
    return np.concatenate([candidates, candidates[extra]])


def low_candidates(in_dim: int, low_range: int) -> np.ndarray:
    """(C, d) non-zero integer vectors with k_1 in [0, L] and the other components in [-L, L]."""
    grid = _half_space(np.arange(low_range + 1), np.arange(-low_range, low_range + 1), in_dim)
    return grid[np.abs(grid).max(1) > 0]


def high_candidates(in_dim: int, low_range: int, band_limit: int, count: int, step_dim: int = 2) -> np.ndarray:
    """(C, d) vectors of a regular integer lattice in [-B, B]^d outside [-L, L]^d, k_1 >= 0.

    The lattice's step is ``ceil(((B^q - L^q) / count)^(1/q))`` with q = ``step_dim``: the authors use the area formula
    (q = 2) in any dimension.
    """
    area = band_limit**step_dim - low_range**step_dim
    # The tolerance keeps an exact root (8 for 64) from being rounded up by floating-point noise.
    step = max(1, math.ceil((area / max(count, 1)) ** (1 / step_dim) - 1e-9))
    grid = _half_space(np.arange(0, band_limit + 1, step), np.arange(-band_limit, band_limit + 1, step), in_dim)
    return grid[np.abs(grid).max(1) > low_range]


def band_candidates(in_dim: int, above: int, up_to: int) -> np.ndarray:
    """(C, d) integer vectors with above < max_j |k_j| <= up_to and k_1 >= 0."""
    grid = _half_space(np.arange(up_to + 1), np.arange(-up_to, up_to + 1), in_dim)
    return grid[np.abs(grid).max(1) > above]


def _draw_bands(
    rng: np.random.Generator, in_dim: int, cuts: np.ndarray, count: int
) -> tuple[np.ndarray, list[int]]:  # fmt: skip
    """``count`` vectors, as many from each band as from the others, and the bands' sizes (the last takes the rest)."""
    borders = np.ceil(cuts).astype(int) - 1  # a band holds the integers from its cut-off up to the next
    share = [count * (band + 1) // (len(cuts) - 1) - count * band // (len(cuts) - 1) for band in range(len(cuts) - 1)]
    parts = []
    for above, up_to, size in zip(borders[:-1], borders[1:], share, strict=True):
        if up_to <= above:
            raise ValueError(
                f"{len(share)} bands do not fit between frequencies {borders[0]} and {borders[-1]}: one would be empty."
            )
        parts.append(_draw(rng, band_candidates(in_dim, above, up_to), size))
    return np.concatenate(parts), share


def sample_frequencies(
    width: int,
    in_dim: int,
    band_limit: int,
    low_range: int,
    low_share: float = 0.5,
    bands: int = 4,
    spacing: Literal["linear", "exponential"] = "linear",
    step_dim: int = 2,
    seed: int = 42,
    allocation: Literal["lattice", "equal"] = "lattice",
) -> FrequencyBands:
    """Draw the embedding layer's integer frequencies (SASNet, Supp. Sec. 3.1).

    ``ceil(low_share * width)`` neurons are low: the canonical basis, then vectors drawn from [-L, L]^d. The rest is
    drawn from a regular lattice in [-B, B]^d outside the low box and sorted into ``bands`` by max_j |k_j|; most of a
    lattice's points are far out, so low bands get few neurons or none. With ``allocation="equal"``, which is ours, each
    band gets as many as the others, drawn from all integer vectors in it.

    Args:
        width: number of neurons F.
        in_dim: number of coordinates d.
        band_limit: B, the largest frequency, in cycles per period.
        low_range: L, the low group's largest frequency, in cycles per period.
        low_share: share of neurons in the low group.
        bands: number of high-frequency bands.
        spacing: cut-offs between L and B, linear (the authors' code) or exponential.
        step_dim: exponent of the lattice-step formula, see :func:`high_candidates`.
        seed: of the draw; independent of the seed of the run, as in the authors' library.
        allocation: ``lattice`` as the authors have it, or ``equal``.

    Raises:
        ValueError: the ranges leave no room for the frequencies or the bands asked for.
    """
    if not 0 < low_range < band_limit:
        raise ValueError(f"low_range must lie between 0 and band_limit, got {low_range} and {band_limit}.")
    if width <= in_dim or bands < 1 or not 0 <= low_share < 1:
        raise ValueError(f"need width > in_dim, bands >= 1 and 0 <= low_share < 1, got {width}, {bands}, {low_share}.")
    rng = np.random.default_rng(seed)
    basis = np.eye(in_dim, dtype=np.int64)
    low_count = max(math.ceil(low_share * width), in_dim)
    low = np.concatenate([basis, _draw(rng, low_candidates(in_dim, low_range), low_count - in_dim)])
    high_count = width - low_count
    if allocation == "equal":
        space = np.linspace if spacing == "linear" else np.geomspace
        high, shares = _draw_bands(rng, in_dim, space(low_range + 1, band_limit + 1, bands + 1), high_count)
        return FrequencyBands(torch.from_numpy(np.concatenate([low, high])), (low_count, *shares))
    candidates = high_candidates(in_dim, low_range, band_limit, high_count, step_dim)
    if high_count and not len(candidates):
        raise ValueError(
            f"the lattice for {high_count} neurons has no frequency between low_range {low_range} and band_limit "
            f"{band_limit} in {in_dim} dimensions; take a larger band_limit, or an equal allocation."
        )
    high = _draw(rng, candidates, high_count)

    magnitude = np.abs(high).max(1)
    if spacing == "linear":
        cuts = np.linspace(low_range, band_limit + 1, bands + 1)
    else:
        cuts = np.geomspace(low_range, band_limit + 1, bands + 1)
    band = np.clip(np.searchsorted(cuts, magnitude, side="right") - 1, 0, bands - 1)
    order = np.argsort(band, kind="stable")
    sizes = (low_count, *np.bincount(band, minlength=bands).tolist())
    return FrequencyBands(torch.from_numpy(np.concatenate([low, high[order]])), sizes)
