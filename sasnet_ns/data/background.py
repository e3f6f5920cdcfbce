"""What lies behind the object in pictures without transparency and masks: one colour, or surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sasnet_ns.data.picture_files import read_picture

PICTURES = 16
"""How many pictures, spread over all, are looked at."""
TOLERANCE = 12
"""Largest difference of a channel, in 255ths, that noise and JPEG leave in one colour."""
SHARE = 0.9
"""Share of the border that has to have it: the object may reach the border here and there."""


def plain_background(pictures: Sequence[Path]) -> npt.NDArray[np.float64] | None:
    """The (3,) colour in [0, 1] that the borders of all pictures have, None where they have no common one.

    Raises:
        ShapeError: a picture is missing or damaged.
    """
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(PICTURES, len(pictures))).round().astype(int))
    borders = [border(read_picture(pictures[i], alpha=False)) for i in chosen]
    color = np.median(np.concatenate(borders), axis=0)
    shares = [(np.abs(pixels - color).max(axis=1) <= TOLERANCE).mean() for pixels in borders]
    # Every picture has to show some of it, too: one picture in ten may be of something else altogether.
    return color / 255 if np.mean(shares) >= SHARE and min(shares) >= SHARE / 3 else None


def border(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(P, 3) pixels of a frame around an (H, W, 3) picture, a fiftieth of its shorter side wide."""
    width = max(1, min(picture.shape[:2]) // 50)
    inner = np.zeros(picture.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    return picture[~inner].astype(np.float64)
