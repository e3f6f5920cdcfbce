"""Metrics against closed forms: offset spheres and cubes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdf_tools.metrics import chamfer, chamfer_floor, evaluate, f_score, iou_interval, iou_paper, vertex_error
from sdf_tools.sampling import sample_surface
from sdf_tools.shapes import Mesh
from sdf_tools.writing import save_mesh

ROOT = Path(__file__).resolve().parents[2]


def icosphere(radius: float, subdivisions: int = 5) -> Mesh:
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(torch.from_numpy(sphere.vertices.copy()), torch.from_numpy(sphere.faces.copy()))


def cube(side: float, shift: float = 0.0) -> Mesh:
    import trimesh

    box = trimesh.creation.box((side, side, side))
    vertices = torch.from_numpy(box.vertices.copy())
    vertices[:, 0] += shift
    return Mesh(vertices, torch.from_numpy(box.faces.copy()))


@pytest.fixture(scope="module")
def spheres():
    """Radius 0.44 against 0.45: in box units already, since the reference's longest side is 0.9."""
    return evaluate(icosphere(0.44), icosphere(0.45), samples=50_000, iou_points=300_000)


def test_concentric_spheres_have_their_gap_as_distance(spheres):
    assert spheres["point_to_surface_mean"] == pytest.approx(0.01, rel=0.03)
    assert spheres["surface_to_point_mean"] == pytest.approx(0.01, rel=0.03)
    assert spheres["hausdorff"] == pytest.approx(0.01, rel=0.05)
    assert spheres["point_to_surface_mean_world"] == pytest.approx(0.01, rel=0.03)
    assert spheres["normal_error_mean"] < 1.5 and spheres["normal_consistency"] > 0.999
    assert spheres["components_prediction"] == 1 and spheres["watertight_prediction"] is True


def test_concentric_spheres_overlap_by_the_ratio_of_volumes(spheres):
    truth = (0.44 / 0.45) ** 3
    assert abs(spheres["iou"] - truth) < spheres["iou_confidence"] * 1.5
    assert spheres["iou_paper"] == pytest.approx(truth, abs=0.01)
    band = (0.44**3 - 0.441**3) / (0.45**3 - 0.441**3)  # the prediction ends inside the band
    assert spheres["iou_near"] == pytest.approx(max(0.0, band), abs=0.02)


def test_f_scores_step_at_the_gap(spheres):
    assert spheres["f_score"] == pytest.approx(0.0, abs=1e-6)
    assert f_score(torch.tensor([0.5, 1.5]), torch.tensor([0.5, 0.5]), 1.0) == pytest.approx(2 * 0.5 / 1.5)


def test_chamfer_of_a_mesh_with_itself_is_the_floor_and_exact_distances_have_none():
    sphere = icosphere(0.45)
    floor = chamfer_floor(4 * math.pi * 0.45**2, samples=30_000)
    assert chamfer(sphere, sphere, "deepsdf") == pytest.approx(floor, rel=0.03)
    assert chamfer(sphere, sphere, "point_to_mesh", samples=5_000) < 1e-7


def test_chamfer_conventions_on_parallel_cubes():
    """Samples of a cube against a cube twice its size: by an independent brute-force search."""
    a, b = cube(1.0), cube(2.0)
    points = sample_surface(a, 2000, seed=0).points, sample_surface(b, 2000, seed=1).points
    distances = torch.cdist(*points)
    there, back = distances.amin(1), distances.amin(0)
    assert chamfer(a, b, "bacon", samples=2000) == pytest.approx(float((there**2).mean() + (back**2).mean()))
    assert chamfer(a, b, "occnet_l1", samples=2000) == pytest.approx(float(there.mean() + back.mean()) / 2)
    assert chamfer(a, b, "occnet_l2", samples=2000) == pytest.approx(float((there**2).mean() + (back**2).mean()) / 2)
    assert chamfer(a, b, "deepsdf", samples=2000) == pytest.approx(2 * chamfer(a, b, "occnet_l2", samples=2000))
    with pytest.raises(ValueError, match="no Chamfer convention"):
        chamfer(a, b, "emd")  # type: ignore[arg-type]


def test_shifted_cubes_overlap_by_hand():
    ratio, confidence = iou_interval(cube(0.8), cube(0.8, shift=0.2), points=200_000)
    assert abs(ratio - 0.6 / 1.0) < 1.5 * confidence and confidence < 0.005
    assert iou_paper(cube(0.8), cube(0.8)) == 1.0


def test_metrics_do_not_depend_on_units_or_position():
    small, large = icosphere(0.44, 3), icosphere(0.45, 3)

    def moved(mesh):
        return replace(mesh, vertices=mesh.vertices * 1000 + 5e4)

    near = evaluate(small, large, samples=5_000, iou_points=50_000)
    far = evaluate(moved(small), moved(large), samples=5_000, iou_points=50_000)
    for name in ("point_to_surface_mean", "iou", "chamfer_paper", "normal_error_mean"):
        assert far[name] == pytest.approx(near[name], rel=1e-3), name
    assert far["point_to_surface_mean_world"] == pytest.approx(1000 * near["point_to_surface_mean_world"], rel=1e-3)


def test_vertex_error_is_signed_on_request():
    error = vertex_error(icosphere(0.44, 3), icosphere(0.45, 4), signed=True)
    assert (error < 0).all() and error.abs().mean() == pytest.approx(0.01, rel=0.15)


def test_command_line_writes_json_and_refuses_in_one_sentence(tmp_path):
    save_mesh(cube(1.0), tmp_path / "a.ply")
    script = [sys.executable, str(ROOT / "scripts" / "evaluate_mesh.py"), "--samples", "2000", "--iou-points", "5000"]
    files = ["--prediction", str(tmp_path / "a.ply"), "--reference", str(tmp_path / "a.ply")]
    subprocess.run([*script, *files, "--json", str(tmp_path / "out.json")], check=True, capture_output=True)
    metrics = json.loads((tmp_path / "out.json").read_text())
    assert metrics["iou"] == 1.0 and metrics["surface_to_point_mean"] < 1e-6
    (tmp_path / "text.ply").write_text("hello")
    bad = [*script, "--prediction", str(tmp_path / "text.ply"), "--reference", str(tmp_path / "a.ply")]
    result = subprocess.run(bad, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("evaluate_mesh: ") and len(result.stderr.strip().splitlines()) == 1
