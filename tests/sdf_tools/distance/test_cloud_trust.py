from __future__ import annotations

import torch
from primitives import cloud, sphere

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import PointCloud


def test_points_that_disagree_with_their_neighbours_count_less() -> None:
    good = cloud(4000)
    assert good.normals is not None
    clean = SignedDistance(good)
    assert clean.trust(good.points).median() > 0.99
    points = good.points.clone()
    moved = torch.arange(0, 4000, 200)
    points[moved] *= 1.1  # three spacings off
    distance = SignedDistance(PointCloud(points, good.normals))
    trust = distance.trust(points)
    assert trust[moved].max() < 0.1
    rest = torch.ones(4000, dtype=torch.bool)
    rest[moved] = False
    assert trust[rest].mean() > 0.9
    # On the surface below them the distance stays near nothing.
    assert distance(good.points[moved]).abs().mean() < 0.015
    mesh = SignedDistance(sphere())
    assert torch.equal(mesh.trust(points), torch.ones(4000, dtype=torch.float64))


def test_a_scattered_cloud_with_normals_is_averaged_over_more_points() -> None:
    good = cloud(6000)
    noise = 0.02 * torch.randn(6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rough = PointCloud(good.points * (1 + noise)[:, None], good.normals)
    error = SignedDistance(rough)(good.points).abs().mean()
    assert error < 0.35 * noise.abs().mean()
