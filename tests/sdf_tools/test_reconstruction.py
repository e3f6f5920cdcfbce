from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from primitives import sphere

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_points
from sdf_tools.mesh.summary import summarize
from sdf_tools.metrics import evaluate
from sdf_tools.reconstruction import drop_crumbs, reconstruct
from sdf_tools.sampling import sample_surface

TRUTH = sphere(2.0, (30.0, 0, 0), subdivisions=4)


def raw(scatter: float = 0.02, count: int = 5000) -> PointCloud:
    points = sample_surface(TRUTH, count).points
    return PointCloud(points + scatter * torch.randn(points.shape, generator=torch.Generator().manual_seed(1)).double())


def test_a_noisy_cloud_becomes_one_closed_mesh_in_its_own_units() -> None:
    with pytest.warns(UserWarning, match="noise about"):
        mesh = reconstruct(raw())
    facts = summarize(mesh)
    assert facts.watertight and facts.bodies == 1 and facts.euler == 2
    assert evaluate(mesh, TRUTH, samples=20_000, iou_samples=100_000, paper=False).iou > 0.98


def test_trim_leaves_the_border_that_the_points_leave() -> None:
    cloud = raw(0.0)
    cap = PointCloud(cloud.points[cloud.points[:, 2] < 1.0])
    closed, opened = reconstruct(cap), reconstruct(cap, trim=3.0)
    assert summarize(closed).watertight and not summarize(opened).watertight
    assert opened.vertices[:, 2].max() < 1.3
    with pytest.raises(ValueError, match="trim"):
        reconstruct(cap, trim=0.0)


def test_poisson_agrees_and_unknown_methods_are_refused() -> None:
    pytest.importorskip("open3d")
    mesh = reconstruct(raw(0.0), method="poisson")
    assert evaluate(mesh, TRUTH, samples=20_000, iou_samples=100_000, paper=False).iou > 0.98
    with pytest.raises(ValueError, match="imls or poisson"):
        reconstruct(raw(), method="magic")  # type: ignore[arg-type]


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 16"):
        reconstruct(PointCloud(torch.randn(9, 3)))


def test_crumbs_go_and_pieces_stay() -> None:
    from primitives import join

    big, small = sphere(subdivisions=3), sphere(0.2, (3, 0, 0), subdivisions=0)
    assert drop_crumbs(join(big, small)).faces.shape == big.faces.shape
    assert drop_crumbs(join(big, sphere(0.5, (3, 0, 0), subdivisions=2))).faces.shape[0] > big.faces.shape[0]


def test_the_command(tmp_path: Path) -> None:
    save_points(raw(), tmp_path / "scan.ply")
    run = [sys.executable, "-c", "from sdf_tools.cli import main; main()", "reconstruct"]
    done = subprocess.run(
        [*run, str(tmp_path / "scan.ply"), "--output-path", str(tmp_path / "mesh.ply")], capture_output=True, text=True
    )
    assert done.returncode == 0 and "noise about" in done.stderr, done.stderr
    assert summarize(load(tmp_path / "mesh.ply")).watertight
    done = subprocess.run(
        [*run, str(tmp_path / "mesh.ply"), "--output-path", str(tmp_path / "again.ply")], capture_output=True, text=True
    )
    assert done.returncode == 1 and "is a mesh already" in done.stderr and not (tmp_path / "again.ply").exists()


@pytest.mark.parametrize("fault", ["inward", "arbitrary", "unrelated", "zero"])
def test_wrong_normals_that_came_with_a_cloud_are_mended(fault: str) -> None:
    samples, generator = sample_surface(TRUTH, 2000), torch.Generator().manual_seed(0)
    flips = torch.where(torch.rand(2000, 1, generator=generator) < 0.5, -1.0, 1.0).double()
    chance = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator).double(), dim=1)
    normals = {
        "inward": -samples.normals,
        "arbitrary": flips * samples.normals,
        "unrelated": chance,
        "zero": 0 * samples.normals,
    }[fault]
    with pytest.warns(UserWarning, match="normals"):
        mesh = reconstruct(PointCloud(samples.points, normals))
    assert evaluate(mesh, TRUTH, samples=10_000, iou_samples=50_000, paper=False).iou > 0.99


def test_an_open_sheet_is_said_to_be_one_and_trimmed_to_one_side() -> None:
    flat = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sheet = PointCloud(torch.cat([flat, torch.zeros(1500, 1, dtype=torch.float64)], dim=1))
    with pytest.warns(UserWarning, match="open sheet"):
        mesh = reconstruct(sheet, trim=2.0)
    facts = summarize(mesh)
    assert facts.bodies == 1 and not facts.watertight
    assert mesh.vertices[:, 2].abs().quantile(0.9) < 0.01
    with pytest.raises(ShapeError, match="one line"):
        reconstruct(PointCloud(torch.arange(60.0)[:, None] * torch.tensor([1.0, 2.0, 0.0])))


def test_few_points_reach_the_box_and_the_mesh_is_closed_all_the_same() -> None:
    mesh = reconstruct(PointCloud(sample_surface(TRUTH, 24).points))
    assert summarize(mesh).watertight
