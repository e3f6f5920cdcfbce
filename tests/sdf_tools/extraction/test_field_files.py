"""Fields by name, on the command line and off it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from sdf_tools import cli
from sdf_tools.extraction.field_files import load_field
from sdf_tools.geometry import Mesh
from sdf_tools.io.loading import load
from sdf_tools.mesh.summary import summarize

CODE = """
import numpy as np

def ball(points):
    return points.norm(dim=-1) - 0.3

def numpy_ball(points):
    return np.linalg.norm(points, axis=1) - 0.3

def density(points):
    return 5 - 10 * points.norm(dim=-1)

number = 3
"""


class Ball(torch.nn.Module):
    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return points.norm(dim=-1) - 0.3


def export(path: Path, frame: dict[str, object] | None) -> Path:
    program = torch.export.export(Ball(), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(program, path, extra_files={"frame.json": json.dumps(frame)} if frame else {})
    return path


@pytest.fixture
def extract(monkeypatch, tmp_path):
    (tmp_path / "balls.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)

    def call(field: object, *options: object) -> Mesh:
        words = [
            "sdf-tools",
            "extract",
            str(field),
            "--output-path",
            "out.ply",
            "--resolution",
            "32",
            *map(str, options),
        ]
        monkeypatch.setattr(sys, "argv", words)
        cli.main()
        mesh = load("out.ply")
        assert isinstance(mesh, Mesh)
        return mesh

    yield call
    torch.set_grad_enabled(True)
    sys.modules.pop("balls", None)


@pytest.mark.parametrize("spec", ["balls:ball", "balls.py:ball", "balls.py:numpy_ball"])
def test_functions(extract, spec):
    assert extract(spec).vertices.norm(dim=1).sub(0.3).abs().max() < 2e-3


def test_density_box_and_clean_up(extract):
    whole = extract("balls.py:density", "--inside", "above", "--level", 2, "--method", "dual_contouring")
    assert summarize(whole).watertight and summarize(whole).volume == pytest.approx(4 / 3 * torch.pi * 0.027, rel=0.01)
    box = ("--bounding-box-min", -0.5, -0.5, 0, "--bounding-box-max", 0.5, 0.5, 0.5)
    half = extract("balls.py:ball", *box)
    assert summarize(half).holes == 1 and half.vertices[:, 2].min() == 0
    assert summarize(extract("balls.py:ball", *box, "--fill-holes")).watertight
    few = extract("balls.py:ball", *box, "--cap", "--largest-component", "--simplify", 200)
    assert summarize(few).watertight and len(few.faces) <= 200


def test_exported_programs_know_their_units(extract, tmp_path):
    plain = extract(export(tmp_path / "plain.pt2", None), "--refine-steps", 2, "--trust")
    assert plain.vertices.norm(dim=1).sub(0.3).abs().max() < 1e-5
    placed = export(tmp_path / "placed.pt2", {"center": [100.0, 0.0, -7.0], "scale": 0.01})
    mesh = extract(placed, "--level", 5, "--trust")
    radius = (mesh.vertices - torch.tensor([100.0, 0.0, -7.0])).norm(dim=1)
    assert radius.median() == pytest.approx(35, abs=0.2)
    assert load_field(str(placed), trust=True).name == "placed"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("balls.py:cube", "no function 'cube'"),
        ("balls.py:number", "no function 'number'"),
        ("nowhere.py:ball", "does not exist"),
        ("no_such_module_at_all:ball", "cannot be imported"),
        ("missing.pt2", "does not exist"),
        ("balls.pt2", "give --trust"),
        ("field.pt", "torch.export"),
        ("missing.ply", "does not exist"),
    ],
)
def test_refusals_are_one_sentence(extract, tmp_path, spec, says):
    (tmp_path / "balls.pt2").write_text("words")
    with pytest.raises(SystemExit) as caught:
        extract(spec)
    message = str(caught.value.code)
    assert says in message and "\n" not in message and message.endswith(".") and not (tmp_path / "out.ply").exists()


def test_a_file_finds_the_modules_beside_it(extract, tmp_path):
    folder = tmp_path / "fields"
    folder.mkdir()
    (folder / "radii_beside.py").write_text("RADIUS = 0.3\n")
    (folder / "shell.py").write_text(
        "from radii_beside import RADIUS\ndef ball(p):\n    return p.norm(dim=1) - RADIUS\n"
    )
    before = list(sys.path)
    assert extract("fields/shell.py:ball").vertices.norm(dim=1).sub(0.3).abs().max() < 2e-3
    assert sys.path == before
