from __future__ import annotations

import pytest
import torch
from primitives import cloud, sphere

from sdf_tools.cloud.outliers import drop_outliers, find_outliers
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import PointCloud
from sdf_tools.sampling import sample_surface


def test_stray_points_go_and_uneven_sampling_stays() -> None:
    dense, sparse = sample_surface(sphere(subdivisions=3), 6000).points, sample_surface(sphere(), 300).points
    uneven = torch.cat([dense[dense[:, 2] > 0], sparse[sparse[:, 2] < 0]])
    clean = PointCloud(uneven, scan_ids=torch.zeros(len(uneven), dtype=torch.int64))
    assert drop_outliers(clean) == (clean, 0)
    # One far off, three together, one nearer the dense side.
    stray = torch.tensor([[9.0, 0, 0], [0, 3, 0], [0, 3.01, 0], [0, 3, 0.01], [0, 0, 2]], dtype=torch.float64)
    dirty = PointCloud(torch.cat([stray, uneven]), scan_ids=torch.arange(len(uneven) + 5))
    kept, dropped = drop_outliers(dirty)
    assert dropped == 5 and torch.equal(kept.points, uneven)
    assert kept.scan_ids is not None and kept.scan_ids[0] == 5


def test_unsigned_distance_needs_no_sides() -> None:
    oriented = cloud(6000)
    flipped = oriented.points * (torch.arange(6000) % 2 * 2 - 1)[:, None]
    queries = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = (queries.norm(dim=1) - 1).abs()
    for bare in (PointCloud(oriented.points), PointCloud(oriented.points, flipped)):
        distance = SignedDistance(bare, sign="unsigned")
        found = distance(queries)
        assert distance.sign == "unsigned" and found.min() >= 0
        assert (found - truth).abs().mean() < 2e-4 and (found - truth).abs().max() < 5e-3
        assert not distance.contains(queries).any()


def uniform(count: int, half: float, seed: int = 2) -> torch.Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5) * 2 * half


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
def test_uniform_strays_go_and_no_good_point_does(share: float) -> None:
    good = sample_surface(sphere(subdivisions=4), 10_000).points
    bad = uniform(round(10_000 * share / (1 - share)), 1.2)
    bad = bad[(bad.norm(dim=1) - 1).abs() > 0.1]
    found = find_outliers(PointCloud(torch.cat([good, bad])))
    assert found.keep[: len(good)].all()
    assert found.keep[len(good) :].double().mean() < 0.01
    assert "far from all others" in str(found)


def test_a_stray_beyond_an_edge_goes_though_it_lies_in_the_plane() -> None:
    sheet = torch.cat([uniform(10_000, 1.0)[:, :2], torch.zeros(10_000, 1, dtype=torch.float64)], 1)
    # Not eight times as far away as its neighbours are from theirs, and at no height above them.
    stray = torch.tensor([[1.06, 0.2, 0.0], [-0.3, -1.07, 0.0]], dtype=torch.float64)
    found = find_outliers(PointCloud(torch.cat([sheet, stray])))
    assert found.keep[:-2].all() and not found.keep[-2:].any()


def test_stray_clusters_go_and_uneven_or_separate_surfaces_stay() -> None:
    ball = sample_surface(sphere(subdivisions=4), 10_000).points
    blobs = [
        torch.tensor(place).double() + 0.05 * uniform(300, 1, seed)
        for seed, place in enumerate([[2.0, 0, 0], [0, 1.6, 1]])
    ]
    found = find_outliers(PointCloud(torch.cat([ball, *blobs])))
    assert found.keep[:10_000].all() and not found.keep[10_000:].any()
    assert "clusters that are no surface" in str(found)
    # Density falls 50 to 1 from pole to pole.
    many = sample_surface(sphere(subdivisions=4), 100_000).points
    chance = 50 ** (-(many[:, 2] + 1) / 2)
    uneven = many[torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < chance / 3]
    assert find_outliers(PointCloud(uneven)).count == 0
    other = sample_surface(sphere(0.3, (1.6, 0, 0)), 900).points
    assert find_outliers(PointCloud(torch.cat([ball, other]))).count == 0


def test_a_far_piece_is_reported_with_its_cost() -> None:
    ball, far = sample_surface(sphere(subdivisions=4), 6000).points, sample_surface(sphere(), 900).points
    found = find_outliers(PointCloud(torch.cat([ball, far + torch.tensor([20.0, 0, 0])])))
    assert found.count == 0
    assert "900 points" in found.far and "11 times smaller" in found.far


def test_sparse_folds_of_an_uneven_cloud_stay() -> None:
    # Density falls fifty to one along three sheets, closer together than their points at the far end.
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(60_000, 2, generator=generator, dtype=torch.float64)
    kept = torch.rand(60_000, generator=generator) < 50 ** -plane[:, 0]
    sheet = torch.randint(3, (60_000,), generator=generator)
    points = torch.cat([plane, 0.02 * sheet[:, None].double()], dim=1)[kept]
    found = find_outliers(PointCloud(points))
    assert found.count <= 0.001 * len(points)


def test_large_clusters_of_strays_go_and_a_second_body_stays() -> None:
    ball = sample_surface(sphere(subdivisions=4), 5000).points
    blob = 0.1 * torch.randn(900, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    second = sample_surface(sphere(0.4, (2.0, 0, 0), subdivisions=3), 900).points
    found = find_outliers(PointCloud(torch.cat([ball, second, blob + torch.tensor([0.0, 2.0, 0.0])])))
    assert found.keep[:5900].all() and found.keep[5900:].double().mean() < 0.01
