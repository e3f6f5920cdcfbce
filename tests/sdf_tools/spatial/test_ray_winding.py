"""Exact winding numbers: the predicate against rational arithmetic, and rays that pass close to edges."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from primitives import box

from sdf_tools import SignedDistance
from sdf_tools.spatial import _triangle_kernels as kernels


def exactly(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> Fraction:
    (ax, ay), (bx, by), (px, py) = ([Fraction(float(x)) for x in v] for v in (a, b, p))
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


def test_a_point_beside_a_line_is_on_the_side_that_rational_arithmetic_says():
    rng = np.random.default_rng(0)
    zero = 0
    for n in range(3000):
        a, b = rng.normal(size=(2, 2)) * 10.0 ** rng.integers(-3, 3)
        p = a + rng.uniform(-1, 2) * (b - a)  # on the line but for rounding
        if n % 3 == 0:
            p = np.nextafter(p, p + rng.normal(size=2))
        if n % 5 == 0:
            b[1] = p[1] = a[1]
        truth = exactly(a, b, p)
        area, left = kernels.is_left(*a, *b, *p)
        assert np.sign(area) == np.sign(float(truth)) and np.sign(kernels.exact_area(*a, *b, *p)) == np.sign(area)
        if truth == 0:
            zero += 1
        else:
            assert left == (truth > 0) and abs(Fraction(float(kernels.exact_area(*a, *b, *p))) / truth - 1) < 1e-15
    assert zero > 500  # the ties are asked as well


@pytest.mark.parametrize("ulps", [1, 2, 5])
def test_points_a_last_digit_outside_a_box_are_outside(ulps: int):
    half, rng = 0.15, np.random.default_rng(ulps)
    distance = SignedDistance(replace(box(), vertices=box().vertices * 2 * half))
    points = rng.uniform(-0.4, 0.4, (20_000, 3))
    for axis in range(3):  # most lie next to the planes of the sides, many next to two or three of them
        beside = rng.random(len(points)) < 0.6
        side = rng.choice([-half, half], len(points))
        points[beside, axis] = (side + side * 2.0**-52 * rng.integers(-ulps, ulps + 1, len(points)))[beside]
    clear = (np.abs(points) != half).all(1)
    inside = (np.abs(points) < half).all(1)
    found = distance.contains(torch.from_numpy(points)).numpy()
    assert (found == inside)[clear].all()
