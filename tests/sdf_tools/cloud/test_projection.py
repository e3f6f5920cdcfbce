"""The compiled fit of quadrics against weighted least squares by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sdf_tools.cloud import _quadric_kernels as kernels
from sdf_tools.cloud.projection import _Cells, project


def _bumps(count: int = 3_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, count))
    points = np.stack([x, y, 0.2 * np.sin(3 * x) + 0.1 * y * y + rng.normal(0, 0.01, count)], 1)
    normals = np.stack([-0.6 * np.cos(3 * x), -0.2 * y, np.ones(count)], 1)
    return points, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _plain_fit(
    points: np.ndarray, sides: np.ndarray, start: np.ndarray, normal: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """One weighted quadric over all points within ``width``: its point over the start, and its normal there."""
    u = np.cross(normal, [1.0, 0.0, 0.0])
    u /= np.linalg.norm(u)
    v = np.cross(normal, u)
    away = points - start
    near = np.linalg.norm(away, axis=1) < width
    away, facing = away[near], np.maximum(sides[near] @ normal, 0)
    root = (1 - (np.linalg.norm(away, axis=1) / width) ** 2) * np.sqrt(facing)
    x, y = away @ u, away @ v
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    c = np.linalg.lstsq(basis * root[:, None], (away @ normal) * root, rcond=None)[0]
    turned = normal - c[1] * u - c[2] * v
    return start + c[0] * normal, turned / np.linalg.norm(turned)


@pytest.mark.parametrize("size", [0.05, 0.3, 5.0])
def test_the_compiled_fit_is_weighted_least_squares_whatever_the_cells(size: float) -> None:
    points, normals = _bumps()
    cells = _Cells(kernels, points, normals, size)
    rng = np.random.default_rng(1)
    starts = points[:50] + rng.normal(0, 0.02, (50, 3))
    widths = rng.uniform(0.15, 0.4, 50)
    out, turned, trust = np.empty((50, 3)), np.empty((50, 3)), np.empty((50, 2))
    kernels.fit_quadrics(
        cells.points, cells.sides, cells.low, cells.size, cells.count, cells.first, starts, normals[:50], widths,
        True, 6, out, turned, trust,
    )  # fmt: skip
    for row in range(50):
        point, normal = _plain_fit(points, normals, starts[row], normals[row], widths[row])
        np.testing.assert_allclose(out[row], point, atol=1e-9)
        np.testing.assert_allclose(turned[row], normal, atol=1e-8)


def test_projection_takes_most_of_the_noise_off() -> None:
    points, normals = _bumps()
    moved, turned, left = project(points, normals, 0.01, 16)

    def off(p: np.ndarray) -> np.ndarray:
        inner = (np.abs(p[:, :2]) < 0.8).all(1)
        return (p[:, 2] - 0.2 * np.sin(3 * p[:, 0]) - 0.1 * p[:, 1] ** 2)[inner]

    assert off(moved).std() < 0.4 * off(points).std()
    assert np.median((turned * normals).sum(1)) > 0.99
    assert 0 < np.median(left) < 0.006


def test_noise_and_neighbours_may_be_each_points_own() -> None:
    points, normals = _bumps()
    same = project(points, normals, 0.01, 16)
    each = project(points, normals, np.full(len(points), 0.01), np.full(len(points), 16))
    for one, other in zip(same, each, strict=True):
        np.testing.assert_array_equal(one, other)
    noise, neighbours = np.where(points[:, 0] > 0, 0.01, 1e-4), np.where(points[:, 0] > 0, 30, 16)
    moved, _, left = project(points, normals, noise, neighbours)
    step = np.linalg.norm(moved - points, axis=1)
    assert left[points[:, 0] > 0.3].mean() < left[points[:, 0] < -0.3].mean()  # wider fits leave less
    assert step[points[:, 0] > 0.3].mean() > step[points[:, 0] < -0.3].mean()
