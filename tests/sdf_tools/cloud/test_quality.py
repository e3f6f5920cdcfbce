from __future__ import annotations

from pathlib import Path

import pytest
import torch
from primitives import box, sphere

from sdf_tools.cloud.quality import estimate_noise, grid_step
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.sampling import sample_surface


def noisy(mesh: Mesh, count: int, noise: float) -> PointCloud:
    """Samples of a mesh moved by Gaussian noise, a share of the mesh's diagonal."""
    diagonal = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    shift = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return PointCloud(sample_surface(mesh, count).points + shift * noise * diagonal)


@pytest.mark.parametrize("noise", [0.001, 0.004, 0.01])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_noise_and_spacing_are_those_put_in(noise: float, scale: float) -> None:
    mesh = sphere(subdivisions=4)
    cloud = noisy(mesh, 20_000, noise)
    found = estimate_noise(PointCloud(cloud.points * scale + 5 * scale))
    diagonal = 2 * 3**0.5 * scale
    assert found.noise == pytest.approx(noise * diagonal, rel=0.15)
    assert found.spacing == pytest.approx((4 * torch.pi / 20_000) ** 0.5 * scale, rel=0.15)
    assert found.spacings.shape == (20_000,) and found.noise_in_spacings > 0.05
    assert str(found).startswith("noise about ")


def test_clean_clouds_have_none_even_with_edges_and_uneven_density() -> None:
    found = estimate_noise(noisy(box(), 10_000, 0.0))
    assert found.noise == 0 and str(found).startswith("no noise")
    dense, sparse = noisy(sphere(subdivisions=4), 20_000, 0.0).points, noisy(sphere(subdivisions=4), 2_000, 0.0).points
    uneven = torch.cat([dense[dense[:, 2] > 0], sparse[sparse[:, 2] < 0]])
    found = estimate_noise(PointCloud(uneven))
    assert found.noise == 0
    ratio = found.spacings[uneven[:, 2] < -0.1].median() / found.spacings[uneven[:, 2] > 0.1].median()
    assert ratio == pytest.approx(10**0.5, rel=0.1)


def test_too_few_points_are_refused_and_a_few_do_not_crash() -> None:
    with pytest.raises(ShapeError, match="at least 4"):
        estimate_noise(PointCloud(torch.zeros(3, 3)))
    for count in (4, 8, 13):
        assert estimate_noise(PointCloud(torch.randn(count, 3))).noise >= 0
    assert estimate_noise(PointCloud(torch.zeros(50, 3))).noise == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fandisk.obj", "armadillo.obj", "ADIS16480.stl", "spot.obj"])
def test_real_meshes(shared_data: Path, name: str) -> None:
    from sdf_tools.io.loading import load

    mesh = load(shared_data / "meshes" / name)
    assert isinstance(mesh, Mesh)
    assert estimate_noise(noisy(mesh, 30_000, 0.0)).noise == 0
    diagonal = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    for noise in (0.001, 0.0025, 0.005, 0.01):
        assert estimate_noise(noisy(mesh, 30_000, noise)).noise == pytest.approx(noise * diagonal, rel=0.2)


def relief(count: int, noise: float) -> PointCloud:
    """Samples of a plane with relief about as fine as 2,000 of them are apart, moved by noise, a share of the size."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    height = torch.zeros(count, dtype=torch.float64)
    for waves in (8, 12, 18, 27):
        turn = 2.4 * waves
        along = plane[:, 0] * torch.cos(torch.tensor(turn)) + plane[:, 1] * torch.sin(torch.tensor(turn))
        height += 0.02 * 8 / waves * torch.sin(2 * torch.pi * waves * along)
    height += noise * torch.randn(count, generator=generator).double()
    return PointCloud(torch.cat([plane, height[:, None]], dim=1))


def test_relief_that_few_points_show_is_not_taken_for_noise() -> None:
    assert estimate_noise(relief(4000, 0.0)).noise == 0
    assert estimate_noise(relief(4000, 0.01)).noise == pytest.approx(0.01, rel=0.3)


def test_noise_that_differs_from_place_to_place_is_found_by_place() -> None:
    mesh = sphere(subdivisions=4)
    cloud = noisy(mesh, 20_000, 0.0)
    share = 0.001 + 0.009 * (cloud.points[:, 2] + 1) / 2  # of the size, from one pole to the other
    diagonal = 2 * 3**0.5
    shift = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate_noise(PointCloud(cloud.points + shift * share[:, None] * diagonal))
    assert found.varies and str(found).startswith("noise from about 0.")
    ratio = found.noises / (share * diagonal)
    assert ratio.quantile(0.1) > 0.7 and ratio.quantile(0.9) < 1.4
    upper, lower = cloud.points[:, 2] > 0.7, cloud.points[:, 2] < -0.7
    assert found.neighbours[upper].double().mean() > 3 * found.neighbours[lower].double().mean()
    even = estimate_noise(noisy(mesh, 20_000, 0.005))
    assert not even.varies and float(even.noises[0]) == even.noise and (even.neighbours == even.neighbours[0]).all()


def test_noise_of_one_half_of_a_clean_ball_is_seen_though_the_cloud_as_a_whole_has_none() -> None:
    points = noisy(sphere(subdivisions=4), 20_000, 0.0).points
    shift = 0.02 * torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate_noise(PointCloud(torch.where(points[:, 2:] > 0.3, points + shift, points)))
    assert (found.noises[points[:, 2] < -0.2] == 0).double().mean() > 0.95
    assert found.noises[points[:, 2] > 0.7].median() == pytest.approx(0.02, rel=0.25)


def test_coordinates_on_a_grid_have_the_noise_of_rounding_even_where_faces_lie_along_it() -> None:
    points = 3 * noisy(box(), 20_000, 0.0).points + 7
    rounded = (points / 0.03).round() * 0.03
    assert grid_step(rounded.numpy()) == pytest.approx(0.03)
    assert estimate_noise(PointCloud(rounded)).noise == pytest.approx(0.03 / 12**0.5, rel=0.3)
    assert grid_step(points.numpy()) == 0
    fine = (points / 1e-4).round() * 1e-4  # far below the spacing
    assert estimate_noise(PointCloud(fine)).noise == 0
    uneven = rounded + torch.where(torch.arange(20_000)[:, None] == 5, 0.011, 0.0)
    assert grid_step(uneven.numpy()) == 0
