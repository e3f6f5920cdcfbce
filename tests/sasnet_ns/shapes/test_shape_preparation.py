"""What both doors do with a shape before they train on it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from sasnet_ns.shapes import prepare_shape
from sasnet_ns.shapes.named import named_shape, resolve_mesh
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, PointCloud


def ball() -> Mesh:
    import trimesh

    sphere = trimesh.creation.icosphere(3)
    return Mesh(torch.from_numpy(sphere.vertices.copy()), torch.from_numpy(sphere.faces.astype("int64")), name="ball")


def sphere_cloud(inward: bool = False) -> PointCloud:
    points = torch.nn.functional.normalize(
        torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1
    ).double()
    return PointCloud(points, -points if inward else points, name="scan")


CENTER = torch.zeros(1, 3)


def test_a_double_sided_mesh_is_mended_with_a_word() -> None:
    mesh = replace(ball(), faces=torch.cat([ball().faces, ball().faces.flip(1)]))
    with pytest.warns(ShapeWarning, match=r"'ball': 1,280 triangles were there twice"):
        ready = prepare_shape(mesh)
    assert bool(SignedDistance(ready.shape).contains(CENTER))
    # Without a side to find, and where the user says so, it stays as it is.
    assert prepare_shape(mesh, normals=False).shape.faces.shape[0] == 2560
    assert prepare_shape(mesh, orientation="trust").shape.faces.shape[0] == 2560


def test_a_sheet_is_refused_unless_no_side_is_asked_for() -> None:
    sheet = Mesh(torch.rand(4, 3).double() * torch.tensor([1.0, 1.0, 0.0]), torch.tensor([[0, 1, 2], [0, 2, 3]] * 2))
    with pytest.raises(ShapeError, match=r"encloses nothing.*sign_agnostic"):
        prepare_shape(sheet)
    prepare_shape(sheet, normals=False)


def test_given_normals_are_checked() -> None:
    with pytest.warns(ShapeWarning, match="pointed inward"):
        ready = prepare_shape(sphere_cloud(inward=True))
    assert bool(SignedDistance(ready.shape).contains(CENTER))
    assert not bool(SignedDistance(prepare_shape(sphere_cloud(True), orientation="trust").shape).contains(CENTER))


def test_strays_beside_given_normals_are_left_out() -> None:
    cloud = sphere_cloud()
    far = torch.tensor([[100.0, 0, 0]]).double()
    with pytest.warns(ShapeWarning, match="left out 1 point that lies far from all others"):
        ready = prepare_shape(PointCloud(torch.cat([cloud.points, far]), torch.cat([cloud.normals, far / 100])))
    assert ready.scale == pytest.approx(0.45, rel=0.02)


def test_names_reach_sdf_tools() -> None:
    assert named_shape("no such name") is None
    armadillo = named_shape("Armadillo")
    assert isinstance(armadillo, Mesh) and armadillo.faces.shape[0] > 90_000
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    value = text.split('entry-points."sdf_tools.shapes"]')[1].split('"')[1]
    assert EntryPoint("sasnet", value, "sdf_tools.shapes").load() is named_shape


def test_the_armadillo_needs_no_mending(recwarn: pytest.WarningsRecorder) -> None:
    ready = prepare_shape("armadillo")
    assert not [w for w in recwarn if issubclass(w.category, ShapeWarning)]
    assert np.isfinite(ready.scale)


def test_memory_is_estimated_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = replace(resolve_mesh("armadillo"), name="big")
    monkeypatch.setenv("SDF_TOOLS_MAX_MEMORY", "10M")
    with pytest.raises(ShapeError, match=r"'big, 99,976 triangles' needs 76 MiB of memory, more than the 10 MiB"):
        prepare_shape(mesh)
    monkeypatch.delenv("SDF_TOOLS_MAX_MEMORY")
    monkeypatch.setattr("sasnet_ns.shapes.prepare.SAID_FROM", 1 << 20)
    with pytest.warns(ShapeWarning, match="99,976 triangles: preparing them takes about 76 MiB of memory"):
        prepare_shape(mesh)
