"""The command line from files to files, and its one-sentence refusals."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from primitives import box

from sdf_tools import cli
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_mesh, save_points


@pytest.fixture
def ball(tmp_path):
    path = tmp_path / "ball.ply"
    mesh = extract_mesh(lambda p: p.norm(dim=-1) - 0.4, 24)
    save_mesh(Mesh(mesh.vertices * 10 + 100, mesh.faces), path)
    return path


@pytest.fixture
def run(monkeypatch):
    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["sdf-tools", *map(str, arguments)])
        with torch.enable_grad():
            cli.main()

    yield call
    torch.set_grad_enabled(True)


def test_info(run, ball, capsys):
    run("info", ball)
    out = capsys.readouterr().out
    assert "watertight" in out and "yes" in out


def test_sample_then_distance(run, ball, tmp_path):
    run("sample", ball, "--output-path", tmp_path / "points.ply", "--count", 500, "--seed", 3)
    cloud = load(tmp_path / "points.ply")
    assert isinstance(cloud, PointCloud) and cloud.points.shape == (500, 3) and cloud.normals is not None
    run("distance", ball, tmp_path / "points.ply", "--output-path", tmp_path / "distance.npy")
    distance = np.load(tmp_path / "distance.npy")
    assert distance.shape == (500,) and np.abs(distance).max() < 1e-4


@pytest.mark.parametrize("method", ["blue-noise", "curvature", "sharp-edges", "near-surface", "volume"])
def test_every_way_to_sample(run, tmp_path, method):
    save_mesh(box(), tmp_path / "box.ply")
    run("sample", tmp_path / "box.ply", "--output-path", tmp_path / "p.npz", "--count", 300, "--method", method)
    cloud = load(tmp_path / "p.npz")
    assert cloud.points.shape == (300, 3) and (cloud.normals is None) == (method in ("near-surface", "volume"))
    depth = cloud.points.abs().amax(1) - 0.5  # of the box's side; 0 on its surface
    assert {"near-surface": 0 < depth.abs().mean() < 0.05, "volume": depth.max() < 0}.get(
        method, depth.abs().max() < 1e-6
    )


def test_normals(run, ball, tmp_path):
    run("sample", ball, "--output-path", tmp_path / "points.npz", "--count", 2000)
    bare = load(tmp_path / "points.npz")
    save_points(PointCloud(bare.points), tmp_path / "bare.ply")
    run("normals", tmp_path / "bare.ply", "--output-path", tmp_path / "oriented.ply")
    cloud = load(tmp_path / "oriented.ply")
    outward = ((cloud.points - 100) * cloud.normals).sum(-1) > 0
    assert outward.double().mean() > 0.99


def test_extract_an_offset_surface(run, ball, tmp_path):
    run("extract", ball, "--output-path", tmp_path / "offset.obj", "--resolution", 40, "--level", 0.5)
    radius = (load(tmp_path / "offset.obj").vertices - 100).norm(dim=-1)
    assert radius.mean() == pytest.approx(4.5, abs=0.05)


@pytest.fixture
def hidden(tmp_path):
    """``sdf-tools extract`` of an occupancy: a ball, and a sphere that holds a node of a lattice of 256 but none of 128."""
    source = "import torch\n\n\ndef balls(p):\n"
    source += f"    small = (p - {203 / 256 - 0.5}).norm(dim=-1) < 0.0035\n"
    source += "    return -((p.norm(dim=-1) < 0.2) | small).float()\n"
    (tmp_path / "field.py").write_text(source)
    mesh = tmp_path / "mesh.ply"
    return ("extract", f"{tmp_path}/field.py:balls", "--output-path", mesh, "--level", -0.5, "--resolution", 256), mesh


def test_extract_warns_of_pieces_that_may_be_missing(run, hidden, capsys):
    run(*hidden[0])
    said = capsys.readouterr().err
    assert said.startswith("sdf-tools: Separate pieces smaller than 0.0078 may be missing") and said.count("\n") == 1
    assert load(hidden[1]).vertices.abs().max() < 0.21


@pytest.mark.slow
def test_thorough_extraction_finds_them(run, hidden, capsys):
    run(*hidden[0], "--thorough")
    assert capsys.readouterr().err == ""
    assert load(hidden[1]).vertices.max() == pytest.approx(203 / 256 - 0.5, abs=1 / 256)


def test_extract_takes_a_bound_and_a_coarse_resolution(run, hidden, capsys):
    # Slopes of an occupancy are jumps; with a bound that cannot be right nothing is in doubt, and nothing is said.
    run(*hidden[0], "--lipschitz", 1, "--coarse-resolution", 32)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit, match="lipschitz must be a positive number"):
        run(*hidden[0], "--lipschitz", -1)


def test_evaluate_writes_json(run, ball, tmp_path, capsys):
    options = ("--samples", 2000, "--iou-samples", 20000)
    run("evaluate", "--prediction", ball, "--reference", ball, "--json", tmp_path / "m.json", *options)
    stored = json.loads((tmp_path / "m.json").read_text())
    assert stored["iou"] == 1.0 and stored["point_to_surface_mean"] < 1e-6
    assert "box units" in capsys.readouterr().out


def test_render(run, ball, tmp_path):
    run("render", ball, "--output-path", tmp_path / "ball.png", "--size", 32)
    assert (tmp_path / "ball.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "missing.ply"),
        ("info", "words.ply"),
        ("evaluate", "--prediction", "ball.ply", "--reference", "words.ply"),
        ("evaluate", "--prediction", "ball.ply", "--reference", "ball.ply", "--json", "nowhere/m.json"),
        ("normals", "ball.ply", "--output-path", "out.ply"),
        ("render", "ball.ply", "--output-path", "out.tiff", "--size", "16"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(run, ball, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.ply").write_text("these are words")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = str(caught.value.code)
    assert message.startswith("sdf-tools: ") and "\n" not in message and message.endswith(".")
    assert sorted(tmp_path.iterdir()) == before


def test_help_explains_every_field(run, capsys):
    for command in ("info", "sample", "normals", "distance", "extract", "evaluate", "render"):
        with pytest.raises(SystemExit):
            run(command, "--help")
        assert len(capsys.readouterr().out) > 200
