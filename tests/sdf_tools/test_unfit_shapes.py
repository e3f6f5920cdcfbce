"""Shapes that nothing can be computed from are refused in a sentence; gradients and whole numbers are none of those."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from primitives import cloud, inside_out, join, sphere

import sdf_tools
from sdf_tools import PointCloud, ShapeError, SignedDistance, metrics, sampling
from sdf_tools.cloud import prepare_cloud
from sdf_tools.extraction import drop_small_components, drop_specks, fill_holes, largest_component, simplify
from sdf_tools.geometry import Mesh, normalize
from sdf_tools.mesh import clean, fill_boundary_loops, prepare_mesh, repair, summarize, watertight_remesh

ORIGIN = torch.zeros(1, 3, dtype=torch.float64)


def pool(shape: Any) -> Any:
    return sdf_tools.build_sdf_pool(normalize(shape).shape, 100)


def picture(mesh: Mesh) -> Any:
    return sdf_tools.render_mesh(mesh, size=(8, 8), occlusion_rays=1)


ON_MESHES: dict[str, Callable[[Mesh], Any]] = {
    "distance": lambda mesh: SignedDistance(mesh)(ORIGIN),
    "pool": pool,
    "clean": clean,
    "repair": repair,
    "prepare_mesh": prepare_mesh,
    "fill_boundary_loops": fill_boundary_loops,
    "watertight_remesh": lambda mesh: watertight_remesh(mesh, 16),
    "summarize": summarize,
    "largest_component": largest_component,
    "drop_small_components": lambda mesh: drop_small_components(mesh, 3),
    "drop_specks": drop_specks,
    "fill_holes": fill_holes,
    "simplify": lambda mesh: simplify(mesh, 100),
    "sample_surface": lambda mesh: sampling.sample_surface(mesh, 3),
    "sample_poisson_disk": lambda mesh: sampling.sample_poisson_disk(mesh, 3),
    "sample_curvature": lambda mesh: sampling.sample_curvature(mesh, 3),
    "sample_sharp_edges": lambda mesh: sampling.sample_sharp_edges(mesh, 3, angle=1.0),
    "sample_volume": lambda mesh: sampling.sample_volume(mesh, 3),
    "evaluate": lambda mesh: metrics.evaluate(mesh, mesh, samples=100, iou_samples=100, paper=False),
    "evaluate_cloud": lambda mesh: metrics.evaluate_cloud(mesh, cloud(100), samples=100, iou_samples=100),
    "chamfer": lambda mesh: metrics.chamfer(mesh, mesh, samples=100),
    "iou": lambda mesh: metrics.iou(mesh, mesh, samples=100),
    "vertex_error": lambda mesh: metrics.vertex_error(mesh, mesh),
    "picture": picture,
    "validate": sdf_tools.validate_for_fitting,
}
ON_CLOUDS: dict[str, Callable[[PointCloud], Any]] = {
    "distance": lambda points: SignedDistance(points)(ORIGIN),
    "pool": pool,
    "estimate_normals": lambda points: sdf_tools.estimate_normals(points.points),
    "orient_normals": lambda points: sdf_tools.orient_normals(points.points, points.points),
    "viewpoints": lambda points: sdf_tools.orient_normals(
        points.points, points.points, "viewpoints", viewpoints=2 * points.points
    ),
    "with_normals": lambda points: sdf_tools.with_normals(replace(points, normals=None)),
    "estimate_noise": sdf_tools.estimate_noise,
    "drop_outliers": sdf_tools.drop_outliers,
    "prepare_cloud": sdf_tools.prepare_cloud,
    "reconstruct": lambda points: sdf_tools.reconstruct(points, resolution=16),
    "evaluate_cloud": lambda points: metrics.evaluate_cloud(points, sphere(), samples=100, iou_samples=100),
}


@pytest.mark.parametrize("name", ON_MESHES)
@pytest.mark.parametrize("vertex", [-1, 162])
def test_faces_of_no_vertex_are_refused(name: str, vertex: int) -> None:
    ball = sphere()
    faces = torch.cat([ball.faces[1:], torch.tensor([[0, 1, vertex]])])
    with pytest.raises(ShapeError, match=rf"face of vertex {vertex}, which is not one of its 162 vertices"):
        ON_MESHES[name](replace(ball, faces=faces))


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_faces_of_no_vertex_are_not_written(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ShapeError, match="face of vertex 162"):
        sdf_tools.save_mesh(replace(sphere(), faces=torch.tensor([[0, 1, 162]])), tmp_path / f"ball{suffix}")


@pytest.mark.parametrize("name", ["distance", "pool", "clean", "repair", "simplify", "evaluate", "picture", "iou"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_meshes_at_no_definite_place_are_refused(name: str, value: float) -> None:
    ball = sphere()
    vertices = ball.vertices.clone()
    vertices[5, 1] = value
    with pytest.raises(ShapeError, match="coordinates that are NaN or infinite"):
        ON_MESHES[name](replace(ball, vertices=vertices))


@pytest.mark.parametrize("name", ON_CLOUDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_clouds_at_no_definite_place_are_refused(name: str, value: float) -> None:
    shape = cloud(600)
    points = shape.points.clone()
    points[0, 2] = value
    with pytest.raises(ShapeError, match="coordinates that are NaN or infinite"):
        ON_CLOUDS[name](replace(shape, points=points))


def test_sampling_says_what_is_not_finite() -> None:
    ball = sphere()
    for value in (math.nan, math.inf, -1.0):
        weights = torch.ones(len(ball.faces))
        weights[7] = value
        with pytest.raises(ValueError, match="finite numbers that are not negative, one per face"):
            sampling.sample_surface(ball, 3, weights=weights)
        vertices = ball.vertices.clone()
        vertices[0] = value
        if value != -1:
            with pytest.raises(ShapeError, match="corners that are NaN or infinite"):
                sampling.sample_surface(replace(ball, vertices=vertices), 3)


def test_a_cloud_without_points_has_none_to_draw() -> None:
    with pytest.raises(ShapeError, match="no points to draw from"):
        sampling.sample_near_surface(PointCloud(ORIGIN[:0]), 10, 0.1)


def test_clouds_need_normals_and_confidences_that_fit() -> None:
    shape = cloud(200)
    assert shape.normals is not None
    nowhere = shape.normals.clone()
    nowhere[3] = math.nan
    doubts = torch.ones(200, dtype=torch.float64)
    doubts[0] = math.nan
    for changed, word in (
        ({"normals": torch.zeros(200, 3)}, "no normals"),
        ({"normals": nowhere}, "normals that are NaN"),
        ({"normals": shape.normals[:50]}, "200 points but 50 normals"),
        ({"confidence": torch.ones(50)}, "200 points but 50 confidence"),
        ({"confidence": doubts}, "confidences that are not above 0"),
        ({"confidence": torch.zeros(200)}, "confidences that are not above 0"),
    ):
        with pytest.raises(ShapeError, match=word):
            SignedDistance(replace(shape, **changed))
    unsigned = SignedDistance(replace(shape, normals=torch.zeros(200, 3)), sign="unsigned")
    assert math.isclose(unsigned(ORIGIN).item(), 1, rel_tol=0.05)


def test_metrics_name_the_one_for_the_shapes_they_are_given() -> None:
    ball, points = sphere(), cloud(100)
    for call in (metrics.evaluate, metrics.chamfer, metrics.iou):
        for shapes in ((points, ball), (ball, points)):
            with pytest.raises(ShapeError, match="point cloud, not a mesh; compare it by evaluate_cloud"):
                call(*shapes)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="both meshes; compare them by evaluate"):
        metrics.evaluate_cloud(ball, ball)


@pytest.mark.parametrize("name", ON_MESHES)
def test_meshes_may_carry_gradients(name: str) -> None:
    whole = replace(sphere(), faces=sphere().faces[1:]) if "fill" in name or name == "repair" else sphere()
    kept = replace(whole, vertices=whole.vertices.clone().requires_grad_(), vertex_colors=torch.rand(162, 3))
    with_gradients = ON_MESHES[name](kept)
    plain = ON_MESHES[name](replace(kept, vertices=whole.vertices))
    if isinstance(with_gradients, torch.Tensor):
        assert torch.equal(with_gradients, plain) and not with_gradients.requires_grad


@pytest.mark.parametrize("name", ON_CLOUDS)
def test_clouds_may_carry_gradients(name: str) -> None:
    shape = cloud(600)
    ON_CLOUDS[name](replace(shape, points=shape.points.clone().requires_grad_()))


def test_frames_are_free_of_gradients() -> None:
    frame = normalize(PointCloud(cloud(100).points.clone().requires_grad_()))
    assert not frame.to_box(ORIGIN).requires_grad and not frame.to_world(ORIGIN).requires_grad


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
def test_points_of_whole_numbers_are_not_cut_to_whole_distances(kind: torch.dtype) -> None:
    points = torch.tensor([[0, 0, 0], [3, 3, 3], [2, 1, 1]], dtype=kind)
    distance = SignedDistance(sphere(2.5, subdivisions=3))
    exact, found = distance.closest(points.double()), distance.closest(points)
    for part in ("points", "normals", "distance"):
        assert getattr(found, part).dtype == torch.float32
        assert torch.equal(getattr(found, part), getattr(exact, part).float())
    assert torch.equal(distance(points), distance(points.double()).float())
    assert distance.trust(points).tolist() == [1, 1, 1] and distance.trust(points).dtype == torch.float32
    frame = normalize(sphere(2.5))
    assert torch.equal(frame.to_box(points), frame.to_box(points.double()).float())
    whole = (cloud(500).points * 1000).round()
    normals, reliability = sdf_tools.estimate_normals(whole.long())
    assert torch.equal(normals, sdf_tools.estimate_normals(whole)[0].float()) and reliability.min() > 0.5


def test_normals_point_out_of_every_body_whichever_way_it_runs() -> None:
    left, right = sphere(), sphere(0.7, (3, 0, 0))
    hollow = join(sphere(), inside_out(sphere(0.5)))
    points = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=1)
    for shell in (hollow, inside_out(hollow)):
        for body in (right, inside_out(right)):
            distance = SignedDistance(join(shell, body))
            for center, radius, out in (((0, 0, 0), 1.0, 1), ((0, 0, 0), 0.5, -1), ((3, 0, 0), 0.7, 1)):
                for factor in (0.9, 1.1):  # from both sides
                    around = torch.tensor(center).double() + factor * radius * points
                    assert ((distance.closest(around).normals * points).sum(1) * out > 0.9).all()
    joined = SignedDistance(join(inside_out(left), right))
    assert joined.contains(torch.tensor([[0.0, 0, 0], [3, 0, 0], [1.5, 0, 0]])).tolist() == [True, True, False]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_normals_that_are_not_finite_are_missing_ones(odd: float) -> None:
    """PCL and others write NaN where they found none."""
    points = torch.nn.functional.normalize(torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals = points.clone()
    normals[:100] = odd
    prepared = prepare_cloud(PointCloud(points, normals))
    found = prepared.cloud.normals
    assert found is not None and float((found * prepared.cloud.points).sum(1).min()) > 0.9
    assert prepared.said[0] == "normals that are NaN or infinite count as zero"
    assert any("100 of 3,000 normals are zero" in sentence for sentence in prepared.said)
