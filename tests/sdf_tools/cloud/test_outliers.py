from __future__ import annotations

import torch
from primitives import cloud, sphere

from sdf_tools.cloud.outliers import drop_outliers
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
