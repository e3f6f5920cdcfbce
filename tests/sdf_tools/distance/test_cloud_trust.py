from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from primitives import cloud, sphere

from sdf_tools.distance.cloud_distance import WIDTH, CloudDistance, spheres_plainly
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import PointCloud
from sdf_tools.spatial.neighbours import nearest_neighbours


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


def test_points_weigh_by_the_area_they_stand_for_and_by_confidence() -> None:
    dense, sparse = cloud(8000), cloud(1000)
    keep = dense.points[:, 2] > 0
    points = torch.cat([dense.points[keep], sparse.points[sparse.points[:, 2] < 0]])
    uneven = PointCloud(points, torch.nn.functional.normalize(points, dim=1))
    weights = SignedDistance(uneven).point_weights()
    assert weights is not None
    upper = (points[:, 2] > 0.1).numpy()
    lower = (points[:, 2] < -0.1).numpy()
    assert weights[upper].sum() == pytest.approx(weights[lower].sum(), rel=0.15)
    doubted = replace(uneven, confidence=torch.where(points[:, 0] > 0, 1.0, 0.25).double())
    halved = SignedDistance(doubted).point_weights()
    assert halved is not None
    left, right = (points[:, 0] < -0.1).numpy(), (points[:, 0] > 0.1).numpy()
    np.testing.assert_allclose(halved[right], weights[right])
    np.testing.assert_allclose(halved[left], 0.25 * weights[left])
    assert SignedDistance(sphere()).point_weights() is None
    plain = SignedDistance(uneven, method="knn_mean").point_weights()
    assert plain is not None and (plain == 1).all()


def test_confident_points_decide_where_others_contradict_them() -> None:
    good = cloud(3000)
    assert good.normals is not None
    doubtful = PointCloud(1.02 * good.points, good.normals)  # a second layer
    both = PointCloud(torch.cat([good.points, doubtful.points]), torch.cat([good.normals, good.normals]))
    sure = torch.cat([torch.ones(3000), torch.full((3000,), 0.01)]).double()
    probes = cloud(500).points
    plain, weighed = SignedDistance(both)(probes), SignedDistance(replace(both, confidence=sure))(probes)
    assert weighed.abs().mean() < 0.3 * plain.abs().mean()


def test_a_scattered_cloud_with_normals_is_averaged_over_more_points() -> None:
    good = cloud(6000)
    noise = 0.02 * torch.randn(6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rough = PointCloud(good.points * (1 + noise)[:, None], good.normals)
    error = SignedDistance(rough)(good.points).abs().mean()
    assert error < 0.35 * noise.abs().mean()


@pytest.mark.parametrize("unsigned", [False, True])
def test_the_compiled_mean_is_the_plain_one(unsigned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    good = cloud(2000)
    assert good.normals is not None
    normals = good.normals + 0.1 * torch.randn(2000, 3, generator=generator).double()
    if unsigned:
        normals = normals * torch.where(torch.rand(2000, 1, generator=generator) < 0.5, -1.0, 1.0)
    points = good.points + 0.003 * torch.randn(2000, 3, generator=generator).double()
    distance = CloudDistance(PointCloud(points, torch.nn.functional.normalize(normals, dim=1)), "imls", unsigned)
    asked = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, 3))
    near = nearest_neighbours(distance.points)(asked, 12)
    height, normal = distance._local(asked, *near)
    width = WIDTH * distance._spacing[near[1][:, 0]]
    plain_height, plain_normal = spheres_plainly(
        asked, *near, distance.points, distance.normals, distance.trust, width, unsigned
    )
    np.testing.assert_allclose(height, plain_height, atol=1e-12)
    np.testing.assert_allclose(normal, plain_normal, atol=1e-12)


@pytest.mark.parametrize("count", [200, 2000])
def test_spheres_are_met_however_few_points_there_are(count: int) -> None:
    ball = cloud(count)
    asked = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    radius = 1 + torch.linspace(-0.02, 0.02, 2000).double()
    error = SignedDistance(ball)(asked.double() * radius[:, None]) - (radius - 1)
    assert error.abs().quantile(0.98) < 1e-6


@pytest.mark.parametrize(("half", "count", "most"), [((1.0, 0.05, 0.05), 150, 1e-3), ((1.0, 0.15, 0.02), 300, 4e-3)])
def test_hardly_any_surface_goes_on_beyond_thin_parts(half: tuple[float, ...], count: int, most: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(20 * count, 3, generator=generator).double(), dim=1)
    axes = torch.tensor(half, dtype=torch.float64)
    area = (ball / axes).norm(dim=1)
    ball = ball[torch.rand(20 * count, generator=generator).double() < area / area.max()][:count]
    distance = SignedDistance(PointCloud(ball * axes, torch.nn.functional.normalize(ball / axes, dim=1)))
    asked = (torch.rand(40_000, 3, generator=generator).double() - 0.5) * torch.tensor([2.6, 1.0, 0.8]).double()
    outside = asked[(asked / axes).norm(dim=1) > 1.3]
    assert (distance(outside) < 0).double().mean() < most


def test_a_hole_in_a_ball_is_spanned_by_a_sphere_and_not_by_a_flat_cap() -> None:
    good = cloud(12_000)
    assert good.normals is not None
    kept = good.points[:, 2] < 0.9
    pierced = SignedDistance(PointCloud(good.points[kept], good.normals[kept]))
    up = torch.linspace(0.75, 1.15, 41).double()
    found = pierced(torch.stack([torch.zeros(41), torch.zeros(41), up], 1).double())
    # The cap is a tenth of the radius high; a flat one would end at 0.9.
    crossing = up[int((found < 0).sum())]
    assert 0.97 < crossing < 1.03
    assert (found.diff() > 0).all() and found.diff().max() < 0.05  # to a flat one it jumped from -0.4 to 0.4


def test_strays_that_were_left_make_no_body_of_the_space_around() -> None:
    good = cloud(20_000)
    assert good.normals is not None
    generator = torch.Generator().manual_seed(0)
    stray = 3 * torch.rand(40, 3, generator=generator, dtype=torch.float64) - 1.5
    stray = stray[stray.norm(dim=1) > 1.2]
    sides = torch.nn.functional.normalize(torch.randn(stray.shape, generator=generator, dtype=torch.float64), dim=1)
    distance = SignedDistance(PointCloud(torch.cat([good.points, stray]), torch.cat([good.normals, sides])))
    probes = 3 * torch.rand(20_000, 3, generator=generator, dtype=torch.float64) - 1.5
    probes = probes[(probes.norm(dim=1) > 1.05) & (torch.cdist(probes, stray).amin(1) > 0.2)]
    assert distance.contains(probes).double().mean() < 0.005  # 0.03 before
