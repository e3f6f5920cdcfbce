from __future__ import annotations

from pathlib import Path

import pytest
import torch
from primitives import sphere

from sdf_tools.cloud.normals import estimate_normals, orient_normals, with_normals
from sdf_tools.cloud.preparation import prepare_cloud
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.sampling import sample_surface

WATERTIGHT = [
    "armadillo.obj",
    "lucy.ply",
    "bunny.ply",
    "dragon_435k.npz",
    "fandisk.obj",
    "ADIS16480.stl",
    "spot.obj",
]


def outward(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a * b).sum(1) > 0).double().mean())


def test_planes_are_flat_and_lines_are_unreliable() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(300, 3, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 0.0])
    normals, reliability = estimate_normals(flat)
    assert torch.allclose(normals[:, 2].abs(), torch.ones(300).double()) and reliability.min() > 0.999
    line = torch.rand(300, 1, dtype=torch.float64, generator=generator) * torch.tensor([[1.0, 2, 3]]).double()
    assert estimate_normals(line)[1].max() < 0.01
    ball = torch.randn(300, 3, generator=generator)
    normals, reliability = estimate_normals(ball)
    assert normals.dtype == torch.float32 and reliability.mean() < 0.9
    with pytest.raises(ShapeError, match="at least 4"):
        estimate_normals(ball[:3])


def test_planes_are_those_of_the_neighbours_covariance() -> None:
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normals, reliability = estimate_normals(points, 9)
    nearest = points[torch.cdist(points, points).topk(9, largest=False).indices]
    away = nearest - nearest.mean(1, keepdim=True)
    variance, axes = torch.linalg.eigh(away.mT @ away)
    assert torch.allclose((normals * axes[:, :, 0]).sum(1).abs(), torch.ones(400).double(), atol=1e-12)
    assert torch.allclose(reliability, 1 - variance[:, 0] / variance[:, 1], atol=1e-12)


def test_each_point_may_have_its_own_number_of_neighbours() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.tensor([8, 20, 8, 40, 9]).repeat(100)
    normals, reliability = estimate_normals(points, counts)
    for count in (8, 9, 20, 40):
        same, rows = estimate_normals(points, count), counts == count
        assert torch.equal(normals[rows], same[0][rows]) and torch.equal(reliability[rows], same[1][rows])
    with pytest.raises(ValueError, match="at least 4, not 3"):
        estimate_normals(points, torch.full((500,), 3))


@pytest.mark.parametrize("method", ["winding", "mst"])
def test_sphere_is_oriented_outward(method: str) -> None:
    points = sample_surface(sphere(subdivisions=3), 1500).points + 100
    normals, _ = estimate_normals(points, 10)
    assert outward(normals, points - 100) < 0.9
    turned = orient_normals(points, normals, method)
    assert outward(turned, points - 100) == 1.0
    assert torch.allclose(turned.norm(dim=1), torch.ones(1500).double())


def test_viewpoints_and_scans() -> None:
    points = sample_surface(sphere(subdivisions=3), 3000).points
    normals, _ = estimate_normals(points, 10)
    half = points[:, 2] > 0.1
    seen = orient_normals(points[half], normals[half], "viewpoints", viewpoints=torch.tensor([0.0, 0, 50]))
    assert outward(seen, torch.tensor([0.0, 0, 1]).expand_as(seen)) > 0.99
    # Six scans that overlap, each the part of the sphere that faces one axis.
    parts, ids = [], []
    for axis in range(3):
        for side in (-1, 1):
            parts.append(torch.nonzero(side * points[:, axis] > 0.3)[:, 0])
            ids.append(torch.full_like(parts[-1], len(ids)))
    chosen = torch.cat(parts)
    turned = orient_normals(points[chosen], normals[chosen], "scans", scan_ids=torch.cat(ids))
    assert outward(turned, points[chosen]) > 0.999
    for method, missing in (("scans", "scan_ids"), ("viewpoints", "viewpoints"), ("guess", "method")):
        with pytest.raises(ValueError, match=missing):
            orient_normals(points, normals, method)


def test_with_normals_keeps_what_is_there() -> None:
    points = sample_surface(sphere(subdivisions=3), 800).points
    assert outward(with_normals(PointCloud(points)).normals, points) == 1.0  # type: ignore[arg-type]
    cloud = PointCloud(points, -points)
    assert with_normals(cloud) is cloud


def oriented_share(path: Path, count: int, noise: float, seed: int = 1) -> tuple[float, float]:
    """The share oriented like the sampled face, and like the face nearest to the noisy point."""
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.io.loading import load

    mesh = load(path)
    assert isinstance(mesh, Mesh)
    samples = sample_surface(mesh, count, seed=seed)
    diagonal = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm()
    shift = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = samples.points + shift * noise * diagonal
    normals, _ = estimate_normals(points, 16 if noise else 10)
    turned = orient_normals(points, normals)
    nearest = SignedDistance(mesh, sign="unsigned").closest(points).normals
    return outward(turned, samples.normals), outward(turned, nearest)


@pytest.mark.parametrize("name", ["spot.obj", "fandisk.obj"])
def test_real_meshes_quick(shared_data: Path, name: str) -> None:
    assert oriented_share(shared_data / "meshes" / name, 4000, 0.0)[0] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", WATERTIGHT)
def test_real_meshes_clean(shared_data: Path, name: str) -> None:
    # The method's constants were chosen on the samples of seeds 1 and 2, so another seed is asked. ADIS16480, whose
    # bores are about as wide as the spacing of the points, is the closest to the bound.
    assert oriented_share(shared_data / "meshes" / name, 20_000, 0.0, seed=5)[0] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", WATERTIGHT)
def test_real_meshes_noisy(shared_data: Path, name: str) -> None:
    # Lucy's sheets and the bores of ADIS16480 are about as thin as the noise: even the nearest face of the true mesh
    # is the sampled one's side for 97.9 % and 99.1 % of their points only. Reached: 98.2 % and 98.4 %.
    least = 0.98 if name in ("lucy.ply", "ADIS16480.stl") else 0.99
    assert oriented_share(shared_data / "meshes" / name, 20_000, 0.002)[0] >= least


@pytest.mark.slow
@pytest.mark.parametrize("method", ["winding", "mst", "scans"])
def test_raw_bunny_scans(shared_data: Path, method: str) -> None:
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.io.loading import load

    scans = load(shared_data / "meshes" / "bunny_raw_scans_362k.npz")
    assert isinstance(scans, PointCloud)
    truth = SignedDistance(load(shared_data / "meshes" / "bunny_zippered.ply")).closest(scans.points).normals
    normals, _ = estimate_normals(scans.points, 40)
    assert outward(orient_normals(scans.points, normals, method, scan_ids=scans.scan_ids), truth) >= 0.99


@pytest.mark.parametrize("relief", [0.0, 1e-3])
def test_a_flat_grid_keeps_its_planes_normals_and_is_an_open_sheet(relief: float) -> None:
    """The field of points in a plane lies in the plane, and is no better than the normals that it would replace."""
    x, y = torch.meshgrid(*[torch.linspace(0, 1, 20, dtype=torch.float64)] * 2, indexing="ij")
    points = torch.stack([x, y, relief * torch.sin(6 * x)], -1).reshape(-1, 3)
    normals = orient_normals(points, estimate_normals(points)[0])
    assert float(normals[:, 2].abs().min()) > 0.99
    prepared = prepare_cloud(PointCloud(points))
    assert any("open sheet" in said for said in prepared.said)
    assert float((prepared.cloud.normals[:, 2] * prepared.cloud.normals[0, 2]).min()) > 0.99


@pytest.mark.parametrize("method", ["winding", "mst"])
def test_points_that_are_there_many_times_get_the_normals_of_one(method: str) -> None:
    points = sample_surface(sphere(), 1000).points
    alone, repeated = with_normals(PointCloud(points), method=method), points.repeat(13, 1)
    many = with_normals(PointCloud(repeated), method=method)
    assert alone.normals is not None and many.normals is not None
    assert torch.equal(many.normals, alone.normals.repeat(13, 1)) and outward(alone.normals, points) == 1
    oriented = orient_normals(repeated, many.normals, method, refine=False)
    assert torch.equal(oriented, many.normals)


def test_points_all_at_one_place_have_no_sides() -> None:
    points = torch.ones(100, 3, dtype=torch.float64)
    assert estimate_normals(points)[1].max() == 0
    for method in ("winding", "mst"):
        with pytest.raises(ShapeError, match="All 100 points lie at one place"):
            with_normals(PointCloud(points), method=method)


def test_no_neighbours_and_no_anchors_are_too_few() -> None:
    with pytest.raises(ValueError, match="k must be at least 4, not 0"):
        with_normals(PointCloud(torch.randn(100, 3)), k=0)
    with pytest.raises(ValueError, match="anchors must be at least 2, not 0"):
        orient_normals(torch.randn(100, 3), torch.randn(100, 3), anchors=0)
