"""What numbers in a file mean where it could be something else: read right, or refused, and never another shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_foreign_meshes import is_the_cube, obj, pcd
from test_hostile_files import refused
from test_real_files import CUBE, TRIANGLES, quietly, sphere_points

from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.obj import read_obj
from sdf_tools.io.writing import save_points

# OBJ


def test_the_older_word_for_faces(tmp_path: Path) -> None:
    is_the_cube(tmp_path / "c.obj", obj().replace("f ", "fo "))


@pytest.mark.parametrize("words", ["l 1 2 3", "surf 0 1 0 1 1 2 3 4", "curv 0 1 1 2", "bzp 1 2 3 4"])
def test_points_of_lines_and_free_forms_are_no_cloud(tmp_path: Path, words: str) -> None:
    refused(tmp_path / "c.obj", obj([]) + words + "\n", "and no faces")
    notes = is_the_cube(tmp_path / "d.obj", obj() + words + "\n")
    assert len(notes) == (not words.startswith("l")) and all("left out" in note for note in notes)


@pytest.mark.parametrize("form", ["{0}/{1}", "{0}/{1}/{2}", "{0}//{2}", "{0}"])
def test_every_form_of_corners(form: str) -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers(1, 9, (50, 3, 3))
    lines = [" ".join(form.format(*corner) for corner in face) for face in corners.tolist()]
    text = (
        "".join(f"v {x} {y} {z}\n" for x, y, z in generator.random((8, 3)).tolist()) + "vt 0 0\n" * 8 + "vn 0 0 1\n" * 8
    )
    plain = read_obj((text + "".join(f"f {line}\n" for line in lines)).encode(), "a.obj")
    mixed = read_obj((text + "".join(f"f {line}\n" for line in lines) + "f 1/2/3 1//3 1\n").encode(), "a.obj")
    used = np.unique(corners[..., 0])
    assert np.array_equal(used[plain["faces"]], corners[..., 0])
    assert np.array_equal(plain["faces"], mixed["faces"][:-1])


# NumPy archives


@pytest.mark.parametrize("names", [("vertices", "triangles"), ("points", "cells"), ("verts", "faces")])
def test_faces_by_the_names_of_other_libraries(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "m.npz", **dict(zip(names, (CUBE, np.array(TRIANGLES)), strict=True)))
    mesh, _ = quietly(tmp_path / "m.npz")
    assert isinstance(mesh, Mesh) and len(mesh.faces) == 12


def test_faces_belong_to_the_vertices_and_not_to_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", points=sphere_points(), verts=CUBE, faces=np.array(TRIANGLES))
    mesh, _ = quietly(tmp_path / "m.npz")
    assert isinstance(mesh, Mesh) and np.array_equal(mesh.vertices.numpy(), CUBE)


def test_what_is_no_surface_is_refused(tmp_path: Path) -> None:
    points = sphere_points()
    for name in ("occupancies", "sdf"):
        np.savez(tmp_path / "s.npz", points=points, **{name: np.zeros(len(points))})
        refused(tmp_path / "s.npz", (tmp_path / "s.npz").read_bytes(), f"'{name}' for each.*samples of a volume")
    np.savez(tmp_path / "f.npz", points=CUBE, simplices=np.array(TRIANGLES))
    refused(tmp_path / "f.npz", (tmp_path / "f.npz").read_bytes(), "'simplices'.*may be the faces")
    np.savez(tmp_path / "c.npz", points=points, rgb=np.zeros(points.shape, np.uint8), views=np.zeros((9, 3), np.uint8))
    assert isinstance(quietly(tmp_path / "c.npz")[0], PointCloud)


# Text


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("665,185.584 648,349.726 6,231.709", ""),
        ("1,100.5;2,200.25;3,300.75", "x;y;z\n"),
        ("1,100.5\t2,200.25\t3,300.75", ""),
        ("1 100.5;2 200.2;3 300.1", ""),
        ("1.100,5\t2.200,25\t3.300,75", ""),
        ("665185,584, 648349,726, 6231,709", ""),
    ],
)
def test_separators_inside_of_numbers_are_not_guessed(tmp_path: Path, line: str, header: str) -> None:
    refused(tmp_path / "c.xyz", header + f"{line}\n" * 20, "commas or blanks inside of its numbers")


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("1,2,3 0,0,1 255,0,0", [1, 2, 3]),
        ("0.1,0.2,0.3 0.0,0.0,1.0", [0.1, 0.2, 0.3]),
        ("1, 2, 3", [1, 2, 3]),
        ("100,200,300", [100, 200, 300]),
        ("0,123 0,456 1,789", [0.123, 0.456, 1.789]),
        ("1,5;2,5;3,5", [1.5, 2.5, 3.5]),
        ("1 2 3;0 0 1", [1, 2, 3]),
    ],
)
def test_separators_between_numbers_are_read_as_before(tmp_path: Path, line: str, first: list[float]) -> None:
    (tmp_path / "c.xyz").write_text(f"{line}\n" * 20)
    assert quietly(tmp_path / "c.xyz")[0].points[0].tolist() == first


# Colours and marks


@pytest.mark.parametrize("suffix", [".xyz", ".ply", ".npz"])
@pytest.mark.parametrize("most", [0.0, 0.003, 0.004, 0.5, 1.0])
def test_colours_come_back_however_dark(tmp_path: Path, suffix: str, most: float) -> None:
    points = torch.from_numpy(sphere_points())
    colors = most * torch.rand(points.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    save_points(PointCloud(points, colors=colors), tmp_path / f"c{suffix}")
    shape, _ = quietly(tmp_path / f"c{suffix}")
    assert shape.colors is not None and float((shape.colors - colors).abs().max()) < 0.51 / 255


def test_whole_numbers_are_levels(tmp_path: Path) -> None:
    rows = "".join(f"{x} {y} {z} 1 1 0\n" for x, y, z in CUBE.tolist())
    head = "ply\nformat ascii 1.0\nelement vertex 8\n" + "".join(f"property float {a}\n" for a in "xyz")
    (tmp_path / "c.ply").write_text(
        head + "".join(f"property int {c}\n" for c in ("red", "green", "blue")) + "end_header\n" + rows
    )
    shape, _ = quietly(tmp_path / "c.ply")
    assert shape.colors is not None and shape.colors[0].tolist() == pytest.approx([1 / 255, 1 / 255, 0])


def test_pcd_fields_by_other_names(tmp_path: Path) -> None:
    head = "FIELDS x y z nx ny nz r g b\nSIZE 4 4 4 4 4 4 1 1 1\nTYPE F F F F F F U U U\nCOUNT 1 1 1 1 1 1 1 1 1\n"
    rows = "".join(" ".join(f"{v:.9g}" for v in (*p, *p)) + " 1 0 1\n" for p in sphere_points().tolist())
    text = pcd(head)
    (tmp_path / "c.pcd").write_text(text[: text.index("DATA ascii") + 11] + rows)
    shape, _ = quietly(tmp_path / "c.pcd")
    assert isinstance(shape, PointCloud) and shape.normals is not None and shape.colors is not None
    assert np.allclose(shape.normals, sphere_points(), atol=1e-6)
    assert shape.colors[0].tolist() == pytest.approx([1 / 255, 0, 1 / 255])


def test_withheld_points_are_left_out(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    for version, form in (("1.2", 3), ("1.4", 7)):
        cloud = laspy.LasData(laspy.LasHeader(point_format=form, version=version))
        cloud.x, cloud.y, cloud.z = sphere_points().T
        cloud.red = cloud.green = cloud.blue = np.arange(400) * 100
        cloud.withheld = np.arange(400) >= 350
        suffixes = [".las", ".laz"] if laspy.LazBackend.detect_available() else [".las"]
        for suffix in suffixes:
            cloud.write(str(tmp_path / f"c{suffix}"))
            shape, notes = quietly(tmp_path / f"c{suffix}")
            assert isinstance(shape, PointCloud) and shape.colors is not None
            assert len(shape.points) == len(shape.colors) == 350
            assert ["left out 50 of 400 points marked as withheld" in note for note in notes] == [True]


# Writing


def test_what_is_written_over_keeps_its_permissions_and_links(tmp_path: Path) -> None:
    cloud = PointCloud(torch.from_numpy(sphere_points()))
    target, link = tmp_path / "a.ply", tmp_path / "b.ply"
    save_points(cloud, target)
    target.chmod(0o600)
    link.symlink_to(target)
    save_points(PointCloud(cloud.points * 2), link)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert np.allclose(load(target).points, 2 * sphere_points())  # type: ignore[union-attr]


def test_long_names_of_any_letters(tmp_path: Path) -> None:
    path = tmp_path / ("\u5f62" * 75 + ".ply")  # 229 bytes
    save_points(PointCloud(torch.from_numpy(sphere_points())), path)
    assert len(quietly(path)[0].points) == 400  # type: ignore[union-attr]
