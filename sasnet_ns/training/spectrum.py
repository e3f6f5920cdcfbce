"""The band limit that the noise of the input leaves room for."""

from __future__ import annotations

import dataclasses

from sasnet_ns.networks import SASNetConfig

NOISE_TIMES_LIMIT = 0.03
"""Band limit times the noise in box units: cycles shorter than about 33 standard deviations of the noise would learn it
instead of averaging it (docs/choosing.md says what this was measured on)."""
LEAST_LIMIT = 8
"""Smallest band limit: below, shapes lose their limbs."""


def fit_spectrum(config: SASNetConfig, noise: float) -> SASNetConfig:
    """A configuration whose frequencies stay below what noise hides; the same one where there is none.

    The band limit falls as the noise grows, and with it the low range, omega_0 (the hidden layers' share of high
    frequencies) and the finest level of the masks' grid, all in proportion.

    Args:
        config: for clean input.
        noise: standard deviation of the points from their surface, box units (longest side 0.9).
    """
    if noise <= 0:
        return config
    limit = max(LEAST_LIMIT, round(NOISE_TIMES_LIMIT / noise))
    if limit >= config.band_limit:
        return config
    share = limit / config.band_limit
    return dataclasses.replace(
        config,
        band_limit=limit,
        low_range=max(1, min(config.low_range, limit - config.bands - 1, round(limit / 3))),
        omega_0=max(10.0, config.omega_0 * share),
        grid_max=max(2 * config.grid_min, round(config.grid_max * share)),
    )


def describe(config: SASNetConfig, noise: float) -> str:
    """What :func:`fit_spectrum` did, in a line."""
    return f"noise {100 * noise / 0.9:.2g} % of the longest side: band limit {config.band_limit}"
