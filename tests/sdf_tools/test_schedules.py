from __future__ import annotations

import math

import pytest

from sdf_tools import schedules


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.exponential])
def test_ends_are_met_and_held(schedule):
    assert schedule(-1, 2.0, 0.5) == schedule(0, 2.0, 0.5) == pytest.approx(2.0)
    assert schedule(2, 2.0, 0.5) == schedule(1, 2.0, 0.5) == pytest.approx(0.5)
    values = [schedule(i / 10, 2.0, 0.5) for i in range(11)]
    assert values == sorted(values, reverse=True)


def test_middles():
    assert schedules.constant(0.3, 7.0) == 7.0
    assert schedules.linear(0.25, 4.0, 0.0) == pytest.approx(3.0)
    assert schedules.cosine(0.25, 1.0, 0.0) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert schedules.exponential(0.5, 1.0, 1e-4) == pytest.approx(1e-2)


def test_piecewise_linear_and_hold_then_vanish():
    knots = [(0.2, 1.0), (0.4, 3.0), (1.0, 0.0)]
    assert [schedules.piecewise_linear(p, knots) for p in (0, 0.3, 0.4, 0.7, 1.5)] == pytest.approx([1, 2, 3, 1.5, 0])
    assert [schedules.hold_then_vanish(p, 100.0) for p in (0, 0.2, 0.3, 0.4, 1)] == pytest.approx([100, 100, 50, 0, 0])


def test_bad_arguments():
    with pytest.raises(ValueError, match="positive"):
        schedules.exponential(0.5, 1.0, 0.0)
    for knots in ([], [(0.5, 1.0), (0.5, 2.0)]):
        with pytest.raises(ValueError, match="Knots"):
            schedules.piecewise_linear(0.5, knots)
