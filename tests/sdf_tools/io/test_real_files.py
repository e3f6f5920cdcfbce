# ruff: noqa: E501, UP031
"""Files as other programs write them: each kind with the value it must have."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sdf_tools.errors import ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_points
from sdf_tools.mesh.summary import summarize

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
TRIANGLES = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
             [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]  # fmt: skip
NOTCH = [(0, 0), (4, 0), (4, 4), (2, 1), (0, 4)]
PRISM = [(x, y, 0) for x, y in NOTCH] + [(x, y, 1) for x, y in NOTCH]
SIDES = [(4, 3, 2, 1, 0), (5, 6, 7, 8, 9), (0, 1, 6, 5), (1, 2, 7, 6), (2, 3, 8, 7), (3, 4, 9, 8), (4, 0, 5, 9)]


def quietly(path: Path) -> tuple[Mesh | PointCloud, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shape = load(path)
    assert all(issubclass(w.category, ShapeWarning) for w in caught), [str(w.message) for w in caught]
    return shape, [str(w.message) for w in caught]


def sphere_points(count: int = 400) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply"])
@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_concave_polygons_leave_their_notch_open(tmp_path: Path, suffix: str, tilt: float) -> None:
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    points = np.array(PRISM) @ (turn @ turn[[2, 0, 1]][:, [2, 0, 1]]).T
    rows = ["%.9g %.9g %.9g" % tuple(p) for p in points]
    if suffix == ".obj":
        lines = ["v " + r for r in rows] + ["f " + " ".join(str(i + 1) for i in f) for f in SIDES]
    elif suffix == ".off":
        lines = ["OFF", "10 7 0", *rows, *(f"{len(f)} " + " ".join(map(str, f)) for f in SIDES)]
    else:
        lines = ["ply", "format ascii 1.0", "element vertex 10", *(f"property float {a}" for a in "xyz"),
                 "element face 7", "property list uchar int vertex_indices", "end_header", *rows,
                 *(f"{len(f)} " + " ".join(map(str, f)) for f in SIDES)]  # fmt: skip
    (tmp_path / f"prism{suffix}").write_text("\n".join(lines))
    found = summarize(quietly(tmp_path / f"prism{suffix}")[0])
    assert found.watertight and found.faces == 16
    edges = sum(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in zip(NOTCH, NOTCH[1:] + NOTCH[:1], strict=True))
    assert found.area == pytest.approx(2 * 10 + edges, rel=1e-6) and found.volume == pytest.approx(10, rel=1e-6)


def test_a_polygon_with_straight_corners_keeps_them_all(tmp_path: Path) -> None:
    outline = [(0, 0), (2, 0), (4, 0), (4, 4), (2, 1), (1, 2.5), (0, 4), (0, 2)]
    text = "".join(f"v {x} {y} 0\n" for x, y in outline) + "f 1 2 3 4 5 6 7 8\n"
    (tmp_path / "p.obj").write_text(text)
    mesh, _ = quietly(tmp_path / "p.obj")
    assert isinstance(mesh, Mesh) and mesh.faces.shape == (6, 3) and len(mesh.faces.unique()) == 8
    assert summarize(mesh).area == pytest.approx(10)


def test_off_of_points_and_of_mixed_polygons(tmp_path: Path) -> None:
    (tmp_path / "points.off").write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    assert isinstance(load(tmp_path / "points.off"), PointCloud)
    faces = "4 0 1 3 2 255 0 0\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n3 1 5 7\n3 1 7 3\n"
    head = "COFF # colours\n# a comment\n8 7 0\n"
    (tmp_path / "mixed.off").write_text(head + "".join(f"{x} {y} {z} 255 0 0 255\n" for x, y, z in CUBE) + faces)
    mesh = load(tmp_path / "mixed.off")
    assert summarize(mesh).watertight and summarize(mesh).volume == pytest.approx(1)
    assert mesh.vertex_colors.tolist() == [[1, 0, 0]] * 8


def test_obj_of_points_alone_and_with_everything(tmp_path: Path) -> None:
    (tmp_path / "points.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in CUBE))
    cloud, _ = quietly(tmp_path / "points.obj")
    assert isinstance(cloud, PointCloud) and cloud.points.shape == (8, 3)
    (tmp_path / "all.obj").write_text(
        "mtllib /dev/zero\no a\nv 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nv 0 0 1 1 0 0\nvt 0 0\nvn 0 0 -2\nusemtl k\n"
        "f 1/1/1 3/1/1 2/1/1\nf 1//1 2//1 4//1 # c\nf -4 -1 -2\nf 2 3 \\\n4\np 1\nl 1 2\n"
    )
    mesh, _ = quietly(tmp_path / "all.obj")
    assert summarize(mesh).watertight and summarize(mesh).volume == pytest.approx(1 / 6)
    assert mesh.vertex_colors.tolist() == [[1, 0, 0]] * 4
    (tmp_path / "slashes.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1// 2//\nf 1// 2// 3//\nf 1/ 2/ 4/\nf 1/"
    )
    assert quietly(tmp_path / "slashes.obj")[0].faces.tolist() == [[0, 1, 2], [0, 1, 3]]
    for bad in ("f 1 2 9", "f 0 1 2", "f -9 1 2", "f 1 2 x", "f 1.5 2 3"):
        (tmp_path / "bad.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n" + bad)
        with pytest.raises(ShapeError):
            load(tmp_path / "bad.obj")


def test_ply_lines_longer_than_the_header_says(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 12\nproperty list uchar int vertex_indices\nend_header\n"
    rows = "".join("%g %g %g\n" % tuple(v) for v in CUBE)
    (tmp_path / "m.ply").write_text(head + rows + "".join("3 %d %d %d 255 0 0\n" % tuple(f) for f in TRIANGLES))
    assert summarize(load(tmp_path / "m.ply")).volume == pytest.approx(1)
    # Rows that run over several lines are one stream of numbers.
    stream = rows.replace("\n", " ").replace("  ", " ") + "\n" + "".join("3 %d\n%d %d\n" % tuple(f) for f in TRIANGLES)
    (tmp_path / "n.ply").write_text(head + stream)
    assert summarize(load(tmp_path / "n.ply")).volume == pytest.approx(1)


def test_a_ply_with_an_empty_list_of_faces_is_a_cloud(tmp_path: Path) -> None:
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    )
    head += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "c.ply").write_bytes(head.encode() + CUBE.astype("<f4").tobytes())
    assert isinstance(load(tmp_path / "c.ply"), PointCloud)


def test_cracks_in_the_last_digits_close(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = (CUBE[TRIANGLES] + [1000.0, 0, 0]).astype("<f4")
    corners = np.nextafter(corners, np.where(rng.random(corners.shape) < 0.5, np.float32(-9e9), np.float32(9e9)))
    rows = np.zeros(12, dtype=[("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    rows["v"] = corners
    (tmp_path / "cad.stl").write_bytes(b" " * 80 + struct.pack("<I", 12) + rows.tobytes())
    mesh, notes = quietly(tmp_path / "cad.stl")
    found = summarize(mesh)
    assert found.watertight and found.vertices == 8 and found.volume == pytest.approx(1, rel=1e-3)
    assert "closed cracks" in notes[0]
    assert not summarize(load(tmp_path / "cad.stl", merge=False)).watertight


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{x} {y} {z} {r} {g} {b}", "colors"),
        ("{x} {y} {z} {nx} {ny} {nz}", "normals"),
        ("{x},{y},{z},{i},{r},{g},{b}", "colors"),
        ("{x};{y};{z};{r};{g};{b};{nx};{ny};{nz}", "colors normals"),
        ("{x}\t{y}\t{z}\t{nx}\t{ny}\t{nz}\t{r}\t{g}\t{b}", "colors normals"),
        ("{x} {y} {z} {i}", ""),
        ("{x} {y} {z}", ""),
    ],
)
@pytest.mark.parametrize("suffix", [".xyz", ".pts", ".txt", ".asc", ".csv"])
def test_columns_are_read_as_what_they_are(tmp_path: Path, text: str, what: str, suffix: str) -> None:
    points = sphere_points()
    colors = np.random.default_rng(1).integers(0, 256, points.shape)
    lines = [
        text.format(x=f"{p[0] * 10 + 6e5:.4f}", y=f"{p[1] * 10:.4f}", z=f"{p[2] * 10:.4f}", i=-1200 + k,
                    nx=f"{p[0]:.5f}", ny=f"{p[1]:.5f}", nz=f"{p[2]:.5f}", r=c[0], g=c[1], b=c[2])
        for k, (p, c) in enumerate(zip(points, colors, strict=True))
    ]  # fmt: skip
    (tmp_path / f"c{suffix}").write_text("\n".join([str(len(points))] * (suffix == ".pts") + lines))
    cloud, notes = quietly(tmp_path / f"c{suffix}")
    assert isinstance(cloud, PointCloud) and np.allclose(cloud.points, points * 10 + [6e5, 0, 0], atol=1e-4)
    assert (cloud.colors is not None) == ("colors" in what) and (cloud.normals is not None) == ("normals" in what)
    if cloud.colors is not None:
        assert np.allclose(cloud.colors * 255, colors)
    if cloud.normals is not None:
        assert np.allclose(cloud.normals, points, atol=1e-4)
    assert len(notes) == (text.count("{") > 3)


def test_a_header_names_the_columns(tmp_path: Path) -> None:
    points = sphere_points()
    rows = np.hstack([points[:, ::-1] * 3, points * 2])
    for name, head in (
        ("a.csv", "Z,Y,X,nx,ny,nz"),
        ("b.txt", "//Z Y X Nx Ny Nz\n400"),
        ("c.asc", '# "z" "y" "x" nx ny nz'),
    ):
        np.savetxt(
            tmp_path / name, rows, fmt="%.6f", header=head, comments="", delimiter="," if ".csv" in name else " "
        )
        cloud, notes = quietly(tmp_path / name)
        assert np.allclose(cloud.points, points * 3, atol=1e-5), name
        assert np.allclose(cloud.normals, points, atol=1e-4) and "names in its header" in notes[0], name


@pytest.mark.parametrize("separator", [" ", ";", "\t"])
def test_decimal_commas(tmp_path: Path, separator: str) -> None:
    points = sphere_points() * 10 + 100
    text = "\n".join(separator.join(f"{v:.3f}".replace(".", ",") for v in p) for p in points)
    (tmp_path / "c.xyz").write_text(text, encoding="utf-8-sig")
    cloud, notes = quietly(tmp_path / "c.xyz")
    assert np.allclose(cloud.points, points, atol=1e-3) and "decimal commas" in notes[0]


def test_six_columns_that_are_neither_are_left_out_and_said(tmp_path: Path) -> None:
    rows = np.hstack([sphere_points(), np.random.default_rng(0).normal(size=(400, 3)) * 9])
    np.save(tmp_path / "c.npy", rows)
    cloud, notes = quietly(tmp_path / "c.npy")
    assert cloud.normals is None and cloud.colors is None and "left out" in notes[0]


def test_colors_in_npy_and_their_way_back(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).random((400, 3))
    np.save(tmp_path / "c.npy", np.hstack([sphere_points(), colors]))
    cloud, _ = quietly(tmp_path / "c.npy")
    assert np.allclose(cloud.colors, colors) and cloud.normals is None
    for suffix in (".ply", ".npz", ".xyz"):
        save_points(cloud, tmp_path / f"back{suffix}")
        back, _ = quietly(tmp_path / f"back{suffix}")
        assert np.allclose(back.colors, colors, atol=1 / 500) and np.allclose(back.points, cloud.points, atol=1e-6), (
            suffix
        )


def test_a_line_that_is_no_point_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("1 2 3\n4 5 6\n7 8\n9 1 2\n")
    with pytest.raises(ShapeError, match="line 3"):
        load(tmp_path / "a.xyz")
    (tmp_path / "b.xyz").write_text("1 2 3\n4 5 6\n7 8 x\n9 1 2\n")
    with pytest.raises(ShapeError, match="line 3"):
        load(tmp_path / "b.xyz")


def lzf_literals(data: bytes) -> bytes:
    return b"".join(bytes([len(data[i : i + 32]) - 1]) + data[i : i + 32] for i in range(0, len(data), 32))


def pcd(fields: str, sizes: str, kinds: str, width: int, height: int, form: str, body: bytes) -> bytes:
    count = " ".join("1" for _ in fields.split())
    head = f"VERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {kinds}\nCOUNT {count}\nWIDTH {width}\nHEIGHT {height}\n"
    return (head + f"POINTS {width * height}\nDATA {form}\n").encode() + body


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("height", [1, 20])
def test_pcd_with_gaps(tmp_path: Path, kind: str, form: str, height: int) -> None:
    points = sphere_points().astype(kind)
    points[:7] = np.nan
    colors = np.full(400, 0x102030, "<u4")
    rows = np.zeros(400, dtype=[("x", kind), ("y", kind), ("z", kind), ("rgb", "<u4")])
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i]
    rows["rgb"] = colors
    body = {
        "ascii": "\n".join(
            f"{p[0]:.9g} {p[1]:.9g} {p[2]:.9g} {c}" for p, c in zip(points, colors, strict=True)
        ).encode(),
        "binary": rows.tobytes(),
    }.get(form)
    if body is None:
        flat = b"".join(np.ascontiguousarray(rows[n]).tobytes() for n in rows.dtype.names)
        packed = lzf_literals(flat)
        body = struct.pack("<II", len(packed), len(flat)) + packed
    size = kind[-1]
    data = pcd("x y z rgb", f"{size} {size} {size} 4", "F F F U", 400 // height, height, form, body)
    (tmp_path / "c.pcd").write_bytes(data)
    cloud, notes = quietly(tmp_path / "c.pcd")
    assert cloud.points.shape == (393, 3) and np.allclose(cloud.points, points[7:], atol=1e-6)
    assert np.allclose(cloud.colors[0] * 255, [16, 32, 48]) and "left out 7 of 400" in notes[0]


def test_lzf_back_references() -> None:
    from sdf_tools.io._lzf_kernels import decompress

    out = np.zeros(24, np.uint8)
    # Three literals; then nine bytes from three back, which overlap themselves; then two more literals.
    packed = np.frombuffer(bytes([2]) + b"abc" + bytes([(7 << 5) | 0, 0, 2]) + bytes([1]) + b"yz", np.uint8)
    assert decompress(packed, out) == 14 and out[:14].tobytes() == b"abcabcabcabcyz"
    for bad in (
        bytes([5]) + b"ab",
        bytes([(1 << 5), 0]),
        bytes([0, 65, (2 << 5), 9]),
        bytes([0, 65, (7 << 5), 255, 0] * 9),
    ):
        assert decompress(np.frombuffer(bad, np.uint8), out) == -1


def test_glb_with_points_beside_and_instead(tmp_path: Path) -> None:
    import trimesh

    scene = trimesh.Scene([trimesh.creation.box(), trimesh.PointCloud(np.random.default_rng(0).random((50, 3)) * 9)])
    scene.export(tmp_path / "both.glb")
    mesh, notes = quietly(tmp_path / "both.glb")
    assert summarize(mesh).volume == pytest.approx(1) and "left out 50 points" in notes[0]
    trimesh.Scene([trimesh.PointCloud(sphere_points())]).export(tmp_path / "points.glb")
    cloud, _ = quietly(tmp_path / "points.glb")
    assert isinstance(cloud, PointCloud) and cloud.points.shape == (400, 3)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las(tmp_path: Path, suffix: str) -> None:
    laspy = pytest.importorskip("laspy")
    if suffix == ".laz":
        pytest.importorskip("lazrs")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = [1e-3] * 3, [665170.0, 5648350.0, 240.0]
    cloud = laspy.LasData(header)
    points = sphere_points() * 10 + header.offsets
    cloud.x, cloud.y, cloud.z = points.T
    cloud.red, cloud.green, cloud.blue = (np.full(400, v, np.uint16) for v in (65535, 32768, 0))
    cloud.write(str(tmp_path / f"c{suffix}"))
    back, _ = quietly(tmp_path / f"c{suffix}")
    assert np.allclose(back.points, points, rtol=0, atol=1e-3)
    assert np.allclose(back.colors[0], [1, 0.5, 0], atol=1e-4)
    data = (tmp_path / f"c{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ShapeError):
        load(tmp_path / f"cut{suffix}")


def test_e57(tmp_path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    points = sphere_points() * 10
    file = pye57.E57(str(tmp_path / "c.e57"), mode="w")
    for part in (points[:150], points[150:]):
        file.write_scan_raw({f"cartesian{a}": part[:, i].copy() for i, a in enumerate("XYZ")})
    file.close()
    cloud, _ = quietly(tmp_path / "c.e57")
    assert np.allclose(cloud.points, points) and torch.bincount(cloud.scan_ids).tolist() == [150, 250]


@pytest.mark.parametrize("library", ["laspy", "pye57"])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    import sys

    from sdf_tools.errors import MissingLibraryError

    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / ("c.las" if library == "laspy" else "c.e57")
    path.write_bytes(b"LASF")
    with pytest.raises(MissingLibraryError, match=rf"pip install .*{library}"):
        load(path)
