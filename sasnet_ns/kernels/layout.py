"""Which entries a multiresolution hash grid has, and where each level begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Interpolation = Literal["linear", "smoothstep"]

PRIMES = (1, 2654435761, 805459861, 3674653429)
"""Factor of each axis in the spatial hash (Müller et al. 2022, equation 4; the fourth as in tiny-cuda-nn)."""


@dataclass(frozen=True)
class HashGridLayout:
    """Shape of a multiresolution hash grid (Müller et al. 2022, section 3): everything but the table's values.

    All levels lie one after the other in a single table of shape ``(total_entries, feature_dim)``; level ``l`` owns
    the rows from ``offsets[l]`` on. A level whose lattice fits in ``2**log2_table_size`` entries is stored densely,
    first axis fastest, ``i0 + res * (i1 + res * (i2 + ...))``; otherwise lattice point ``i`` has row
    ``xor_k(i_k * PRIMES[k]) mod 2**log2_table_size``.

    Raises:
        ValueError: if a number is out of range.
    """

    in_dim: int
    """Number of input coordinates, 1 to 4."""
    resolutions: tuple[int, ...]
    """Lattice points along each axis, one number per level, each at least 2."""
    log2_table_size: int
    """Base-2 logarithm of the most entries that a level may have."""
    feature_dim: int = 2
    """Features per entry."""
    interpolation: Interpolation = "linear"
    """``linear``: d-linear; ``smoothstep``: d-linear in ``3 t^2 - 2 t^3``, continuous first derivative."""
    dense: tuple[bool, ...] = field(init=False, repr=False, compare=False)
    """Whether each level is stored without hashing."""
    level_entries: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Table rows of each level."""
    offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """First table row of each level."""
    total_entries: int = field(init=False, repr=False, compare=False)
    """Table rows of all levels together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple(int(res) for res in self.resolutions))
        if not 1 <= self.in_dim <= 4:
            raise ValueError(f"A hash grid takes 1 to 4 coordinates, not in_dim={self.in_dim}.")
        if not self.resolutions or min(self.resolutions) < 2:
            raise ValueError(f"Every hash grid level needs a resolution of at least 2; got {self.resolutions}.")
        if max(self.resolutions) > 1 << 20:
            raise ValueError(f"Hash grid resolutions may not exceed 2**20; got {self.resolutions}.")
        if not 1 <= self.log2_table_size <= 28:
            raise ValueError(f"log2_table_size must be 1 to 28, not {self.log2_table_size}.")
        if not 1 <= self.feature_dim <= 16:
            raise ValueError(f"feature_dim must be 1 to 16, not {self.feature_dim}.")
        if self.interpolation not in ("linear", "smoothstep"):
            raise ValueError(f"interpolation must be 'linear' or 'smoothstep', not {self.interpolation!r}.")
        # Worked out here: while torch.compile looks on, powers of a number of axes would become symbols.
        sizes = tuple(res**self.in_dim for res in self.resolutions)
        entries = tuple(min(self.table_size, size) for size in sizes)
        object.__setattr__(self, "dense", tuple(size <= self.table_size for size in sizes))
        object.__setattr__(self, "level_entries", entries)
        object.__setattr__(self, "offsets", tuple(sum(entries[:level]) for level in range(len(entries))))
        object.__setattr__(self, "total_entries", sum(entries))

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.resolutions)

    @property
    def out_dim(self) -> int:
        """Features per point, ``levels * feature_dim``; level ``l`` has columns ``l * feature_dim`` onwards."""
        return self.levels * self.feature_dim

    @property
    def table_size(self) -> int:
        """Most entries that one level may have."""
        return 1 << self.log2_table_size

    @classmethod
    def geometric(
        cls,
        in_dim: int,
        levels: int,
        min_resolution: int,
        max_resolution: int,
        log2_table_size: int,
        feature_dim: int = 2,
        interpolation: Interpolation = "linear",
    ) -> HashGridLayout:
        """Layout with resolutions ``floor(min_resolution * b**l)``, ``b = (max/min)**(1/(levels-1))``.

        Where ``min_resolution * b**l`` is a whole number in exact arithmetic (the last level always is), the published
        floating-point formula lands just below it. Published parameter counts depend on that, so it is made the rule
        on every machine: above level 0 a whole number counts as one less. 8 to 128 in 10 levels is 8, 10, 14, 20, 27,
        37, 50, 69, 94, 127; 4 to 256 has 15 as its fourth level, not 16.

        Args:
            in_dim: number of input coordinates.
            levels: number of levels.
            min_resolution: resolution of the first level.
            max_resolution: resolution of the last level (less one, see above).
            log2_table_size: base-2 logarithm of the most entries a level may have.
            feature_dim: features per entry.
            interpolation: ``linear`` or ``smoothstep``.

        Raises:
            ValueError: if a number is out of range.
        """
        if levels < 1 or min_resolution < 2 or max_resolution < min_resolution:
            raise ValueError(
                "A geometric hash grid needs levels >= 1 and 2 <= min_resolution <= max_resolution; "
                f"got levels={levels}, min_resolution={min_resolution}, max_resolution={max_resolution}."
            )
        growth = math.log(max_resolution / min_resolution) / (levels - 1) if levels > 1 else 0.0
        resolutions = [min_resolution]
        for level in range(1, levels):
            exact = min_resolution * math.exp(growth * level)
            resolutions.append(max(min_resolution, math.floor(exact * (1.0 - 1e-9))))
        return cls(in_dim, tuple(resolutions), log2_table_size, feature_dim, interpolation)
