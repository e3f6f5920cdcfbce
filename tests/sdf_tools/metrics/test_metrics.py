"""Metrics against closed forms and against independent brute force."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import trimesh

from sdf_tools import metrics
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.sampling import sample_surface


def from_trimesh(mesh: trimesh.Trimesh, name: str = "mesh") -> Mesh:
    return Mesh(torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces)).long(), name=name)


def ball(radius: float, center=(0.0, 0.0, 0.0), subdivisions: int = 5) -> Mesh:
    mesh = from_trimesh(trimesh.creation.icosphere(subdivisions, radius))
    return Mesh(mesh.vertices + torch.tensor(center, dtype=torch.float64), mesh.faces)


def box(side: float = 1.0, center=(0.0, 0.0, 0.0)) -> Mesh:
    mesh = from_trimesh(trimesh.creation.box((side,) * 3))
    return Mesh(mesh.vertices + torch.tensor(center, dtype=torch.float64), mesh.faces)


class TestClosedForms:
    def test_concentric_spheres(self):
        r, s = 1.0, 1.02
        result = metrics.evaluate(ball(s), ball(r), samples=20_000, iou_samples=200_000, paper=False)
        scale = 0.45
        assert result.scale == pytest.approx(scale, rel=1e-3)
        assert result.accuracy_mean_world == pytest.approx(s - r, rel=0.03)
        assert result.completeness_mean == pytest.approx((s - r) * scale, rel=0.03)
        assert result.hausdorff == pytest.approx((s - r) * scale, rel=0.05)
        assert result.iou == pytest.approx((r / s) ** 3, abs=4e-3)
        assert result.iou_low < (r / s) ** 3 < result.iou_high
        assert result.normal_consistency > 0.999
        assert result.area_ratio == pytest.approx((s / r) ** 2, rel=1e-3)
        assert result.f_scores["0.005"] == 0.0 and result.f_scores["0.01"] == 1.0
        # Within the band only points between the spheres, or below the inner one, are inside either.
        band, shell = 0.01, (s - r) * scale
        assert result.iou_near_surface == pytest.approx(band / (band + shell), abs=0.02)
        assert result.components_prediction == 1 and result.watertight_prediction

    def test_shifted_cubes(self):
        shift = 0.1
        a, b = box(), box(center=(shift, 0, 0))
        overlap = metrics.iou(a, b, 500_000, seed=1)
        expected = (1 - shift) / (1 + shift)
        assert overlap.iou == pytest.approx(expected, abs=4e-3)
        assert overlap.low < expected < overlap.high
        # Each x face is exactly `shift` away where it sticks out or was left behind; the sides overlap but for strips.
        error = metrics.surface_error(a, SignedDistance(b, sign="unsigned"), 40_000)
        strip = 4 * shift * shift / 2  # of each side a strip of that width sticks out, half as far away on average
        # The face inside b is `shift` from b's own face, but closer to the sides along its rim:
        # the pyramid of height `shift` over the unit square, cut off.
        inner = shift - shift * (1 - (1 - 2 * shift) ** 2) + 4 * (shift**2 / 2 - 2 * shift**3 / 3)
        mean = (shift + strip + inner) / 6
        assert float(error.distance.mean()) == pytest.approx(mean, rel=0.06)

    def test_identical_meshes(self):
        mesh = ball(1.0, subdivisions=4)
        result = metrics.evaluate(mesh, mesh, samples=20_000, iou_samples=100_000)
        assert result.iou == result.iou_paper == result.f_score == 1.0
        assert result.accuracy_mean < 1e-9
        assert result.normal_error_mean < 0.05
        assert result.chamfer_paper == pytest.approx(result.chamfer_floor, rel=0.02)
        assert result.chamfer_floor == pytest.approx(2 * 4 * math.pi * 0.45**2 / (math.pi * 300_000), rel=5e-3)

    def test_world_units_and_position_do_not_matter(self):
        a, b = ball(1.01, subdivisions=4), ball(1.0, subdivisions=4)

        def moved(mesh: Mesh) -> Mesh:
            return Mesh(mesh.vertices * 1e-3 + 50, mesh.faces)

        options = {"samples": 5_000, "iou_samples": 50_000, "paper": False}
        first, second = metrics.evaluate(a, b, **options), metrics.evaluate(moved(a), moved(b), **options)
        assert second.accuracy_mean == pytest.approx(first.accuracy_mean, rel=1e-6)
        assert second.accuracy_mean_world == pytest.approx(1e-3 * first.accuracy_mean_world, rel=1e-6)
        assert second.iou == pytest.approx(first.iou, abs=1e-3)


class TestConventions:
    def test_against_brute_force(self):
        a, b = ball(1.0, subdivisions=3), box(1.5)
        x, y = sample_surface(a, 500, 0).points, sample_surface(b, 500, 1).points
        table = torch.cdist(x, y)
        forward, backward = table.amin(1), table.amin(0)
        expected = {
            "bacon": (forward**2).mean() + (backward**2).mean(),
            "deepsdf": (forward**2).mean() + (backward**2).mean(),
            "occnet_l1": (forward.mean() + backward.mean()) / 2,
            "occnet_l2": ((forward**2).mean() + (backward**2).mean()) / 2,
        }
        for convention, value in expected.items():
            assert metrics.chamfer(a, b, convention, samples=500) == pytest.approx(float(value), rel=1e-9)

    def test_point_to_mesh_against_trimesh(self):
        a, b = ball(1.0, subdivisions=3), box(1.5)
        x, y = sample_surface(a, 300, 0).points.numpy(), sample_surface(b, 300, 1).points.numpy()

        def exact(mesh: Mesh, points: np.ndarray) -> float:
            other = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
            return trimesh.proximity.closest_point_naive(other, points)[1].mean()

        expected = (exact(b, x) + exact(a, y)) / 2
        assert metrics.chamfer(a, b, "point_to_mesh", samples=300) == pytest.approx(expected, rel=1e-6)

    def test_unknown_convention(self):
        with pytest.raises(ValueError, match="occnet_l1"):
            metrics.chamfer(ball(1.0, subdivisions=1), ball(1.0, subdivisions=1), "pcu")

    def test_f_score_by_hand(self):
        found, truth = torch.tensor([0.1, 0.3, 0.3, 0.3]), torch.tensor([0.1, 0.1, 0.3, 0.1])
        precision, recall = 0.25, 0.75
        assert metrics.f_score(found, truth, 0.2) == pytest.approx(2 * precision * recall / (precision + recall))
        assert metrics.f_score(found, truth, 0.01) == 0.0


class TestInside:
    @pytest.mark.parametrize("mesh", [ball(1.0, subdivisions=3), box(1.3, (0.2, 0.1, 0))])
    def test_shortcut_agrees_with_the_exact_test(self, mesh):
        points = (torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 3
        assert torch.equal(metrics.Inside(mesh)(points), SignedDistance(mesh, sign="winding").contains(points))

    def test_shortcut_in_the_hole_of_an_open_mesh(self):
        mesh = ball(1.0, subdivisions=4)
        centers = mesh.vertices[mesh.faces].mean(1)
        mesh = Mesh(mesh.vertices, mesh.faces[centers[:, 2] < 0.8])
        points = (torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 2.2
        exact = SignedDistance(mesh, sign="winding").contains(points)
        assert (metrics.Inside(mesh)(points) != exact).double().mean() < 2e-3

    def test_vertex_error_is_signed(self):
        error = metrics.vertex_error(ball(0.9, subdivisions=2), ball(1.0, subdivisions=5))
        assert error.shape == (162,)
        assert torch.allclose(error, torch.full((162,), -0.1, dtype=torch.float64), atol=1e-3)
        unsigned = metrics.vertex_error(ball(0.9, subdivisions=2), ball(1.0, subdivisions=5), signed=False)
        assert torch.allclose(unsigned, -error)


class TestEvaluate:
    def test_seams_and_second_body(self):
        whole = ball(1.0, subdivisions=3)
        soup = Mesh(whole.vertices[whole.faces].reshape(-1, 3), torch.arange(3 * len(whole.faces)).reshape(-1, 3))
        extra = ball(0.1, (2.0, 0, 0), subdivisions=2)
        two = Mesh(
            torch.cat([soup.vertices, extra.vertices]), torch.cat([soup.faces, extra.faces + len(soup.vertices)])
        )
        result = metrics.evaluate(two, whole, samples=5_000, iou_samples=50_000, paper=False)
        assert result.components_prediction == 2 and result.components_reference == 1
        assert result.watertight_prediction
        assert result.hausdorff > 0.4
        assert math.isnan(result.chamfer_paper)

    def test_loose_vertices_do_not_count_in_the_size(self):
        reference, larger = ball(1.0, subdivisions=3), ball(1.05, subdivisions=3)
        far = torch.cat([reference.vertices, torch.tensor([[50.0, 0, 0]], dtype=torch.float64)])
        options = {"samples": 2_000, "iou_samples": 5_000, "paper": False}
        loose = Mesh(far, reference.faces)
        found, expected = (metrics.evaluate(larger, mesh, **options) for mesh in (loose, reference))
        assert str(found) == str(expected) and found.f_score < 0.5
        cloud = PointCloud(larger.vertices)
        options.pop("paper")
        one, other = (metrics.evaluate_cloud(cloud, mesh, **options) for mesh in (loose, reference))
        assert one.scale == other.scale and one.accuracy_mean == other.accuracy_mean
        assert metrics.evaluate_cloud(loose, cloud, **options).hausdorff < 0.1

    def test_triangles_of_no_area_do_not_open_a_closed_surface(self):
        closed = ball(1.0, subdivisions=2)
        first = int(closed.faces[0, 0])
        edge = [first, int(closed.faces[0, 1])]
        twice = torch.cat([closed.vertices, closed.vertices[first][None]])
        flat = Mesh(twice, torch.cat([closed.faces, torch.tensor([[edge[0], edge[1], len(closed.vertices)]])]))
        assert metrics.evaluate(flat, closed, samples=1_000, iou_samples=1_000, paper=False).watertight_prediction

    def test_other_units_are_spoken_of_and_cost_no_minutes(self):
        reference = ball(1.0, subdivisions=3)
        with pytest.warns(ShapeWarning, match=r"1e\+03 times as large as 'mesh': are they in the same units"):
            found = metrics.evaluate(ball(1000.0, subdivisions=3), reference, samples=500, iou_samples=500)
        assert math.isnan(found.chamfer_paper) and found.accuracy_mean > 100

    def test_serialises_and_prints(self):
        mesh = ball(1.0, subdivisions=2)
        result = metrics.evaluate(mesh, mesh, samples=2_000, iou_samples=20_000)
        stored = json.loads(json.dumps(result.to_dict()))
        for key in (
            "chamfer_paper", "chamfer_floor", "iou_paper", "iou", "accuracy_mean", "completeness_mean",
            "hausdorff", "f_score", "normal_consistency", "components_prediction", "watertight_prediction",
        ):  # fmt: skip
            assert key in stored
        assert stored["point_to_surface_mean_world"] == stored["accuracy_mean_world"]
        assert stored["surface_to_point_percentiles"] == stored["completeness_percentiles"]
        assert "box units" in str(result) and "chamfer_floor" in str(result)

    def test_accuracy_and_completeness_are_the_right_way_round(self):
        """A prediction with a stray body is inaccurate; one that lacks a body is incomplete."""
        whole, stray = ball(1.0, subdivisions=3), ball(0.5, (3.0, 0, 0), subdivisions=3)
        two = Mesh(
            torch.cat([whole.vertices, stray.vertices]), torch.cat([whole.faces, stray.faces + len(whole.vertices)])
        )
        options = {"samples": 5_000, "iou_samples": 20_000, "paper": False}
        more, less = metrics.evaluate(two, whole, **options), metrics.evaluate(whole, two, **options)
        assert more.accuracy_mean > 0.05 and more.completeness_mean < 1e-6
        assert less.completeness_mean > 0.05 and less.accuracy_mean < 1e-6
        with pytest.warns(DeprecationWarning, match="is accuracy_mean now"):
            assert more.point_to_surface_mean == more.accuracy_mean
        with pytest.warns(DeprecationWarning, match="is completeness_mean_world now"):
            assert more.surface_to_point_mean_world == more.completeness_mean_world
        with pytest.raises(AttributeError, match="accurracy"):
            more.accurracy_mean  # noqa: B018

    def test_the_overlap_of_two_sheets_is_undefined(self):
        flat = Mesh(torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]]).double(), torch.tensor([[0, 1, 2]]))
        result = metrics.evaluate(flat, flat, samples=1_000, iou_samples=5_000)
        assert math.isnan(result.iou) and math.isnan(result.iou_near_surface) and math.isnan(result.iou_paper)
        stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert stored["iou"] is None and stored["iou_low"] is None and stored["accuracy_mean"] < 1e-12
        text = dict(result.rows())
        assert text["iou"] == "undefined: neither mesh encloses a volume" and text["iou_paper"].startswith("undefined")
        solid = metrics.evaluate(flat, ball(1.0, subdivisions=1), samples=1_000, iou_samples=5_000, paper=False)
        assert solid.iou == 0.0 and dict(solid.rows())["chamfer_paper"].startswith("not computed")

    def test_refuses_empty_and_nan(self):
        mesh = ball(1.0, subdivisions=1)
        empty = Mesh(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int64), name="nothing")
        with pytest.raises(ShapeError, match="'nothing' has no triangles"):
            metrics.evaluate(empty, mesh)
        broken = Mesh(mesh.vertices.clone(), mesh.faces, name="broken")
        broken.vertices[3, 0] = float("nan")
        for pair in ((broken, mesh), (mesh, broken)):
            with pytest.raises(ShapeError, match=r"'broken'.*NaN"):
                metrics.evaluate(*pair)
