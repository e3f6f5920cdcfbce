"""The command lines as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdf_tools.geometry import Mesh
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_mesh

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A ball of radius 2 around (10, 0, 0), fitted by scripts/fit_shape.py from a small configuration."""
    import trimesh

    folder = tmp_path_factory.mktemp("fit")
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    vertices = torch.from_numpy(sphere.vertices.copy()) + torch.tensor([10.0, 0, 0])
    save_mesh(Mesh(vertices, torch.from_numpy(sphere.faces.copy())), folder / "ball.ply")
    (folder / "quick.yaml").write_text(
        "network: siren\nnetwork_config: {width: 48}\npoints_per_batch: 1500\npool_size: 20000\n"
        "recipe: {steps: 150, warmup_steps: 5}\n"
    )
    result = call(
        "scripts/fit_shape.py", "--data", str(folder / "ball.ply"), "--config", str(folder / "quick.yaml"),
        "--output-dir", str(folder / "run"), "--resolution", "32", "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def test_fit_extract_evaluate(fitted):
    assert {p.name for p in (fitted / "run").iterdir()} == {"field.pt", "losses.json", "mesh.ply", "run.json"}
    out = fitted / "ball.obj"
    result = call(
        "scripts/extract_mesh.py", "--load-config", str(fitted / "run" / "field.pt"),
        "--output-path", str(out), "--resolution", "64",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    mesh = load(out)
    assert isinstance(mesh, Mesh)
    radius = (mesh.vertices - torch.tensor([10.0, 0, 0])).norm(dim=1)
    assert abs(float(radius.median()) - 2) < 0.05
    result = call(
        "scripts/evaluate_mesh.py", "--prediction", str(out), "--reference", str(fitted / "ball.ply"),
        "--samples", "3000", "--iou-samples", "10000", "--json", str(fitted / "out.json"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((fitted / "out.json").read_text())
    wanted = {"chamfer_paper", "chamfer_floor", "iou_paper", "iou", "accuracy_mean", "completeness_mean"}
    wanted |= {"hausdorff", "f_score", "normal_consistency", "components_prediction", "watertight_prediction"}
    assert wanted <= set(metrics) and metrics["iou"] > 0.9


def test_box_and_level_are_in_the_inputs_units(fitted):
    out = fitted / "half.ply"
    result = call(
        "scripts/extract_mesh.py", "--load-config", str(fitted / "run" / "field.pt"), "--output-path", str(out),
        "--resolution", "48", "--level", "0.1",
        "--bounding-box-min", "10", "-2.2", "-2.2", "--bounding-box-max", "12.2", "2.2", "2.2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    mesh = load(out)
    assert isinstance(mesh, Mesh)
    assert mesh.vertices[:, 0].min() >= 10 - 1e-6
    radius = (mesh.vertices - torch.tensor([10.0, 0, 0])).norm(dim=1)
    assert abs(float(radius.median()) - 2.1) < 0.06


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--load-config", "nowhere/config.yml"], "there is no run at"),
        (["--load-config", "README.md", "--output-path", "mesh.xyz"], "must end in one of"),
        (["--load-config", "README.md"], "holds no field.pt"),
    ],
)
def test_extract_refuses_in_one_sentence(arguments, sentence):
    result = call("scripts/extract_mesh.py", *arguments)
    assert result.returncode == 1 and sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_sdf_tools_commands(fitted):
    tool = ["-c", "from sdf_tools.cli import main; main()"]
    info = call(*tool, "info", str(fitted / "ball.ply"))
    assert info.returncode == 0 and "watertight" in info.stdout and "642" in info.stdout
    picture = fitted / "ball.png"
    assert (
        call(*tool, "render", str(fitted / "ball.ply"), "--output-path", str(picture), "--size", "64").returncode == 0
    )
    assert picture.read_bytes()[:4] == b"\x89PNG"
    points = fitted / "points.npz"
    assert (
        call(*tool, "sample", str(fitted / "ball.ply"), "--output-path", str(points), "--count", "500").returncode == 0
    )
    distance = call(*tool, "distance", str(fitted / "ball.ply"), str(points), "--output-path", str(fitted / "d.npy"))
    assert distance.returncode == 0, distance.stderr
    missing = call(*tool, "info", "nowhere.ply")
    assert missing.returncode == 1 and len(missing.stderr.strip().splitlines()) == 1


def test_render_shows_the_mesh_in_the_middle():
    import trimesh

    from sdf_tools.pictures.render import Camera, error_colors, render_mesh

    sphere = trimesh.creation.icosphere(subdivisions=2)
    mesh = Mesh(torch.from_numpy(sphere.vertices.copy()), torch.from_numpy(sphere.faces.copy()))
    picture = render_mesh(mesh, Camera(zoom=1.0), (40, 60), supersampling=1, occlusion_rays=2)
    assert picture.shape == (40, 60, 3) and picture.min() >= 0 and picture.max() <= 1
    background = picture[0, 0]
    covered = (picture - background).abs().sum(-1) > 1e-3
    assert covered[20, 30] and not covered[:, 0].any()
    # A sphere that just fits fills a disc of the picture's height.
    assert float(covered.sum()) == pytest.approx(3.1416 * 20**2, rel=0.1)
    colors = error_colors(torch.tensor([0.0, 1.0, 2.0]), largest=2.0)
    assert colors.shape == (3, 3) and not torch.equal(colors[0], colors[2])
