"""The command line from files to files, and its one-sentence refusals."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from primitives import box, cloud

from sdf_tools import cli
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_mesh, save_points
from sdf_tools.mesh.summary import summarize
from sdf_tools.topology import is_watertight


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


def test_samples_of_a_body_inside_out_have_normals_that_point_out_of_it(run, tmp_path, capsys):
    cube = box()
    save_mesh(Mesh(cube.vertices, cube.faces.flip(1)), tmp_path / "inward.ply")
    for orientation, share in (("check", 1.0), ("trust", 0.0)):
        run("sample", tmp_path / "inward.ply", "--output-path", tmp_path / "s.npz", "--orientation", orientation)
        cloud = load(tmp_path / "s.npz")
        outward = ((cloud.points - cube.vertices.mean(0)) * cloud.normals).sum(-1) > 0
        assert float(outward.double().mean()) == share
        assert ("turned" in capsys.readouterr().err) == (orientation == "check")


def test_a_surface_that_leaves_the_box_is_said_to_be_cut_off(run, tmp_path, capsys):
    save_mesh(box(), tmp_path / "box.ply")
    low = [float(x) for x in box().vertices.mean(0)]
    for more, said in (([], True), (["--cap"], False)):
        run("extract", tmp_path / "box.ply", "--output-path", tmp_path / "m.ply", "--resolution", 24,
            "--bounding-box-min", *low, *more)  # fmt: skip
        assert ("leaves the box and is cut off there" in capsys.readouterr().err) == said
        assert is_watertight(load(tmp_path / "m.ply").faces.numpy()) != said


def test_distance_and_extract_find_the_inside_as_training_does(run, tmp_path, capsys):
    """A double-sided box and a ball whose normals point inward; --orientation trust takes them as they are."""
    cube = box()
    save_mesh(Mesh(cube.vertices, torch.cat([cube.faces, cube.faces.flip(1)])), tmp_path / "double.ply")
    inward = cloud(4000)
    save_points(PointCloud(inward.points, -inward.points), tmp_path / "inward.ply")
    middle = cube.vertices.mean(0)
    np.save(tmp_path / "middle.npy", middle[None].numpy())
    np.save(tmp_path / "origin.npy", np.zeros((1, 3)))
    half = float((cube.vertices.amax(0) - cube.vertices.amin(0)).amin()) / 2
    for name, where, depth in (("double", "middle", half), ("inward", "origin", 1.0)):
        out = tmp_path / "distance.npy"
        run("distance", tmp_path / f"{name}.ply", tmp_path / f"{where}.npy", "--output-path", out)
        assert np.load(out) == pytest.approx(-depth, abs=0.02)
        said = capsys.readouterr()
        assert "100.0% inside" in said.out and f"{name}: " in said.err
        run(
            "distance",
            tmp_path / f"{name}.ply",
            tmp_path / f"{where}.npy",
            "--output-path",
            out,
            "--orientation",
            "trust",
        )
        assert np.load(out) > 0 and not capsys.readouterr().err
    run("extract", tmp_path / "inward.ply", "--output-path", tmp_path / "ball.ply", "--resolution", 48)
    ball = summarize(load(tmp_path / "ball.ply"))
    assert ball.watertight and ball.volume == pytest.approx(4 / 3 * torch.pi, rel=0.03)
    assert "pointed inward" in capsys.readouterr().err


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
    """``sdf-tools extract`` of an occupancy: a ball, and a sphere that holds a node at 256 cells but none at 128."""
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
    assert stored["iou"] == 1.0 and stored["accuracy_mean"] < 1e-6
    assert "box units" in capsys.readouterr().out


def test_render(run, ball, tmp_path):
    run("render", ball, "--output-path", tmp_path / "ball.png", "--size", 32)
    assert (tmp_path / "ball.png").read_bytes()[1:4] == b"PNG"
    run("render", ball, "--output-path", tmp_path / "turn.png", "--size", 24, "--turntable", "--frames", 3)
    from PIL import Image

    with Image.open(tmp_path / "turn.png") as picture:
        assert picture.n_frames == 3


def test_info_takes_names_that_packages_register(run, capsys, monkeypatch):
    from importlib import metadata

    class Registered:
        @staticmethod
        def load():
            return lambda name: box() if name == "cube" else None

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Registered()] * (group == "sdf_tools.shapes"))
    run("info", "cube")
    assert "box (mesh)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="does not exist"):
        run("info", "sphere")


def test_info_says_what_training_mends(run, tmp_path, capsys):
    mesh = box()
    save_mesh(Mesh(mesh.vertices, torch.cat([mesh.faces, mesh.faces.flip(1)])), tmp_path / "double.ply")
    run("info", tmp_path / "double.ply")
    out = capsys.readouterr().out
    assert "opposite duplicates" in out and "mended for training: 12 triangles were there twice" in out
    save_mesh(Mesh(mesh.vertices, torch.tensor([[0, 1, 3], [0, 3, 2]])), tmp_path / "sheet.ply")
    run("info", tmp_path / "sheet.ply")
    assert "encloses nothing" in capsys.readouterr().out
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(1500, 3, generator=generator, dtype=torch.float64), dim=1)
    strays = 10 + torch.rand(3, 3, generator=generator, dtype=torch.float64)
    save_points(PointCloud(torch.cat([ball, ball[:200], strays])), tmp_path / "cloud.ply")
    run("info", tmp_path / "cloud.ply")
    out = capsys.readouterr().out
    assert "mended for training: merged 200 repeated points" in out and "mended for training: left out 3 points" in out


def test_repair_writes_a_closed_mesh_and_says_what_it_did(run, tmp_path, capsys):
    mesh = box()
    five = mesh.faces[(mesh.vertices[mesh.faces][:, :, 0] > 0).any(1)]  # of six sides
    save_mesh(Mesh(mesh.vertices, torch.cat([five, five.flip(1)])), tmp_path / "double.ply")
    run("repair", tmp_path / "double.ply", tmp_path / "good.ply")
    out = capsys.readouterr().out
    assert "10 triangles were there twice" in out and "filled 1 holes" in out
    assert summarize(load(tmp_path / "good.ply")).watertight
    assert summarize(load(tmp_path / "good.ply")).volume == pytest.approx(1)
    run("repair", tmp_path / "good.ply", tmp_path / "again.ply")
    assert "nothing had to be changed" in capsys.readouterr().out


def test_evaluate_against_clouds(run, ball, tmp_path, capsys):
    run("sample", ball, "--output-path", tmp_path / "scan.ply", "--count", 4000)
    save_points(PointCloud(load(tmp_path / "scan.ply").points), tmp_path / "bare.ply")
    options = ("--samples", 2000, "--iou-samples", 20000, "--json", tmp_path / "m.json")
    run("evaluate", "--prediction", ball, "--reference", tmp_path / "bare.ply", *options)
    stored = json.loads((tmp_path / "m.json").read_text())
    assert stored["iou"] is None and stored["completeness_mean"] < 1e-5 < stored["accuracy_mean"] < 0.02
    assert "undefined" in capsys.readouterr().out
    run("evaluate", "--prediction", ball, "--reference", tmp_path / "scan.ply", *options)
    assert json.loads((tmp_path / "m.json").read_text())["iou"] > 0.95


def test_an_overlap_of_nothing_is_undefined(run, tmp_path, capsys):
    mesh = box()
    save_mesh(Mesh(mesh.vertices, torch.tensor([[0, 1, 3], [0, 3, 2]])), tmp_path / "sheet.ply")
    options = ("--samples", 2000, "--iou-samples", 2000, "--json", tmp_path / "m.json")
    run("evaluate", "--prediction", tmp_path / "sheet.ply", "--reference", tmp_path / "sheet.ply", *options)
    captured = capsys.readouterr()
    assert "undefined" in captured.out and "encloses nothing" in captured.err
    assert json.loads((tmp_path / "m.json").read_text())["iou"] is None


def test_render_a_cloud(run, ball, tmp_path):
    run("sample", ball, "--output-path", tmp_path / "scan.ply", "--count", 500)
    for options in ((), ("--reference", ball)):
        run("render", tmp_path / "scan.ply", "--output-path", tmp_path / "scan.png", "--size", 48, *options)
        from PIL import Image

        picture = np.asarray(Image.open(tmp_path / "scan.png").convert("RGB"))
        assert (picture[16:32, 16:32].astype(int) < 240).all(-1).mean() > 0.3


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "missing.ply"),
        ("repair", "words.ply", "out.ply"),
        ("info", "words.ply"),
        ("evaluate", "--prediction", "ball.ply", "--reference", "words.ply"),
        ("evaluate", "--prediction", "ball.ply", "--reference", "ball.ply", "--json", "nowhere/m.json"),
        ("normals", "ball.ply", "--output-path", "out.ply"),
        ("render", "ball.ply", "--output-path", "out.tiff", "--size", "16"),
        ("render", "ball.ply", "--output-path", "out.jpg", "--size", "16", "--turntable"),
        ("render", "ball.ply", "--output-path", "out.gif", "--size", "16", "--frames", "1"),
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
    for command in ("info", "repair", "sample", "normals", "distance", "extract", "evaluate", "render"):
        with pytest.raises(SystemExit):
            run(command, "--help")
        assert len(capsys.readouterr().out) > 200


def test_distances_are_of_the_vertices_of_the_file(run, ball, tmp_path):
    seam = tmp_path / "seam.obj"  # every triangle with corners of its own, as texture seams leave them
    corners = "".join(
        f"v {x} {y} {z}\n" for x, y, z in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0), (0, 1, 0), (0, 0, 1)]
    )
    seam.write_text(corners + "f 1 2 3\nf 4 5 6\n")
    run("distance", ball, seam, "--output-path", tmp_path / "d.npy")
    assert len(np.load(tmp_path / "d.npy")) == 6


def test_normals_keep_colours(run, tmp_path):
    points = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    save_points(PointCloud(points.double(), colors=torch.rand(500, 3)), tmp_path / "colored.ply")
    run("normals", tmp_path / "colored.ply", "--output-path", tmp_path / "out.ply")
    found = load(tmp_path / "out.ply")
    assert isinstance(found, PointCloud) and found.colors is not None and found.normals is not None
