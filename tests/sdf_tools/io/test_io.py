from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load, save_mesh, save_points, validate_for_fitting

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]


def cube() -> Mesh:
    faces = [t for a, b, c, d in QUADS for t in ([a, b, c], [a, c, d])]
    return Mesh(torch.from_numpy(CUBE), torch.tensor(faces), name="cube")


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices - mesh.vertices.mean(0))[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def ply(header: str, body: str) -> str:
    vertices = "\n".join(" ".join(f"{x:g}" for x in row) for row in CUBE)
    return (
        "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
        f"{header}\nend_header\n{vertices}\n{body}\n"
    )


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl", ".glb", ".off"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_mesh_survives_writing_and_reading(tmp_path: Path, suffix: str, offset: float) -> None:
    mesh = cube()
    mesh = Mesh(mesh.vertices * 1e-3 + offset, mesh.faces)
    save_mesh(mesh, tmp_path / f"cube{suffix}")
    back = load(tmp_path / f"cube{suffix}")
    assert isinstance(back, Mesh) and back.vertices.shape == (8, 3) and back.faces.shape == (12, 3)
    assert volume(back) == pytest.approx(1e-9, rel=1e-4)
    assert torch.allclose(back.vertices.amin(0), mesh.vertices.amin(0), rtol=0, atol=1e-8)
    assert [p.name for p in tmp_path.iterdir()] == [f"cube{suffix}"]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_normals_and_colors_survive(tmp_path: Path, suffix: str) -> None:
    mesh = cube()
    normals = torch.nn.functional.normalize(mesh.vertices - 0.5, dim=1)
    save_mesh(Mesh(mesh.vertices, mesh.faces, normals, mesh.vertices), tmp_path / f"m{suffix}")
    back = load(tmp_path / f"m{suffix}", merge=False)
    assert isinstance(back, Mesh) and back.vertex_normals is not None
    assert torch.allclose(back.vertex_normals, torch.nn.functional.normalize(back.vertices - 0.5, dim=1), atol=1e-5)
    if suffix != ".obj":
        assert back.vertex_colors is not None and torch.allclose(back.vertex_colors, back.vertices, atol=1e-6)


def test_ply_quads_polygons_and_strips(tmp_path: Path) -> None:
    quads = "\n".join("4 " + " ".join(map(str, q)) for q in QUADS)
    mixed = "\n".join(["4 " + " ".join(map(str, q)) for q in QUADS[1:]] + ["3 0 1 3", "3 0 3 2"])
    # One strip per quad: a b d c makes the triangles a b d and, turned, d b c.
    strips = " -1 ".join(f"{a} {b} {d} {c}" for a, b, c, d in QUADS)
    for name, header, body in (
        ("quads", "element face 6\nproperty list uchar int vertex_indices", quads),
        ("mixed", "element face 7\nproperty list uchar int vertex_index", mixed),
        ("strips", "element tristrips 1\nproperty list int int vertex_indices", f"{6 * 4 + 5} {strips}"),
    ):
        (tmp_path / f"{name}.ply").write_text(ply(header, body))
        mesh = load(tmp_path / f"{name}.ply")
        assert isinstance(mesh, Mesh) and mesh.faces.shape == (12, 3), name
        assert volume(mesh) == pytest.approx(1.0), name


def test_pentagon_binary_big_endian(tmp_path: Path) -> None:
    angle = 2 * np.pi * np.arange(5) / 5
    points = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1).astype(">f4")
    header = (
        "ply\nformat binary_big_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = b"\x05" + np.arange(5, dtype=">i4").tobytes() + b"\x03" + np.array([0, 1, 2], ">i4").tobytes()
    (tmp_path / "p.ply").write_bytes(header.encode() + points.tobytes() + faces)
    mesh = load(tmp_path / "p.ply")
    assert isinstance(mesh, Mesh) and sorted(mesh.faces.tolist()) == [[0, 1, 2], [0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_glb_scene_keeps_transforms(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    for x in (0.0, 5.0):
        move = np.eye(4)
        move[0, 3] = x
        scene.add_geometry(trimesh.creation.box(), transform=move)
    scene.export(tmp_path / "two.glb")
    mesh = load(tmp_path / "two.glb")
    assert mesh.vertices.amin(0).tolist() == [-0.5, -0.5, -0.5] and mesh.vertices.amax(0).tolist() == [5.5, 0.5, 0.5]


@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".npy", ".npz"])
@pytest.mark.parametrize("with_normals", [False, True])
def test_point_cloud_round_trip(tmp_path: Path, suffix: str, with_normals: bool) -> None:
    points = torch.rand(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e5
    normals = torch.nn.functional.normalize(points - points.mean(0), dim=1) if with_normals else None
    save_points(PointCloud(points, normals), tmp_path / f"c{suffix}")
    back = load(tmp_path / f"c{suffix}")
    assert isinstance(back, PointCloud) and torch.allclose(back.points, points, rtol=0, atol=1e-6)
    assert (back.normals is not None) == with_normals
    if back.normals is not None and normals is not None:
        assert torch.allclose(back.normals, normals, atol=1e-6)


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_pcd(tmp_path: Path, form: str) -> None:
    rows = np.arange(24, dtype="<f4").reshape(4, 6) + 1
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z normal_x normal_y normal_z\nSIZE 4 4 4 4 4 4\nTYPE F F F F F F\n"
    head += f"COUNT 1 1 1 1 1 1\nWIDTH 4\nHEIGHT 1\nPOINTS 4\nDATA {form}\n"
    body = rows.tobytes() if form == "binary" else "\n".join(" ".join(map(str, r)) for r in rows).encode()
    (tmp_path / "c.pcd").write_bytes(head.encode() + body)
    cloud = load(tmp_path / "c.pcd")
    assert isinstance(cloud, PointCloud) and np.allclose(cloud.points, rows[:, :3])
    assert cloud.normals is not None and np.allclose(cloud.normals[0], rows[0, 3:] / np.linalg.norm(rows[0, 3:]))


def one_sentence(error: ShapeError) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and len(text) < 300


def test_bad_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    bad = CUBE.copy()
    bad[3, 1] = np.nan
    np.savez(tmp_path / "nan.npz", vertices=bad, faces=np.array([[0, 1, 2]] * 4))
    np.savez(tmp_path / "range.npz", vertices=CUBE, faces=np.array([[0, 1, 99]]))
    np.savez(tmp_path / "keys.npz", other=CUBE)
    np.savez(tmp_path / "nofaces.npz", vertices=CUBE, faces=np.zeros((0, 3), int))
    (tmp_path / "text.ply").write_text("this is a letter, not a mesh")
    (tmp_path / "text.obj").write_text("this is a letter, not a mesh")
    (tmp_path / "text.stl").write_text("this is a letter, not a mesh")
    (tmp_path / "text.off").write_text("this is a letter, not a mesh")
    (tmp_path / "text.glb").write_text("this is a letter, not a mesh")
    (tmp_path / "text.npz").write_text("this is a letter, not a mesh")
    (tmp_path / "text.npy").write_text("this is a letter, not a mesh")
    (tmp_path / "text.xyz").write_text("this is a letter, not a mesh")
    (tmp_path / "text.pcd").write_text("this is a letter, not a mesh")
    (tmp_path / "cut.ply").write_text(ply("element face 9\nproperty list uchar int vertex_indices", "3 0 1 2"))
    (tmp_path / "empty.obj").write_text("")
    (tmp_path / "shape.xyzzy").write_text("1 2 3")
    for name in [p.name for p in tmp_path.iterdir()] + ["missing.ply"]:
        with pytest.raises(ShapeError) as caught:
            load(tmp_path / name)
        assert one_sentence(caught.value), str(caught.value)
        assert name in str(caught.value), str(caught.value)


def test_what_cannot_be_fitted_is_refused() -> None:
    mesh = cube()
    for shape, word in (
        (Mesh(mesh.vertices[:3], mesh.faces[:1] * 0 + torch.arange(3)), "1 triangle"),
        (PointCloud(torch.rand(10, 3, dtype=torch.float64)), "10 points"),
        (Mesh(mesh.vertices * 0 + 7, mesh.faces), "zero size"),
        (Mesh(mesh.vertices * torch.tensor([1.0, 0, 0]), mesh.faces), "degenerate"),
        (PointCloud(torch.full((60, 3), float("inf"))), "infinite"),
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), "no points"),
    ):
        with pytest.raises(ShapeError, match=word) as caught:
            validate_for_fitting(shape)
        assert one_sentence(caught.value)
    validate_for_fitting(mesh)


def test_seams_are_joined(shared_data: Path) -> None:
    from sdf_tools.mesh.summary import summarize

    spot = load(shared_data / "meshes" / "spot.obj")
    assert summarize(spot).bodies == 1 and summarize(spot).watertight
    assert spot.vertices.shape[0] == 2930
