"""A smoke-like volume in the place of ScalarFlow's, which cannot be had: a rising plume with turbulence in it."""

from __future__ import annotations

import numpy as np
import torch

from sasnet_ns.fitting.signal import Signal

KOLMOGOROV = -11 / 3
"""Slope of the power spectrum of a passive scalar in three dimensions (Kolmogorov 1941, Obukhov 1949)."""


def smoke_volume(height: int = 178, seed: int = 0) -> Signal:
    """Draw the volume, (height, 0.56 height, 0.56 height): 178 x 100 x 100 as the paper's.

    A plume whose radius grows and whose axis strays with the height, thinned out at the top; its density is a Gaussian
    around the axis times the square of what a random field with a Kolmogorov spectrum has above -0.5 of its standard
    deviations. About nine tenths of it are empty, its thin filaments end where the field does, and its largest value is
    1. Measured smoke has shadows and reconstruction artefacts, which this has not.

    Args:
        height: voxels along the first axis, which points up.
        seed: of the random fields.

    Raises:
        ValueError: fewer than 16 voxels.
    """
    if height < 16:
        raise ValueError(f"the smoke volume needs a height of 16 voxels or more, got {height}.")
    side = round(0.56 * height)
    rng = np.random.default_rng(seed)
    turbulence = _random_field((height, side, side), KOLMOGOROV, rng)
    up = (np.arange(height) + 0.5) / height
    across = ((np.arange(side) + 0.5) / side - 0.5) * 0.56
    bend = [np.cumsum(_random_field((height,), -3.0, rng)) for _ in range(2)]
    bend = [0.08 * b / np.abs(b).max() * up for b in bend]
    radius = 0.035 + 0.13 * up
    distance = (across[None, :, None] - bend[0][:, None, None]) ** 2 + (
        across[None, None, :] - bend[1][:, None, None]
    ) ** 2
    plume = np.exp(-distance / radius[:, None, None] ** 2) * np.clip((1 - up) / 0.25, 0, 1)[:, None, None]
    density = plume * np.maximum(0, turbulence + 0.5) ** 2
    values = torch.from_numpy((density / density.max()).astype(np.float32))[..., None]
    return Signal(values, "smoke", spacing=(1.0, 1.0, 1.0))


def _random_field(shape: tuple[int, ...], slope: float, rng: np.random.Generator) -> np.ndarray:
    """A periodic Gaussian field of unit variance whose power falls as wave number to ``slope``."""
    axes = [np.fft.fftfreq(n) * n * max(shape) / n for n in shape]
    wave = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    wave.flat[0] = np.inf  # no mean
    field = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * wave ** (slope / 2)).real
    return field / field.std()
