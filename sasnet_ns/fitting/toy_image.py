"""A toy image like that of the paper's Figure 4: flat regions, sharp edges, and a wide spectrum in the middle."""

from __future__ import annotations

import numpy as np

from sasnet_ns.fitting.signal import Signal, signal_from_array


def toy_image(size: int = 256, channels: int = 3) -> Signal:
    """Draw the image.

    A flat background; in the middle a disc, cut off sharply, whose rings run from slow to four pixels a period at its
    rim; four flat shapes with hard edges around it. The paper shows its toy image but does not publish it, so this one
    has the same ingredients and not the same pixels.

    Args:
        size: rows and columns.
        channels: 3 for colours, 1 for grey.

    Raises:
        ValueError: too small to hold the rings, or another number of channels.
    """
    if size < 32 or channels not in (1, 3):
        raise ValueError(
            f"the toy image needs 32 pixels a side or more and 1 or 3 channels, got {size} and {channels}."
        )
    y, x = np.meshgrid(*[(2 * np.arange(size) + 1) / size - 1] * 2, indexing="ij")
    radius = np.hypot(x, y)
    rim = 0.45
    # A chirp: its local frequency grows linearly to size / 8 cycles per coordinate unit, four pixels a period.
    rings = 0.5 + 0.5 * np.cos(2 * np.pi * size / 16 / rim * radius**2)
    picture = np.empty((size, size, 3))
    picture[:] = (0.82, 0.84, 0.86)
    shapes = (
        ((np.abs(x + 0.7) < 0.16) & (np.abs(y + 0.7) < 0.16), (0.80, 0.20, 0.18)),
        (np.hypot(x - 0.7, y + 0.7) < 0.18, (0.15, 0.45, 0.75)),
        (np.abs(x + 0.7) + np.abs(y - 0.7) < 0.22, (0.95, 0.75, 0.15)),
        ((y - 0.88 < 0) & (y - 0.52 > 2 * np.abs(x - 0.7)), (0.20, 0.60, 0.35)),
    )
    for inside, colour in shapes:
        picture[inside] = colour
    middle = radius < rim
    tint = np.array([1.0, 0.85, 0.6])
    picture[middle] = (rings[..., None] * tint)[middle]
    if channels == 1:
        picture = picture.mean(-1, keepdims=True)
    return signal_from_array(np.rint(picture * 255).astype(np.uint8), "toy")
