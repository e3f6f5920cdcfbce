# ruff: noqa: UP031
"""Meshes and clouds with the liberties that other programs take; each must come out as the unit cube that it is."""

from __future__ import annotations

import gzip
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_hostile_files import refused
from test_real_files import CUBE, TRIANGLES, quietly, sphere_points

from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.mesh.summary import summarize

QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
ROWS = ["%g %g %g" % tuple(v) for v in CUBE]
FACE_ROWS = ["4 " + " ".join(map(str, f)) for f in QUADS]
BOM = b"\xef\xbb\xbf"
XYZ = "element vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
FACE = "element face 6\nproperty list uchar int vertex_indices\n"


def obj(faces: list[list[int]] = QUADS) -> str:
    lines = [f"v {row}" for row in ROWS] + ["f " + " ".join(str(i + 1) for i in f) for f in faces]
    return "\n".join(lines) + "\n"


def off(head: str = "OFF", rows: list[str] = ROWS) -> str:
    return "\n".join([head, "8 6 0", *rows, *FACE_ROWS]) + "\n"


def ply(vertex: str = XYZ, face: str = FACE, rows: list[str] = ROWS, faces: list[str] = FACE_ROWS) -> str:
    return "\n".join(["ply\nformat ascii 1.0\n" + vertex + face + "end_header", *rows, *faces]) + "\n"


def binary_ply(order: str = "<", ends: bytes = b"\n", extra: str = "") -> bytes:
    form = "binary_little_endian" if order == "<" else "binary_big_endian"
    head = f"ply\nformat {form} 1.0\n{extra}{XYZ}{FACE}end_header\n".encode().replace(b"\n", ends)
    faces = np.zeros(6, dtype=[("n", "u1"), ("v", order + "i4", 4)])
    faces["n"], faces["v"] = 4, QUADS
    return head + CUBE.astype(order + "f4").tobytes() + faces.tobytes()


def stl(faces: list[list[int]] = TRIANGLES, name: str = "part") -> str:
    corners = ["".join(f"  vertex {ROWS[i]}\n" for i in f) for f in faces]
    body = "".join(f"facet normal 0 0 0\n outer loop\n{c} endloop\nendfacet\n" for c in corners)
    return f"solid {name}\n{body}endsolid {name}\n"


def binary_stl(count: int = 12, behind: bytes = b"", records: int = 12) -> bytes:
    rows = np.zeros(records, dtype=[("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    rows["v"] = CUBE[TRIANGLES][:records]
    return b"made by hand".ljust(80) + struct.pack("<I", count) + rows.tobytes() + behind


def pcd(head: str = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n", before: str = "") -> str:
    rows = ["%.9g %.9g %.9g" % tuple(p) for p in sphere_points()]
    return "\n".join([f"{before}VERSION .7\n{head}WIDTH 400\nHEIGHT 1\nPOINTS 400\nDATA ascii", *rows]) + "\n"


def is_the_cube(path: Path, data: bytes | str) -> list[str]:
    """Reads the file, holds it against the cube, and gives back the notes."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    mesh, notes = quietly(path)
    assert isinstance(mesh, Mesh), "faces were dropped"
    found = summarize(mesh)
    assert (found.vertices, found.faces, found.watertight) == (8, 12, True)
    assert found.area == pytest.approx(6) and found.volume == pytest.approx(1)
    return notes


def is_the_sphere(path: Path, data: bytes | str) -> PointCloud:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    cloud, notes = quietly(path)
    assert isinstance(cloud, PointCloud) and not notes
    assert np.allclose(cloud.points, sphere_points(), atol=1e-8)
    return cloud


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".stl", ".pcd"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, suffix: str, mark: bytes, ends: str) -> None:
    text = {".obj": obj, ".off": off, ".ply": ply, ".stl": stl, ".pcd": pcd}[suffix]()
    data = mark + text.replace("\n", ends).encode()
    if suffix == ".pcd":
        is_the_sphere(tmp_path / "c.pcd", data)
    else:
        assert is_the_cube(tmp_path / f"c{suffix}", data) == []


def test_a_byte_order_mark_does_not_shift_faces(tmp_path: Path) -> None:
    """The first vertex was lost; with one to spare at the end all faces moved on in silence."""
    is_the_cube(tmp_path / "c.obj", BOM + obj().replace("f", "v 9 9 9\nf", 1).encode())
    (tmp_path / "p.obj").write_bytes(BOM + "".join(f"v {r}\n" for r in ROWS).encode())
    assert np.array_equal(quietly(tmp_path / "p.obj")[0].points, CUBE)


def test_obj_lines_that_go_on(tmp_path: Path) -> None:
    for mark in ("\\ \t\n", "\\\n", "\\\r\n", "\\\n\\\n"):
        text = obj().replace("f 1 2 4 3", f"f 1 2 {mark}4 3").replace("v 1 1 1", f"v 1 {mark} 1 1")
        is_the_cube(tmp_path / "c.obj", text)
    # A folder at the end of a comment or of a name is no such mark: the first vertex was swallowed.
    is_the_cube(tmp_path / "c.obj", "# C:\\models\\\n" + obj().replace("f", "usemtl D:\\m\\\nf", 1))


@pytest.mark.parametrize(
    "name", ["", "vertex", "my vertex 3", "vertex 1 2 3", "facet normal", "facet vertex 1 2 3 endsolid", "käse", "a,b"]
)
def test_names_of_solids_are_only_names(tmp_path: Path, name: str) -> None:
    assert is_the_cube(tmp_path / "c.stl", stl(name=name)) == []
    assert is_the_cube(tmp_path / "c.stl", stl(name=name).encode("latin-1")) == []


def test_text_stl_in_other_layouts(tmp_path: Path) -> None:
    path = tmp_path / "c.stl"
    for text in (
        stl().upper(),
        "\n \n" + stl(),
        stl().replace("\n  vertex", " vertex"),
        stl().replace("facet normal 0 0 0\n", "# c\nfacet normal\n"),
        stl().replace(" outer loop\n", "outer loop ").replace(" endloop\n", "endloop "),
        stl(TRIANGLES[:5], "a") + stl(TRIANGLES[5:], "b") + "\n\n",
        stl(QUADS),
        stl(QUADS[:3] + TRIANGLES[6:]),
    ):
        assert is_the_cube(path, text) == []


def test_text_stl_that_is_cut_short_anywhere(tmp_path: Path) -> None:
    path, text = tmp_path / "c.stl", stl()
    for at in range(70, text.index("endsolid") + 8, 61):
        refused(path, text[:at], "cut short: no 'endsolid'")
    refused(path, text + text[:500], "cut short: no 'endsolid'")
    refused(path, text + "solid b\n", "cut short: no 'endsolid'")
    refused(path, text.replace("  vertex 0 0 0\n", "", 1), "fewer than three vertices")
    refused(path, text.replace("vertex 0 0 1", "vertex 0 0", 1), "three numbers: it is damaged")
    refused(path, text.replace("vertex 0 0 1", "vertex 0,5 0,0 1,0"), "three numbers: it has decimal commas")
    refused(path, "solid a\nendsolid a\n", "no triangles")
    refused(path, obj().replace("v ", "w "), "not an STL file")


def test_binary_stl_whose_count_and_size_differ(tmp_path: Path) -> None:
    path = tmp_path / "c.stl"
    assert is_the_cube(path, binary_stl()) == []
    for behind in (b"\r\n", b"\0" * 7, b"\0" * 512):
        assert is_the_cube(path, binary_stl(behind=behind)) == []
    assert "left out 11 bytes behind the 12" in is_the_cube(path, binary_stl(behind=b"signed by x"))[0]
    for count in (0, 0xFFFFFFFF):
        assert "its size says 12" in is_the_cube(path, binary_stl(count))[0]
    assert is_the_cube(path, BOM + binary_stl()[3:]) == []
    refused(path, binary_stl(13), "header says 13 triangles, and the file has room for 12")
    refused(path, binary_stl()[:-20], "header says 12 triangles, and the file has room for 11")
    refused(path, binary_stl(11), "header says 11 triangles, and the file holds 12")
    refused(path, binary_stl(behind=binary_stl()), "second file")
    refused(path, binary_stl(0xFFFFFFFF)[:-1], "cut short")
    refused(path, binary_stl(0, records=0), "no triangles")
    refused(path, binary_stl()[:60] + b"\0", "ends within the header")


NORMALS = [" ".join("%g" % x for x in (2 * v - 1) / np.sqrt(3)) for v in CUBE]


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("NCOFF", "255 0 0 255 {n}"),
        ("NCOFF", "255 0 0 {n}"),
        ("NCSTOFF", "255 0 0 255 {n} .5 .5"),
        ("CNOFF", "{n} 255 0 0 255"),
        ("STCNOFF", "{n} 255 0 0 255 .5 .5"),
        ("CSTOFF", "255 0 0 255 .5 .5"),
        ("COFF", "1 0 0"),
        ("NOFF", "{n}"),
        ("STOFF", ".5 .5"),
        ("off", ""),
        ("coff", "255 0 0 255"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_off_headers_and_vertices_side_by_side(tmp_path: Path, head: str, more: str, together: bool) -> None:
    path = tmp_path / "c.off"
    rows = [f"{r} {more.format(n=n)}" for r, n in zip(ROWS, NORMALS, strict=True)]
    text = off(head, rows)
    if together:  # the format is a stream of numbers
        text = "\n".join([head, "8", "6 0", " ".join(rows[:3]), " ".join(rows[3:]), " ".join(FACE_ROWS)])
    assert is_the_cube(path, text) == []
    mesh, _ = quietly(path)
    assert (mesh.vertex_normals is not None) == ("n" in more) and (mesh.vertex_colors is not None) == (
        "C" in head.upper()
    )
    if mesh.vertex_normals is not None:
        assert np.allclose(mesh.vertex_normals, (2 * CUBE - 1) / np.sqrt(3), atol=1e-5)
    if mesh.vertex_colors is not None:
        assert mesh.vertex_colors.tolist() == [[1, 0, 0]] * 8


def test_off_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "c.off"
    is_the_cube(path, off().replace("\n4 4 6", " 4 4 6"))
    refused(path, off().replace("4 0 1 3 2", "4 0 1 3 9"), r"does not have \(9; it has 0 to 7\)")
    for bad in (
        off()[:-10],
        off().replace("8 6", "9 6"),
        off().replace("8 6", "8 7"),
        off().replace("1 1 0\n", "1 1\n"),
    ):
        refused(path, bad, "cut short or damaged")
    refused(path, off().replace("8 6 0", "8 1000000000000 0"), "cut short or damaged")
    refused(path, off().replace("8 6 0", "1000000000000 6 0"), "cut short or damaged")
    refused(path, off("4OFF"), "three dimensions")
    refused(path, off("nOFF"), "three dimensions")


LISTS = ["vertex_index", "vertex_indexes", "vertex_indicies", "vertices", "corners"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("element", ["face", "Face", "triangles", "polygon"])
def test_ply_faces_by_other_names(tmp_path: Path, name: str, element: str) -> None:
    is_the_cube(tmp_path / "c.ply", ply(face=f"element {element} 6\nproperty list uchar int {name}\n"))
    head = f"element {element} 6\nproperty uchar flags\nproperty list uchar int {name}\n"
    is_the_cube(tmp_path / "c.ply", ply(face=head, faces=["0 " + f for f in FACE_ROWS]))


@pytest.mark.parametrize("names", ["v1 v2 v3", "v0 v1 v2", "a b c", "vertex_1 vertex_2 vertex_3", "I J K"])
def test_ply_faces_as_three_columns(tmp_path: Path, names: str) -> None:
    head = "element face 12\n" + "".join(f"property int {n}\n" for n in names.split())
    rows = ["%d %d %d" % tuple(f) for f in TRIANGLES]
    is_the_cube(tmp_path / "c.ply", ply(face=head, faces=rows))
    is_the_cube(tmp_path / "c.ply", ply(face=head + "property uchar red\n", faces=[r + " 9" for r in rows]))
    binary = ply(face=head).split("end_header\n")[0].replace("ascii", "binary_big_endian") + "end_header\n"
    is_the_cube(
        tmp_path / "c.ply", binary.encode() + CUBE.astype(">f4").tobytes() + np.array(TRIANGLES, ">i4").tobytes()
    )


def test_ply_faces_that_cannot_be_read_are_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "c.ply"
    for head, row in (
        ("element face 1\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n", "0 1 3"),
        ("element face 1\nproperty list uchar float texcoord\n", "2 0 0"),
        ("element face 1\nproperty int vertex_indices\n", "1"),
        ("element tetrahedra 1\nproperty list uchar int vertex_indices\n", "4 0 1 2 4"),
    ):
        refused(path, ply(face=head, faces=[row]), f"its PLY element '{head.split()[1]}' has")
    # Beside faces that are read, and in the grid of a scanner, such lists are none of a surface.
    more = "element tetrahedra 1\nproperty list uchar int vertex_indices\n"
    is_the_cube(path, ply(face=FACE + more, faces=[*FACE_ROWS, "4 0 1 2 4"]))
    grid = "element range_grid 2\nproperty list uchar int vertex_indices\n"
    path.write_text(ply(face=grid, faces=["1 0", "0"]))
    assert isinstance(quietly(path)[0], PointCloud)


def test_the_word_that_ends_a_header_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.ply"
    said = "comment end_header was written by hand\nobj_info end_header\ncomment a\x85b\n"
    is_the_cube(path, ply(vertex=said + XYZ))
    for order in "<>":
        for ends in (b"\n", b"\r\n", b"\r"):
            is_the_cube(path, binary_ply(order, ends, said))
    refused(path, ply().replace("end_header", "comment end_header"), "no 'end_header' line")
    is_the_sphere(tmp_path / "c.pcd", pcd(before="# RAW DATA of a scanner\n# DATA binary\n"))


def test_ply_names_in_capitals_and_normals_by_other_names(tmp_path: Path) -> None:
    head = XYZ.replace(" x", " X").replace(" y", " Y").replace(" z", " Z").replace("vertex", "Vertex")
    head += "".join(f"property float normal_{a}\n" for a in "xyz")
    rows = [f"{r} {n}" for r, n in zip(ROWS, NORMALS, strict=True)]
    is_the_cube(tmp_path / "c.ply", ply(head, rows=rows).replace("ply", "PLY", 1))
    normals = quietly(tmp_path / "c.ply")[0].vertex_normals
    assert np.allclose(normals, (2 * CUBE - 1) / np.sqrt(3), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        "FIELDS X Y Z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n",
        "FIELDS x y z\nSIZE 4 4 4\nTYPE f f f\nCOUNT 1 1 1\n",
        "COLUMNS x y z\nSIZE 4 4 4\nTYPE F F F\n",
        "COLUMNS x y z\n",
    ],
)
def test_pcd_headers_of_other_ages(tmp_path: Path, head: str) -> None:
    is_the_sphere(tmp_path / "c.pcd", pcd(head))


@pytest.mark.parametrize(
    ("kind", "color", "expected"),
    [
        ("uchar", "1 0 1", [1 / 255, 0, 1 / 255]),
        ("uchar", "255 0 51", [1, 0, 0.2]),
        ("ushort", "1 0 1", [1 / 255, 0, 1 / 255]),
        ("ushort", "65535 0 13107", [1, 0, 0.2]),
        ("float", "1 0 0.2", [1, 0, 0.2]),
        ("float", "1.02 0 0.2", [1, 0, 0.2]),
        ("float", "255 0 51", [1, 0, 0.2]),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_the_type_of_a_color_says_its_range(
    tmp_path: Path, kind: str, color: str, expected: list[float], binary: bool
) -> None:
    head = XYZ + "".join(f"property {kind} {c}\n" for c in ("red", "green", "blue"))
    data = ply(head, "", [f"{r} {color}" for r in ROWS], []).encode()
    if binary:
        form = {"uchar": "u1", "ushort": "<u2", "float": "<f4"}[kind]
        rows = np.zeros(8, dtype=[("p", "<f4", 3), ("c", form, 3)])
        rows["p"], rows["c"] = CUBE, np.array(color.split(), float).astype(form)
        head = data.decode().split("end_header\n")[0].replace("ascii", "binary_little_endian")
        data = head.encode() + b"end_header\n" + rows.tobytes()
    (tmp_path / "c.ply").write_bytes(data)
    assert np.allclose(quietly(tmp_path / "c.ply")[0].colors, [expected] * 8, atol=1e-7)


@pytest.mark.parametrize("suffix", [".ply", ".off"])
def test_gaps_that_no_face_uses_are_left_out(tmp_path: Path, suffix: str) -> None:
    rows = ["nan nan nan", *ROWS, "inf 0 0"]
    faces = ["4 " + " ".join(str(i + 1) for i in f) for f in QUADS]
    if suffix == ".ply":
        text = ply(XYZ.replace("8", "10"), rows=rows, faces=faces)
    else:
        text = "\n".join(["OFF", "10 6 0", *rows, *faces])
    assert "left out 2 vertices" in is_the_cube(tmp_path / f"c{suffix}", text)[0]
    refused(tmp_path / f"c{suffix}", text.replace("0 0 1", "0 0 nan", 1), "NaN or infinite")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_lie_on_their_side(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    save = np.save if suffix == ".npy" else lambda file, rows: np.savez(file, points=rows)
    save(path, sphere_points().T)
    refused(path, path.read_bytes(), r"not \(3, 400\): save its transpose")
    save(path, np.arange(9.0).reshape(3, 3))  # either way; rows are points
    assert quietly(path)[0].points.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def zipped() -> bytes:
    import io

    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        file.writestr("a.obj", obj())
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".obj", ".stl", ".ply", ".off", ".pcd", ".xyz", ".glb", ".npy"])
def test_files_under_another_suffix_are_named(tmp_path: Path, suffix: str) -> None:
    for right, data in (
        (".ply", ply().encode()),
        (".ply", binary_ply()),
        (".stl", stl().encode()),
        (".off", off().encode()),
        (".obj", b"# Blender\nmtllib a.mtl\no Cube\n" + obj().encode()),
        (".pcd", pcd(before="# .PCD v.7\n").encode()),
        (".npy", b"\x93NUMPY\x01\x00"),
    ):
        if right != suffix:
            refused(tmp_path / f"c{suffix}", data, rf"starts like .*; rename it to \{right}")
    refused(tmp_path / f"c{suffix}", zipped(), "is a zip archive; unpack it")
    refused(tmp_path / f"c{suffix}", gzip.compress(obj().encode()), "packed by gzip")
    refused(tmp_path / f"c{suffix}", "<!DOCTYPE html>\n<html>not found</html>", "is a web page")
    if suffix != ".xyz":  # which reads it
        refused(tmp_path / f"c{suffix}", obj().encode("utf-16"), "UTF-16")
    refused(tmp_path / f"c{suffix}", obj().encode("utf-16-le"), "UTF-16")


def test_odd_files_stay_cheap(tmp_path: Path) -> None:
    """What could make a pattern or a loop run away: blanks, marks and keywords, very many of them."""
    start = time.process_time()
    for name, data in (
        ("a.stl", b"solid a\nfacet" + b" " * 400_000 + b"x\nvertex 1 2 3"),
        ("b.stl", b"solid vertex" + b" vertex" * 60_000),
        ("c.obj", b"v 1 2 " + b"\\ \t\n" * 100_000),
        ("d.obj", b"g " * 100_000),
        ("e.obj", b"# " * 100_000),
        ("f.ply", b"ply\n" + b"comment end_header\n" * 40_000),
        ("g.ply", b"ply\r" + b"\r" * 500_000),
        ("h.off", b"C" * 400_000),
        ("i.off", b"OFF\n3 100000 0\n0 0 0 1 0 0 0 1 0\n" + b"3 0 1 " * 100_000),
        ("j.pcd", b"# DATA\n" * 50_000),
    ):
        refused(tmp_path / name, data, name)
    assert time.process_time() - start < 20
