"""Pictures and a stack of known numbers, and what a signal read from a file must hold."""

from __future__ import annotations

import numpy as np

from sasnet_ns.fitting.signal import Signal

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
STACK = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8)
REDS = np.zeros((20, 30, 3), np.uint8)
REDS[:, :15], REDS[:, 15:] = (255, 0, 0), (10, 20, 200)


def own(signal: Signal) -> np.ndarray:
    """The file's own numbers."""
    return signal.low + signal.values.double().numpy() * (signal.high - signal.low)


def same(signal: Signal, wanted: np.ndarray, bits: int = 8) -> None:
    wanted = wanted[..., None] if wanted.ndim == len(signal.grid) else wanted
    assert signal.values.shape == wanted.shape and signal.bits == bits
    assert np.array_equal(np.rint(own(signal)), wanted)
