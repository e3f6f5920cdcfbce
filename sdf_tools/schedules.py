"""Schedules for loss weights: floats from the share of training done, 0 to 1. Outside that range they hold their ends.

>>> linear(0.5, 1.0, 0.0)
0.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def _share(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def constant(progress: float, value: float) -> float:
    """``value`` throughout."""
    del progress
    return value


def linear(progress: float, start: float, end: float) -> float:
    """A straight line from ``start`` to ``end``."""
    return start + (end - start) * _share(progress)


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` to ``end``, flat at both ends (Loshchilov and Hutter, ICLR 2017, eq. 5)."""
    return end + (start - end) * (1 + math.cos(math.pi * _share(progress))) / 2


def exponential(progress: float, start: float, end: float) -> float:
    """A constant factor per step, from ``start`` to ``end``.

    Raises:
        ValueError: an end that is not positive.
    """
    if start <= 0 or end <= 0:
        raise ValueError(f"An exponential schedule needs positive ends; got {start} and {end}.")
    return start * (end / start) ** _share(progress)


def piecewise_linear(progress: float, knots: Sequence[tuple[float, float]]) -> float:
    """Straight lines between ``(progress, value)`` knots in increasing order, constant before and after.

    Raises:
        ValueError: no knots, or knots out of order.
    """
    if not knots or any(b[0] <= a[0] for a, b in zip(knots, knots[1:], strict=False)):
        raise ValueError(f"Knots must be (progress, value) pairs with increasing progress; got {list(knots)}.")
    if progress <= knots[0][0]:
        return float(knots[0][1])
    for (x0, y0), (x1, y1) in zip(knots, knots[1:], strict=False):
        if progress <= x1:
            return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)
    return float(knots[-1][1])


def hold_then_vanish(progress: float, weight: float, hold: float = 0.2, vanish: float = 0.4) -> float:
    """Full ``weight`` up to ``hold``, none from ``vanish`` on, a line in between: how DiGS anneals its divergence term.

    The term shapes the surface early; kept on, it would smooth detail away.
    """
    return piecewise_linear(progress, [(hold, weight), (vanish, 0.0)])
