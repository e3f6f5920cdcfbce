"""The inside of shapes that are given unevenly: repeated points, dense parts, open meshes, double faces."""

from __future__ import annotations

import pytest
import torch
from primitives import inside_out, sphere

from sdf_tools.cloud.given_normals import check_normals, mend_normals
from sdf_tools.distance import SignedDistance
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.metrics import evaluate_cloud
from sdf_tools.pools import PoolConfig
from sdf_tools.sampling import sample_near_surface


def ball(count: int, radius: float = 1.0, x: float = 0.0, seed: int = 0) -> PointCloud:
    way = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    way = torch.nn.functional.normalize(way, dim=1)
    return PointCloud(radius * way + torch.tensor([x, 0, 0], dtype=torch.float64), way)


def joined(*clouds: PointCloud) -> PointCloud:
    normals = [cloud.normals for cloud in clouds if cloud.normals is not None]
    return PointCloud(torch.cat([cloud.points for cloud in clouds]), torch.cat(normals))


def wrong_signs(cloud: PointCloud) -> float:
    """Share of wrong sides of the unit ball among points away from its surface."""
    points = 2.4 * torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) - 1.2
    radius = points.norm(dim=1)
    points, radius = points[(radius - 1).abs() > 0.1], radius[(radius - 1).abs() > 0.1]
    return float(((SignedDistance(cloud)(points) < 0) != (radius < 1)).double().mean())


@pytest.mark.parametrize("times", [2, 4, 8, 20])
def test_repeated_points_count_once(times: int) -> None:
    once = ball(1500)
    assert once.normals is not None
    cloud = PointCloud(once.points.repeat_interleave(times, 0), once.normals.repeat_interleave(times, 0))
    points = 2 * torch.rand(200, 3, dtype=torch.float64) - 1
    known, found = SignedDistance(once), SignedDistance(cloud)
    torch.testing.assert_close(found(points), known(points))
    a, b = known.point_weights(), found.point_weights()
    assert a is not None and b is not None and b.shape == (1500 * times,)
    assert torch.allclose(torch.from_numpy(b).reshape(1500, times).sum(1), torch.from_numpy(a))
    assert found.closest(points).faces.max() < len(cloud.points)


def test_a_dense_part_does_not_make_strays_of_the_rest() -> None:
    cap = ball(60_000, seed=1)
    assert cap.normals is not None
    on_top = cap.points[:, 2] > 0.9
    assert wrong_signs(joined(ball(600), PointCloud(cap.points[on_top], cap.normals[on_top]))) == 0
    assert wrong_signs(joined(ball(2000), ball(2200, 0.02, 1.5, seed=2))) == 0
    strays = PointCloud(
        torch.tensor([[0, 0, 3], [2.5, 0, 0], [0, -4, 0]], dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    )
    assert wrong_signs(joined(ball(2000), strays)) == 0


def test_normals_count_by_their_direction() -> None:
    cloud = ball(1000)
    assert cloud.normals is not None
    points = torch.rand(50, 3, dtype=torch.float64)
    short = SignedDistance(PointCloud(cloud.points, 0.3 * cloud.normals))
    torch.testing.assert_close(short(points), SignedDistance(cloud)(points))


@pytest.mark.parametrize("wall", [0.9, 1.25])
def test_right_normals_of_a_thin_wall_stay_as_they_are(wall: float) -> None:
    """Neighbours on its other side pointed the other way, so that half of them were turned."""
    spacing = (4 * torch.pi / 4000) ** 0.5
    outer, inner = ball(4000), ball(4000, 1 - wall * spacing, seed=1)
    assert inner.normals is not None
    shell = joined(outer, PointCloud(inner.points, -inner.normals))
    assert check_normals(shell).opposed < 0.01
    mended, notes = mend_normals(shell)
    assert notes == [] and mended.normals is not None and torch.equal(mended.normals, shell.normals)  # type: ignore[arg-type]
    assert shell.normals is not None
    turned = torch.where(torch.rand(8000, 1, generator=torch.Generator().manual_seed(0)) < 0.1, -1.0, 1.0)
    assert check_normals(PointCloud(shell.points, turned * shell.normals)).opposed > 0.1


@pytest.mark.parametrize("loose", [None, 3.0, -10.0])
@pytest.mark.parametrize("brim", [2.0, 3.0])
def test_the_side_of_an_open_mesh_does_not_depend_on_its_box(brim: float, loose: float | None) -> None:
    """A hat, closed on top and open below, with a brim; its box's centre lies inside or below."""
    angle = torch.arange(48, dtype=torch.float64) * 2 * torch.pi / 48
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    up = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    vertices = torch.cat([brim * ring, ring, ring + up, up[None]])
    i = torch.arange(48)
    j = (i + 1) % 48
    bands = [torch.cat([torch.stack([a + i, a + j, b + j], 1), torch.stack([a + i, b + j, b + i], 1)])
             for a, b in ((0, 48), (48, 96))]  # fmt: skip
    faces = torch.cat([*bands, torch.stack([96 + i, 96 + j, torch.full_like(i, 144)], 1)])
    if loose is not None:
        vertices = torch.cat([vertices, loose * up[None]])
    distance = SignedDistance(Mesh(vertices, faces))
    assert distance(0.8 * up[None]).item() < 0 < distance(1.2 * up[None]).item()
    assert distance.closest(1.2 * up[None]).normals[0, 2] > 0.99


def test_faces_that_are_there_twice_change_no_inside_of_an_open_mesh() -> None:
    ball_mesh = sphere(subdivisions=3)
    low = ball_mesh.vertices[ball_mesh.faces].mean(1)[:, 2] < 0.5
    cup = ball_mesh.faces[low]
    points = 3 * torch.rand(3000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1.5
    once, twice = (SignedDistance(Mesh(ball_mesh.vertices, faces)) for faces in (cup, torch.cat([cup, cup])))
    assert torch.equal(once(points), twice(points))
    assert int(twice.closest(points).faces.max()) < len(cup)


def test_pools_of_nearest_points_find_the_inside_of_a_mesh_inside_out() -> None:
    mesh = inside_out(sphere(0.4, subdivisions=3))
    pool = PoolConfig(pool_size=2000, distances="nearest_points").build_pool(mesh)
    right = (pool.points.norm(dim=1) < 0.4) == (pool.sdf < 0)
    assert right[(pool.points.norm(dim=1) - 0.4).abs() > 0.02].all()
    loose = Mesh(torch.cat([sphere(0.4).vertices, torch.zeros(1, 3, dtype=torch.float64)]), sphere(0.4).faces)
    pool = PoolConfig(pool_size=20_000, distances="nearest_points").build_pool(loose)
    assert pool.sdf[pool.points.norm(dim=1) < 0.1].max() < -0.2


def test_samples_beside_a_shape_larger_than_their_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reaches 3\.97.* from the origin, beyond bounds 0\.5"):
        sample_near_surface(sphere(4.0), 100, 0.001, bounds=0.5)


def test_a_cloud_whose_normals_are_all_zero_has_no_overlap() -> None:
    cloud = ball(500)
    found = evaluate_cloud(sphere(), PointCloud(cloud.points, 0 * cloud.points), samples=500, iou_samples=500)
    assert found.iou != found.iou and found.accuracy_mean < 0.1
