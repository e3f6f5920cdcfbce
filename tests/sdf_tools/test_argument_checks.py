"""Arguments of samplers and metrics from which nothing can be drawn or measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdf_tools import PointCloud, metrics, sampling
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=16)


SAMPLERS: list[Callable[..., Any]] = [
    sampling.sample_surface,
    sampling.sample_poisson_disk,
    sampling.sample_curvature,
    sampling.sample_sharp_edges,
    sampling.sample_volume,
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_counts_and_seeds_below_zero_are_refused(sampler: Callable[..., Any], ball: Mesh) -> None:
    with pytest.raises(ValueError, match=r"count must (not be negative, not -1|be at least 1)"):
        sampler(ball, -1)
    with pytest.raises(ValueError, match="seed must not be negative, not -1"):
        sampler(ball, 3, seed=-1, **({"angle": 1.0} if sampler is sampling.sample_sharp_edges else {}))


def test_no_samples_are_an_empty_answer(ball: Mesh) -> None:
    inside = sampling.sample_volume(ball, 0)
    assert inside.shape == sampling.sample_surface(ball, 0).points.shape == (0, 3) and inside.dtype == torch.float64
    assert sampling.sample_near_surface(ball, 0, 0.1).shape == (0, 3)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -0.1])
def test_noise_without_a_scale_is_refused(ball: Mesh, scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be 0 or more and finite, not {scale}"):
        sampling.sample_near_surface(ball, 3, scale)


@pytest.mark.parametrize("bounds", [math.nan, -1.0])
def test_noise_within_no_bounds_is_refused(ball: Mesh, bounds: float) -> None:
    with pytest.raises(ValueError, match=f"bounds must be more than 0, not {bounds}"):
        sampling.sample_near_surface(ball, 3, 0.1, bounds=bounds)


def test_a_query_that_is_nowhere_has_no_nearest_point() -> None:
    points = torch.tensor([[3.0, 4, 0], [9, 9, 9]])
    queries = torch.tensor([[math.nan, 0, 0], [0, 0, 0], [0, math.inf, 0]])
    found = metrics.nearest_distances(queries, points)
    assert found.isnan().tolist() == [True, False, True] and found[1] == 5 and found.dtype == torch.float64
    assert torch.equal(metrics.nearest_distances(queries[1:2], points), found[1:2])
    assert metrics.nearest_distances(queries[:0], points).shape == (0,)
    with pytest.raises(ValueError, match="points must be finite"):
        metrics.nearest_distances(points, queries)


def test_metrics_need_samples_and_a_seed(ball: Mesh) -> None:
    cloud = PointCloud(ball.vertices)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"samples must be at least 1, not {count}"):
            metrics.chamfer(ball, ball, "deepsdf", samples=count)
        with pytest.raises(ValueError, match=f"samples must be at least 1, not {count}"):
            metrics.evaluate(ball, ball, samples=count)
        with pytest.raises(ValueError, match=f"samples must be at least 1, not {count}"):
            metrics.evaluate_cloud(cloud, ball, samples=count)
    for overlap in (metrics.iou, lambda a, b, samples: metrics.iou_near_surface(a, b, 0.1, samples)):
        with pytest.raises(ValueError, match="samples must be at least 0, not -1"):
            overlap(ball, ball, samples=-1)
    with pytest.raises(ValueError, match="iou_samples must be at least 0, not -1"):
        metrics.evaluate(ball, ball, iou_samples=-1)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed must be from 0 to 9223372036854775807, not {seed}"):
            metrics.evaluate(ball, ball, seed=seed)
