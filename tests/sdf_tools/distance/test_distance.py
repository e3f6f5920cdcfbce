from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from primitives import box, box_distance, cloud, inside_out, join, sphere

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.spatial.neighbours import morton_order


def queries(count: int = 3000, spread: float = 1.5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5) * 2 * spread


@pytest.mark.parametrize("sign", ["auto", "pseudonormal", "winding", "rays"])
def test_box_is_exact(sign: str) -> None:
    distance = SignedDistance(box(), sign)
    assert torch.allclose(distance(queries()), box_distance(queries()), rtol=0, atol=1e-13)
    assert torch.equal(distance.contains(queries()), box_distance(queries()) < 0)


@pytest.mark.parametrize("offset, size", [(0, 1), (1e6, 1), (0, 1e-6), (0, 1e6)])
def test_any_place_and_size(offset: float, size: float) -> None:
    mesh = box()
    moved = replace(mesh, vertices=mesh.vertices * size + offset)
    found = SignedDistance(moved)(queries() * size + offset) / size
    # At 1e6 from the origin float64 itself resolves 1e-10.
    assert torch.allclose(found, box_distance(queries()), rtol=0, atol=1e-7)


def test_closest_points_and_normals() -> None:
    points = torch.tensor([[2.0, 0.1, 0.2], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.1, 0.2, 0.4]], dtype=torch.float64)
    found = SignedDistance(box()).closest(points)
    expected = [[0.5, 0.1, 0.2], [0.5, 0.5, 0], [0.5, 0.5, 0.5], [0.1, 0.2, 0.5]]
    assert torch.allclose(found.points, torch.tensor(expected, dtype=torch.float64), atol=1e-9)
    normals = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]]), dim=1)
    assert torch.allclose(found.normals.float(), normals, atol=1e-6)
    assert torch.allclose(found.distance, torch.tensor([1.5, 0.5**0.5, 0.75**0.5, -0.1]).double())
    corners = box().vertices[box().faces[found.faces]]
    assert (corners - found.points[:, None]).norm(dim=-1).amin(1).max() < 1.0


def test_shapes_dtypes_and_empty_input() -> None:
    distance = SignedDistance(box())
    out = distance(torch.zeros(2, 5, 3))
    assert out.shape == (2, 5) and out.dtype == torch.float32 and torch.allclose(out, torch.tensor(-0.5))
    assert distance(torch.zeros(0, 3)).shape == (0,) and distance.contains(torch.zeros(0, 3)).shape == (0,)
    with pytest.raises(ValueError, match="NaN"):
        distance(torch.full((1, 3), float("nan")))
    with pytest.raises(ValueError, match="3 coordinates"):
        distance(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="sign"):
        SignedDistance(box(), sign="guess")


def test_inverted_mesh_keeps_its_inside() -> None:
    for sign in ("auto", "pseudonormal", "winding", "rays"):
        assert torch.equal(SignedDistance(inside_out(box()), sign).contains(queries()), box_distance(queries()) < 0)
        assert torch.allclose(SignedDistance(inside_out(box()), sign)(queries()), box_distance(queries()), atol=1e-7)


def test_soup_with_duplicates_is_read_as_closed() -> None:
    mesh = box()
    soup = Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), torch.arange(36).reshape(12, 3))
    distance = SignedDistance(soup)
    assert distance.sign == "rays"
    assert torch.allclose(distance(queries()), box_distance(queries()), atol=1e-7)


def test_overlapping_and_nested_shells_enclose_what_lies_in_either() -> None:
    overlapping = SignedDistance(join(sphere(), sphere(center=(0.8, 0, 0))))
    assert overlapping.contains(torch.tensor([[0.4, 0, 0], [0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0]])).tolist() == [
        True,
        True,
        True,
        False,
    ]
    nested = SignedDistance(join(sphere(), sphere(0.5)))
    assert nested.contains(torch.tensor([[0.0, 0, 0], [0.75, 0, 0], [2.0, 0, 0]])).tolist() == [True, True, False]
    hollow = SignedDistance(join(sphere(), inside_out(sphere(0.5))))
    assert hollow.contains(torch.tensor([[0.0, 0, 0], [0.75, 0, 0]])).tolist() == [False, True]


@pytest.mark.parametrize("kind", ["closed", "crossing", "nested", "ribbon"])
def test_against_an_independent_library(kind: str) -> None:
    igl = pytest.importorskip("igl")
    other = {"crossing": sphere(0.8, (0.7, 0.1, 0)), "nested": inside_out(sphere(0.5)), "ribbon": box()}.get(kind)
    mesh = sphere(subdivisions=3) if other is None else join(sphere(), other)
    if kind == "ribbon":  # triangles far longer than wide, across all columns
        mesh = replace(mesh, vertices=mesh.vertices @ torch.tensor([[9.0, 9, 0], [1, -1, 0], [0, 0, 1]]).double())
    vertices, faces, points = mesh.vertices.numpy(), mesh.faces.numpy(), queries(20_000).numpy()
    found = SignedDistance(mesh)(torch.from_numpy(points)).numpy()
    squared, *_ = igl.point_mesh_squared_distance(points, vertices, faces)
    assert np.abs(np.abs(found) - np.sqrt(squared)).max() < 1e-12
    exact = igl.winding_number(vertices, faces, points)
    assert np.array_equal(found < 0, np.abs(exact) > 0.5)


def test_rays_through_edges_and_corners_count_once() -> None:
    # Every ray of these points, whatever its axis, meets edges and corners of the mesh, and the faces' diagonals.
    axis = torch.linspace(-0.75, 0.75, 13, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    for mesh in (box(), inside_out(box()), join(box(), replace(box(), vertices=box().vertices + 1))):
        off = SignedDistance(mesh, "unsigned")(grid) > 1e-9
        shifted = (grid - 1).abs().amax(1) < 0.5
        inside = (grid.abs().amax(1) < 0.5) | (shifted if len(mesh.faces) > 12 else torch.zeros_like(shifted))
        assert torch.equal(SignedDistance(mesh).contains(grid)[off], inside[off])


def test_rays_need_a_sealed_mesh() -> None:
    with pytest.raises(ShapeError, match="has holes"):
        SignedDistance(replace(box(), faces=box().faces[1:]), sign="rays")


def test_open_mesh_keeps_an_exact_magnitude() -> None:
    ball = sphere(subdivisions=3)
    torn = replace(ball, faces=ball.faces[10:])
    whole, found = SignedDistance(ball).closest(queries()), SignedDistance(torn)
    assert found.sign == "winding"
    kept = whole.faces >= 10
    assert kept.any() and not kept.all()
    assert torch.allclose(found(queries()).abs()[kept], whole.distance.abs()[kept], atol=1e-7)


def test_faces_refer_to_the_given_mesh() -> None:
    mesh = box()
    broken = replace(mesh, faces=torch.cat([torch.tensor([[0, 0, 1]]), mesh.faces]))
    assert (SignedDistance(broken).closest(queries()).faces == SignedDistance(mesh).closest(queries()).faces + 1).all()


def test_no_area_is_refused() -> None:
    with pytest.raises(ShapeError, match="no triangle with an area"):
        SignedDistance(replace(box(), faces=torch.tensor([[0, 1, 1]])))


def test_knn_mean_is_the_papers_estimate() -> None:
    shape = cloud(500)
    points = queries(200)
    distance = (points[:, None] - shape.points).norm(dim=-1)
    near = distance.topk(3, largest=False).indices
    expected = ((points - shape.points[near[:, 0]]) * shape.normals[near].mean(1)).sum(1)  # type: ignore[index]
    assert torch.allclose(SignedDistance(shape, method="knn_mean")(points), expected, atol=1e-9)


def test_imls_is_better_than_knn_mean_far_away_and_on_noise() -> None:
    shape = cloud()
    near = torch.nn.functional.normalize(queries(seed=1), dim=1) * 1.005
    generator = torch.Generator().manual_seed(2)
    noise = 0.01 * torch.randn(shape.points.shape, generator=generator, dtype=torch.float64)
    for points, of in ((queries(), shape), (near, replace(shape, points=shape.points + noise))):
        truth = points.norm(dim=1) - 1
        errors = {m: (SignedDistance(of, method=m)(points) - truth).abs().mean() for m in ("imls", "knn_mean")}
        assert errors["imls"] < errors["knn_mean"], errors
    assert (SignedDistance(shape)(near) - 0.005).abs().mean() < 2e-3
    assert (SignedDistance(shape)(queries()) < 0).eq(queries().norm(dim=1) < 1).double().mean() > 0.998


def test_cloud_without_normals_is_refused() -> None:
    with pytest.raises(ShapeError, match="no normals"):
        SignedDistance(PointCloud(cloud().points))


def test_morton_order_is_a_permutation() -> None:
    order = morton_order(np.random.default_rng(0).random((1000, 3)))
    assert sorted(order.tolist()) == list(range(1000))
