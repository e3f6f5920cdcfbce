from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from primitives import box, box_distance, cloud, sphere

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import PointCloud, normalize
from sdf_tools.pools import COARSE, FINE, UNIFORM, PoolConfig, build_sdf_pool


def small_box():  # type: ignore[no-untyped-def]
    return replace(box(), vertices=box().vertices * 0.8)


def test_distances_and_proportions() -> None:
    seen: list[float] = []
    pool = build_sdf_pool(small_box(), 10_000, uniform_share=0.2, progress=seen.append)
    assert pool.counts == (4000, 4000, 2000) and len(pool) == 10_000 and seen[-1] == 1.0
    assert pool.points.dtype == pool.sdf.dtype == torch.float32 and pool.kind.dtype == torch.uint8
    assert torch.allclose(pool.sdf, box_distance(pool.points / 0.8) * 0.8, atol=1e-6)
    assert pool.points.abs().max() <= 0.5
    size = {k: float(pool.sdf[pool.kind == k].abs().mean()) for k in (FINE, COARSE, UNIFORM)}
    assert size[FINE] < 0.0015 < 0.03 < size[COARSE] < 0.12


def test_batches_are_fixed_in_kind_and_reproducible() -> None:
    pool = build_sdf_pool(small_box(), 1000, uniform_share=0.1)
    batch = pool.batch(100, 3)
    assert torch.equal(batch.points, pool.batch(100, 3).points) and batch.counts == (45, 45, 10)
    assert batch.kind.tolist() == [0] * 45 + [1] * 45 + [2] * 10
    for step in range(-2, 12):
        batch = pool.batch(64, step)
        assert batch.points.shape == (64, 3) and torch.allclose(
            batch.sdf, box_distance(batch.points / 0.8) * 0.8, atol=1e-6
        )
    only = build_sdf_pool(small_box(), 100, uniform_share=1.0)
    assert only.batch(10, 0).kind.tolist() == [2] * 10
    assert torch.equal(build_sdf_pool(small_box(), 500, seed=2).sdf, build_sdf_pool(small_box(), 500, seed=2).sdf)


def test_every_point_is_dealt_before_one_comes_again() -> None:
    pool = build_sdf_pool(small_box(), 1000, uniform_share=0.1)
    turns = [[pool.batch(100, 10 * turn + step).sdf for step in range(10)] for turn in range(2)]
    for hands in turns:
        assert torch.equal(torch.cat(hands).sort().values, pool.sdf.sort().values)
    assert not torch.equal(turns[0][0], turns[1][0])  # the second turn deals other hands
    assert pool.batch(3000, 1).sdf.shape == (3000,)  # a batch larger than the pool


def test_point_cloud_pool() -> None:
    shape = normalize(cloud(2000)).shape
    pool = build_sdf_pool(shape, 3000)
    truth = pool.points.norm(dim=1) - 0.45
    assert (pool.sdf - truth).abs().mean() < 2e-3
    with pytest.raises(ValueError, match="no normals"):
        build_sdf_pool(PointCloud(shape.points), 100)  # type: ignore[union-attr]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="normalize it first"):
        build_sdf_pool(sphere(), 100)
    with pytest.raises(ValueError, match="positive"):
        build_sdf_pool(small_box(), 0)


def test_several_coarse_scales_share_the_coarse_half() -> None:
    pool = build_sdf_pool(small_box(), 9000, coarse_scale=(0.005, 0.1), uniform_share=0.0)
    assert pool.counts == (4500, 4500, 0)
    # Half close to the surface, half far from it, in mixed order.
    coarse = pool.sdf[pool.kind == COARSE].abs()
    sizes = coarse.sort().values
    assert sizes[:2250].mean() < 0.006 < 0.03 < sizes[2250:].mean()
    assert coarse[:2250].mean() == pytest.approx(float(coarse[2250:].mean()), rel=0.1)


@pytest.mark.parametrize("count", [90, 700])
def test_consecutive_batches_in_one_block_are_the_same_batches(count: int) -> None:
    pool = build_sdf_pool(normalize(sphere(2)).shape, 1_003, uniform_share=0.17)
    block = pool.batches(count, 5, 30)  # several turns of each deck, and of 700 points more than one turn in a batch
    assert block.shape == (30, count, 4)
    for index, rows in enumerate(block):
        batch = pool.batch(count, 5 + index)
        assert torch.equal(rows[:, :3], batch.points) and torch.equal(rows[:, 3], batch.sdf)


def test_nearest_points_are_the_papers_distances() -> None:
    from scipy.spatial import cKDTree

    ball = sphere(0.4, subdivisions=3)
    config = PoolConfig(pool_size=4_000, coarse_scales=(0.1,), uniform_share=0.0, distances="nearest_points")
    pool = config.build_pool(ball)
    points, normals = pool.points.double(), torch.nn.functional.normalize(ball.vertices, dim=1)
    nearest = cKDTree(ball.vertices.numpy()).query(points.numpy(), k=3)[1]
    expected = ((points - ball.vertices[nearest[:, 0]]) * normals[nearest].mean(1)).sum(1)
    assert torch.allclose(pool.sdf.double(), expected, atol=1e-3)
    exact = PoolConfig(pool_size=4_000, coarse_scales=(0.1,), uniform_share=0.0).build_pool(ball)
    assert not torch.equal(pool.sdf, exact.sdf)


def test_a_renewed_pool_deals_every_point_once() -> None:
    config = PoolConfig(pool_size=1_000, points_per_batch=250, uniform_share=0.0, renewed=True)
    pool = config.build_pool(small_box())
    dealer = config.dealer(pool, small_box())
    batches = [dealer.batch(250, step) for step in range(12)]
    points = torch.cat([batch.points for batch in batches])
    assert len(points.unique(dim=0)) == len(points) == 3_000
    assert torch.equal(batches[1].points, pool.batch(250, 1).points)
    assert torch.allclose(batches[9].sdf, box_distance(batches[9].points / 0.8) * 0.8, atol=1e-6)
    again = config.dealer(pool, small_box())
    assert torch.equal(again.batch(250, 9).points, batches[9].points)  # a step alone decides, also after a restart
    assert torch.equal(again.batch(250, 2).points, batches[2].points)
    assert PoolConfig().dealer(pool, small_box()) is pool


def test_a_clouds_samples_cover_its_surface_evenly_and_doubtful_points_less() -> None:
    dense, sparse = cloud(8000), cloud(1000)
    points = torch.cat([dense.points[dense.points[:, 2] > 0], sparse.points[sparse.points[:, 2] < 0]])
    uneven = PointCloud(0.45 * points, torch.nn.functional.normalize(points, dim=1))
    fine = build_sdf_pool(uneven, 40_000, uniform_share=0.0).points[:20_000]
    share = float((fine[:, 2] > 0).double().mean())
    assert share == pytest.approx(0.5, abs=0.05)  # of the points it is eight ninths
    doubted = replace(uneven, confidence=torch.where(points[:, 0] > 0, 1.0, 0.25).double())
    fine = build_sdf_pool(doubted, 40_000, uniform_share=0.0).points[:20_000]
    assert float((fine[:, 0] > 0).double().mean()) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("distances", ["exact", "nearest_points"])
def test_unsigned_pools_stay_unsigned(distances: Literal["exact", "nearest_points"]) -> None:
    ball = sphere(0.4, subdivisions=3)
    config = PoolConfig(points_per_batch=500, pool_size=1_000, uniform_share=0.5, renewed=True, distances=distances)
    ready = SignedDistance(ball, sign="unsigned")
    for given in ({"sign": "unsigned"}, {"distance": ready}):
        pool = config.build_pool(ball, **given)
        later = config.dealer(pool, ball, **given).batch(500, 5)
        assert pool.sdf.min() >= 0 and later.sdf.min() >= 0 and not torch.equal(later.points, pool.batch(500, 1).points)
