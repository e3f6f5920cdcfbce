"""Evaluating a field a part at a time: bounded memory, and on a CPU a working set that stays in its caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def chunk_size(device: torch.device) -> int:
    """Points to evaluate at a time: few on a CPU, whose caches they should fit, many elsewhere."""
    return 8_192 if device.type == "cpu" else 262_144


def in_chunks(function: Callable[[Tensor], Tensor], points: Float[Tensor, "N d"]) -> Tensor:
    """``function(points)`` for a function that treats each point by itself.

    Args:
        function: (n, d) points to n values or rows.
        points: (N, d), on the device where they are evaluated.

    Returns:
        What the function gives for all points, joined along the first dimension.
    """
    size = chunk_size(points.device)
    if points.shape[0] <= size:
        return function(points)
    return torch.cat([function(part) for part in points.split(size)])
