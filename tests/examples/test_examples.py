"""Every file of examples/ runs, in the smallest useful version, and shows what it says it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUNS: dict[str, list[str]] = {
    "01_extract_any_function.py": ["--resolution", "48", "--output-dir", "out"],
    "02_distances_of_a_mesh.py": ["--shape", "ball.ply", "--resolution", "32", "--output-dir", "out"],
    "03_fit_a_scan.py": ["--scan", "points.ply", "--steps", "150", "--resolution", "48", "--output-dir", "out"],
    "04_a_network_of_your_own.py": ["--shape", "ball.ply", "--steps", "100"],
    "05_sasnet_in_neus.py": ["--size", "16", "--output-path", "normals.png"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ball of radius 3 as a mesh and as points."""
    import torch
    import trimesh

    import sdf_tools

    ball = trimesh.creation.icosphere(subdivisions=4, radius=3.0)
    mesh = sdf_tools.Mesh(torch.from_numpy(ball.vertices.copy()), torch.from_numpy(ball.faces.copy()))
    path = tmp_path_factory.mktemp("examples")
    sdf_tools.save_mesh(mesh, path / "ball.ply")
    points = sdf_tools.sample_surface(mesh, 4000, seed=0).points
    sdf_tools.save_points(sdf_tools.PointCloud(points), path / "points.ply")
    return path


def run(name: str, folder: Path) -> str:
    if "neus" in name:
        pytest.importorskip("nerfstudio")
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / name), *RUNS[name]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def radii(path: Path) -> tuple[float, float]:
    import sdf_tools

    distance = sdf_tools.geometry.positions(sdf_tools.load(path)).norm(dim=1)
    return float(distance.min()), float(distance.max())


def test_they_are_numbered_short_and_all_run_here() -> None:
    assert [path.name for path in EXAMPLES if path.name in RUNS] == sorted(RUNS)
    for number, path in enumerate(EXAMPLES, start=1):
        text = path.read_text()
        assert path.name.startswith(f"{number:02d}_") and len(text.splitlines()) < 60, path.name
        assert f"python examples/{path.name}" in text


def test_extract_any_function(folder: Path) -> None:
    printed = run("01_extract_any_function.py", folder)
    assert len(re.findall(r"[\d,]{5,} triangles", printed)) == 2
    low, high = radii(folder / "out" / "marching_cubes.ply")
    assert low < 0.1 and 0.44 < high < 0.46


def test_distances_of_a_mesh(folder: Path) -> None:
    printed = run("02_distances_of_a_mesh.py", folder)
    inside = float(re.findall(r"([\d.]+)% of the box", printed)[0])
    assert inside == pytest.approx(100 * 3.1416 / 6, abs=1.5)  # a ball's share of its bounding box
    low, high = radii(folder / "out" / "offset.ply")
    assert low == pytest.approx(3 + 0.02 / (0.9 / 6), abs=0.02) and high == pytest.approx(low, abs=0.03)
    assert (folder / "out" / "slice.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_fit_a_scan(folder: Path) -> None:
    run("03_fit_a_scan.py", folder)
    low, high = radii(folder / "out" / "mesh.ply")
    assert low == pytest.approx(3, abs=0.15) and high == pytest.approx(3, abs=0.15)
    assert (folder / "out" / "field.pt").is_file()


@pytest.mark.slow
def test_a_network_of_your_own(folder: Path) -> None:
    printed = run("04_a_network_of_your_own.py", folder)
    found = {name: float(loss) for name, loss in re.findall(r"(\w+): [\d,]+ parameters, loss (\S+)", printed)}
    assert set(found) == {"residual_sine", "siren"} and max(found.values()) < 0.05


@pytest.mark.slow
def test_sasnet_in_neus(folder: Path) -> None:
    printed = run("05_sasnet_in_neus.py", folder)
    assert "SASNet in NeuSModel" in printed
    # The sphere of radius 0.5, seen from 2.5 with a focal length of 1.2 picture widths.
    share = 3.1416 * (1.2 * 0.5 / (2.5**2 - 0.5**2) ** 0.5) ** 2
    covered = float(re.findall(r"covers (\d+)%", printed)[0]) / 100
    assert covered == pytest.approx(share, abs=0.05)
