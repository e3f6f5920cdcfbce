from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from primitives import box, box_distance, sphere

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.sampling import (
    curvature_weights,
    sample_curvature,
    sample_near_surface,
    sample_poisson_disk,
    sample_sharp_edges,
    sample_surface,
    sample_volume,
    stream_surface,
)

# Two triangles, one of three times the other's area.
UNEVEN = Mesh(
    torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64),
    torch.tensor([[0, 1, 2], [0, 2, 3]]),
)


def test_uniform_by_area_on_the_surface_and_reproducible() -> None:
    a, b = sample_surface(UNEVEN, 20_000, seed=3), sample_surface(UNEVEN, 20_000, seed=3)
    assert torch.equal(a.points, b.points) and not torch.equal(a.points, sample_surface(UNEVEN, 20_000, 4).points)
    assert abs(float((a.faces == 0).double().mean()) - 0.75) < 0.015
    assert torch.allclose(a.points[a.faces == 0].mean(0), torch.tensor([1, 1 / 3, 0]).double(), atol=0.03)
    assert torch.equal(a.normals, torch.tensor([0.0, 0, 1]).double().expand_as(a.normals))
    assert box_distance(sample_surface(box(), 1000).points).abs().max() < 1e-12


def test_weights() -> None:
    found = sample_surface(UNEVEN, 20_000, weights=torch.tensor([1.0, 3.0]))
    assert abs(float((found.faces == 0).double().mean()) - 0.5) < 0.015
    assert (sample_surface(UNEVEN, 100, weights=torch.tensor([0.0, 1.0])).faces == 1).all()
    with pytest.raises(ValueError, match="one per face"):
        sample_surface(UNEVEN, 10, weights=torch.ones(3))
    with pytest.raises(ShapeError, match="no area"):
        sample_surface(UNEVEN, 10, weights=torch.zeros(2))


def test_stream_gives_every_sample_in_pieces() -> None:
    pieces = list(stream_surface(box(), 1050, chunk=500))
    assert [len(p.points) for p in pieces] == [500, 500, 50]
    assert len(torch.unique(torch.cat([p.points for p in pieces]), dim=0)) == 1050


def test_poisson_disk_keeps_its_distance() -> None:
    found = sample_poisson_disk(sphere(subdivisions=3), 500, seed=1)
    again = sample_poisson_disk(sphere(subdivisions=3), 500, seed=1)
    assert found.points.shape == (500, 3) and torch.equal(found.points, again.points)

    def closest(points: torch.Tensor) -> torch.Tensor:
        return (torch.cdist(points, points) + 9 * torch.eye(len(points)).double()).amin(1)

    # The densest packing has 2 r; elimination reaches well over half of it, white noise a few per cent.
    densest = 2 * math.sqrt(4 * math.pi / (2 * math.sqrt(3) * 500))
    assert closest(found.points).min() > 0.5 * densest
    assert closest(sample_surface(sphere(subdivisions=3), 500).points).min() < 0.2 * densest


@pytest.mark.parametrize("reach", [0.2, 1e-9])
def test_crowding_is_the_sum_over_all_pairs(reach: float) -> None:
    from sdf_tools._elimination_kernels import crowd, sort_into_cells

    points = np.random.default_rng(0).random((500, 3))
    points[250:] = points[:250] + 0.3 * reach  # pairs also where cells cannot be as small as the reach
    order, cell, runs = sort_into_cells(points, reach)
    found = np.empty(500)
    crowd(0, points[order], cell, runs, reach, found)
    distance = torch.cdist(
        torch.from_numpy(points[order]), torch.from_numpy(points[order]), compute_mode="donot_use_mm_for_euclid_dist"
    )
    expected = (1 - distance / reach).clamp_min(0).pow(8).sum(1) - 1
    assert np.allclose(found, expected.numpy(), rtol=1e-6, atol=1e-9)


def test_curvature_draws_samples_to_edges() -> None:
    capsule = sphere()
    flat = torch.where(capsule.vertices[:, 2:] > 0.5, 0.5, capsule.vertices[:, 2:])
    mesh = Mesh(torch.cat([capsule.vertices[:, :2], flat], 1), capsule.faces)
    top = mesh.vertices[mesh.faces][:, :, 2].amin(1) == 0.5
    weights = curvature_weights(mesh)
    assert (weights >= 1).all() and weights[top].min() < weights[~top].mean()
    share = (sample_curvature(mesh, 5000, strength=5).points[:, 2] > 0.4999).double().mean()
    assert share < (sample_surface(mesh, 5000).points[:, 2] > 0.4999).double().mean()


def test_sharp_edges_of_a_box() -> None:
    found = sample_sharp_edges(box(), 6000)
    on_planes = (found.points.abs() - 0.5).abs() < 1e-12
    assert (on_planes.sum(1) >= 2).all()  # and not on the diagonals of the sides
    assert torch.allclose(found.points.mean(0), torch.zeros(3).double(), atol=0.03)
    assert torch.allclose(found.normals.norm(dim=1), torch.ones(6000).double())
    with pytest.raises(ShapeError, match="no edge sharper"):
        sample_sharp_edges(sphere(subdivisions=3), 10)


def test_volume_samples_fill_the_inside() -> None:
    points = sample_volume(box(), 5000)
    assert points.shape == (5000, 3) and (points.abs() <= 0.5).all()
    inside = sample_volume(sphere(subdivisions=3), 5000)
    # Uniform in a ball: the cubed radius is uniform.
    assert abs(float(inside.norm(dim=1).pow(3).mean()) - 0.5) < 0.03


def test_near_surface_noise_has_the_stated_scale() -> None:
    cloud = PointCloud(torch.zeros(60, 3, dtype=torch.float64))
    laplace = sample_near_surface(cloud, 50_000, 0.1)
    assert abs(float(laplace.abs().mean()) - 0.1) < 0.002  # the mean size of Laplace noise is its scale
    gauss = sample_near_surface(cloud, 50_000, 0.1, noise="gaussian")
    assert abs(float(gauss.std()) - 0.1) < 0.002
    kept = sample_near_surface(cloud, 5000, 1.0, bounds=0.5)
    assert kept.abs().max() <= 0.5 and not (kept.abs() == 0.5).any()
    with pytest.raises(ValueError, match="laplace"):
        sample_near_surface(cloud, 10, 0.1, noise="pink")
