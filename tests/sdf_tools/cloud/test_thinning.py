"""Clouds with more points than are of use."""

import pytest
import torch

from sdf_tools import PointCloud, prepare_cloud
from sdf_tools.cli import Reconstruct
from sdf_tools.cloud.thinning import MOST_POINTS, thin


def sphere(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("most", [500, 5_000])
def test_leaves_about_as_many_as_asked_for_and_no_more(most: int) -> None:
    points = 40 * sphere(60_000) + 1_000
    cloud = PointCloud(points, normals=sphere(60_000), colors=torch.rand(60_000, 3))
    found = thin(cloud, most)
    assert 0.75 * most <= len(found.points) <= most
    assert found.normals is not None and found.colors is not None
    assert len(found.normals) == len(found.colors) == len(found.points)
    assert len(torch.unique(torch.cat([points, found.points]), dim=0)) == len(points)


def test_dense_places_lose_more_than_sparse_ones() -> None:
    points = sphere(60_000)
    dense = sphere(400_000, 1)
    cloud = PointCloud(torch.cat([points, dense[dense[:, 2] > 0.5]]))
    found = thin(cloud, 10_000).points
    share = float((found[:, 2] > 0.5).double().mean())
    assert 0.2 < share < 0.35  # a quarter of the sphere


def test_a_stray_far_away_does_not_coarsen_the_cells() -> None:
    cloud = PointCloud(torch.cat([sphere(50_000), torch.tensor([[1e4, 0, 0]], dtype=torch.float64)]))
    assert 0.75 * 10_000 <= len(thin(cloud, 10_000).points) <= 10_000


def test_equal_points_and_small_clouds() -> None:
    small = PointCloud(sphere(100))
    assert thin(small, 100) is small
    same = PointCloud(torch.ones(1_000, 3))
    assert thin(same, 100) is same
    with pytest.raises(ValueError, match="16 points or more"):
        thin(small, 3)


def test_it_is_said() -> None:
    prepared = prepare_cloud(PointCloud(sphere(30_000)), max_points=10_000)
    assert any("thinned evenly from 30,000 points to" in sentence for sentence in prepared.said)
    assert len(prepared.cloud.points) <= 10_000


def test_the_commands_default_is_the_librarys() -> None:
    assert Reconstruct.max_points == MOST_POINTS  # written out there: --help loads no torch
