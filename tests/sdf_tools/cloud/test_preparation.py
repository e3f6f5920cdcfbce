from __future__ import annotations

import pytest
import torch
from primitives import box, sphere

from sdf_tools.cloud.preparation import merge_equal, prepare_cloud
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.sampling import sample_surface

BALL = sphere(subdivisions=4)


def samples(mesh: Mesh = BALL, count: int = 8000) -> torch.Tensor:
    return sample_surface(mesh, count).points


def noise(count: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outward(normals: torch.Tensor, points: torch.Tensor) -> float:
    return float(((normals * points).sum(1) > 0).double().mean())


def test_equal_points_become_one_and_keep_their_order() -> None:
    points = samples(count=500)
    cloud = PointCloud(points.repeat_interleave(4, 0), points.repeat_interleave(4, 0), torch.arange(2000))
    merged = merge_equal(cloud)
    assert torch.equal(merged.points, points) and merged.normals is not None and merged.scan_ids is not None
    assert torch.allclose(merged.normals, torch.nn.functional.normalize(points, dim=1))
    assert torch.equal(merged.scan_ids, torch.arange(0, 2000, 4))
    assert merge_equal(merged) is merged
    prepared = prepare_cloud(PointCloud(samples().repeat_interleave(4, 0)))
    assert prepared.said == ("merged 24,000 repeated points",)
    assert prepared.cloud.normals is not None and outward(prepared.cloud.normals, prepared.cloud.points) == 1


@pytest.mark.parametrize("share", [0.003, 0.01])
def test_noise_goes_and_normals_point_outward(share: float) -> None:
    scatter = share * 12**0.5
    raw = samples() + noise(8000, scatter)
    prepared = prepare_cloud(PointCloud(raw))
    assert prepared.quality is not None and prepared.quality.noise == pytest.approx(scatter, rel=0.2)
    assert any("noise about" in sentence for sentence in prepared.said)
    cleaned, normals = prepared.cloud.points, prepared.cloud.normals
    assert normals is not None and outward(normals, cleaned) > 0.999
    before, after = (raw.norm(dim=1) - 1).abs().mean(), (cleaned.norm(dim=1) - 1).abs().mean()
    assert after < 0.35 * before
    angle = torch.rad2deg(torch.acos((normals * torch.nn.functional.normalize(cleaned, dim=1)).sum(1).clamp(-1, 1)))
    assert angle.mean() < 8


def test_edges_of_a_box_survive_a_little_noise() -> None:
    cube = box()
    half = (cube.vertices.amax(0) - cube.vertices.amin(0)) / 2
    middle = (cube.vertices.amax(0) + cube.vertices.amin(0)) / 2
    raw = samples(cube, 20_000) + noise(20_000, 0.001 * float(2 * half.norm()))
    cleaned = prepare_cloud(PointCloud(raw)).cloud.points
    away = lambda points: ((points - middle).abs() - half).amax(1).abs()  # noqa: E731
    assert away(cleaned).mean() < 0.6 * away(raw).mean()
    assert away(cleaned).quantile(0.99) <= away(raw).quantile(0.99)


def test_noise_from_one_pole_to_the_other_goes_and_the_clear_pole_counts_more() -> None:
    points = samples(count=20_000)
    raw = points + noise(20_000, 0.04) * (points[:, 2:] + 1.05) / 2
    prepared = prepare_cloud(PointCloud(raw))
    assert any(sentence.startswith("noise from about") for sentence in prepared.said)
    cleaned, confidence = prepared.cloud.points, prepared.cloud.confidence
    assert confidence is not None and confidence.min() > 0 and confidence.max() == 1
    for side in (1, -1):
        cap = side * cleaned[:, 2] > 0.5
        before = (raw[side * points[:, 2] > 0.5].norm(dim=1) - 1).abs().mean()
        assert (cleaned[cap].norm(dim=1) - 1).abs().mean() < 0.5 * before
    assert confidence[cleaned[:, 2] < -0.5].mean() > 2 * confidence[cleaned[:, 2] > 0.5].mean()
    halved = prepare_cloud(PointCloud(raw, confidence=torch.full((20_000,), 0.5).double())).cloud.confidence
    assert halved is not None and torch.equal(halved, confidence / 2)


def test_clean_clouds_and_their_normals_stay_as_they_are() -> None:
    points = samples()
    given = PointCloud(points, torch.nn.functional.normalize(points, dim=1))
    prepared = prepare_cloud(given)
    assert prepared.said == () and prepared.cloud is given
    bare = prepare_cloud(PointCloud(points), normals=False)
    assert bare.cloud.normals is None and torch.equal(bare.cloud.points, points)


def test_strays_beside_given_normals_go_unless_kept() -> None:
    points = samples()
    stray = torch.tensor([[60.0, 0, 0], [0, -80.0, 3], [5, 5, 90]], dtype=torch.float64)
    cloud = PointCloud(torch.cat([points, stray]), torch.nn.functional.normalize(torch.cat([points, stray]), dim=1))
    prepared = prepare_cloud(cloud)
    assert torch.equal(prepared.cloud.points, points)
    assert prepared.said == ("left out 3 points that lie far from all others",)
    assert len(prepare_cloud(cloud, keep_outliers=True).cloud.points) == 8003


def test_few_points_pass_through() -> None:
    for count in (1, 3, 10):
        cloud = PointCloud(noise(count, 1.0))
        assert len(prepare_cloud(cloud, normals=False).cloud.points) == count


def test_rows_of_a_scanner_are_thinned_to_what_they_tell() -> None:
    many = samples(count=400_000)
    rows = torch.round(many[:, 2] / 0.08) * 0.08
    cloud = PointCloud(many[(many[:, 2] - rows).abs() < 0.0008])
    prepared = prepare_cloud(cloud)
    assert any("points lie in rows" in sentence for sentence in prepared.said)
    normals, points = prepared.cloud.normals, prepared.cloud.points
    assert normals is not None and len(points) < 0.6 * len(cloud.points)
    angle = torch.rad2deg(torch.acos((normals * torch.nn.functional.normalize(points, dim=1)).sum(1).clamp(-1, 1)))
    assert angle.median() < 6 and outward(normals, points) > 0.99


def test_points_next_to_equal_become_one_and_others_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    once = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator).double(), dim=1)
    twice = torch.cat([once, once + 1e-7 * torch.randn(3000, 3, generator=generator).double()])
    prepared = prepare_cloud(PointCloud(twice))
    assert 2900 < len(prepared.cloud.points) <= 3000 and any("next to equal" in note for note in prepared.said)
    assert len(prepare_cloud(PointCloud(once)).cloud.points) == 3000
