# ruff: noqa: E501
"""Tables of points as other programs write them: each kind with the value it must have."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_foreign_glb import one_sentence
from test_hostile_files import refused
from test_real_files import quietly, sphere_points

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import PointCloud
from sdf_tools.io.loading import load

POINTS = sphere_points() * 3 + [5, 60, 700]


def table(path: Path, head: str, *columns: Any, separator: str = ",", form: str = "{}") -> Path:
    rows = zip(*(np.asarray(column).T.tolist() if np.ndim(column) == 1 else column for column in columns), strict=True)
    lines = [separator.join(form.format(value) for value in row) for row in rows]
    path.write_text("\n".join([head] * (head != "\0") + lines) + "\n")
    return path


X, Y, Z = POINTS.T.round(6)
COUNT = np.arange(400)
SHUFFLED = np.random.default_rng(2).permutation(400)
NORMALS = sphere_points().T.round(6)


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        (",x,y,z", [COUNT, X, Y, Z]),
        (",x,y,z", [SHUFFLED, X, Y, Z]),
        ("Unnamed: 0,x,y,z", [COUNT, X, Y, Z]),
        ('"Point ID","X","Y","Z"', [SHUFFLED, X, Y, Z]),
        ("Point ID,X [m],Y [m],Z [m]", [COUNT, X, Y, Z]),
        ("PointID;East;North;Elev", [SHUFFLED, X, Y, Z]),
        ("FID,Northing,Easting,Height", [SHUFFLED, Y, X, Z]),
        ("id\tn\te\th", [SHUFFLED, Y, X, Z]),
        ("\tx\ty\tz", [SHUFFLED, X, Y, Z]),
        ("X,Y,HeightAboveGround,Z", [X, Y, COUNT, Z]),
        ("x,y,height,z", [X, Y, COUNT, Z]),
        ('"Scalars","Points:0","Points:1","Points:2"', [SHUFFLED, X, Y, Z]),
        ('"x" "y" "z"', [COUNT + 1, X, Y, Z]),  # R leaves the numbers of rows without a name
        ("Point_No coord_x coord_y coord_z", [SHUFFLED, X, Y, Z]),
        ("// Scalar field X Y Z", [SHUFFLED, X, Y, Z]),
    ],
)
def test_headers_name_the_position(tmp_path: Path, head: str, columns: list[np.ndarray]) -> None:
    separator = next((s for s in ",;\t" if s in head), " ")
    cloud, notes = quietly(table(tmp_path / "c.csv", head, *columns, separator=separator))
    assert isinstance(cloud, PointCloud) and np.allclose(cloud.points, POINTS, atol=1e-5)
    assert cloud.normals is None and cloud.colors is None
    assert len(notes) == 1 and "names in its header" in notes[0] and "left out" in notes[0]


@pytest.mark.parametrize(
    "head",
    ["Normal X,Normal Y,Normal Z,X,Y,Z", "Normal_X,Normal_Y,Normal_Z,x,y,z", "Normals:0,Normals:1,Normals:2,Points:0,Points:1,Points:2"],
)  # fmt: skip
def test_names_with_blanks_are_one_name(tmp_path: Path, head: str) -> None:
    cloud, _ = quietly(table(tmp_path / "c.csv", head, *NORMALS, X, Y, Z))
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and np.allclose(cloud.normals, NORMALS.T, atol=1e-5)


def test_headers_that_name_no_position(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    cloud, notes = quietly(table(path, "PointID,A,B,C", SHUFFLED, X, Y, Z))
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and "(PointID, A, B, C) does not name x, y and z" in notes[0]
    cloud, notes = quietly(table(path, "a,b,c", X, Y, Z))
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and "does not name" in notes[0]
    for head, columns in (
        ("x,v,y,w", [X, Z, Y, Z]),
        ("nx,ny,nz,a,b,c", [*NORMALS, X, Y, Z]),
        ("a,x,y", [Z, X, Y]),
        ("intensity,a,b,c", [Z, X, Y, Z]),
    ):
        one_sentence(table(path, head, *columns), head.replace(",", ", "), "name three of them x, y and z")


def test_headers_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    one_sentence(table(path, "i,z,x,y,v", Z, X, Y, Z), "5 names for 4 columns", "i, z, x, y, v")
    one_sentence(table(path, "x,y,z", SHUFFLED, X, Y, Z), "3 names for 4 columns")  # the first may be an index
    cloud, notes = quietly(table(path, "x,y,z", X, Y, Z, X))
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and "3 names for 4 columns" in notes[0]
    cloud, notes = quietly(table(path, "# x y z in metres, then r g b", X, Y, Z, separator=" "))
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and "9 names for 3 columns" in notes[0]
    assert "5 names for 3 columns" in quietly(table(path, "PointID,a,b,c,d", X, Y, Z))[1][0]
    assert not quietly(table(path, "Scan of the hall", X, Y, Z))[1]
    for head, end in (("x,y,z,", ""), ("x,y,z", ","), ("x,y,z,label", ",")):
        cloud, notes = quietly(table(path, head, X, Y, [f"{z}{end}" for z in Z]))
        assert np.allclose(cloud.points, POINTS, atol=1e-5) and not notes, head


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_a_first_column_that_counts_is_no_position(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".npy":
        np.save(path, np.column_stack([COUNT, POINTS, NORMALS.T]))
    else:
        table(path, "\0", COUNT, X, Y, Z, *NORMALS)
    cloud, notes = quietly(path)
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and np.allclose(cloud.normals, NORMALS.T, atol=1e-5)
    assert "position in columns 2 to 4" in notes[0] and "left out column 1" in notes[0]


def test_empty_fields_keep_the_columns_in_place(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("x,y,i,z\n" + "".join(f"{x},{y}, ,{z}\n" for x, y, z in zip(X, Y, Z, strict=True)))
    assert np.allclose(quietly(path)[0].points, POINTS, atol=1e-5)
    path.write_text(",x,y,z,nx,ny,nz,i\n" + "".join(f",{x};{y};{z};;;;7\n" for x, y, z in zip(X, Y, Z, strict=True)))
    cloud, _ = quietly(path)
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and cloud.normals is None


@pytest.mark.parametrize("separator", [",", ";", " "])
def test_numbers_in_quotes(tmp_path: Path, separator: str) -> None:
    path = table(tmp_path / "c.csv", '"x","y","z"', X, Y, Z, separator=separator, form='"{}"')
    cloud, notes = quietly(path)
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and not notes
    table(path, '"x";"y";"z"', *([f"{v:.2f}".replace(".", ",") for v in axis] for axis in (X, Y, Z)), separator=separator, form='"{}"')  # fmt: skip
    cloud, notes = quietly(path)
    assert np.allclose(cloud.points, POINTS, atol=0.006) and "decimal commas" in notes[0]
    for thousands in ("5,648,200.25", "5,648"):
        table(path, '"x","y","z"', [thousands] * 400, [thousands] * 400, [thousands] * 400, separator=separator, form='"{}"')  # fmt: skip
        one_sentence(path, "commas inside of numbers in quotes")


def test_several_scans_in_one_pts(tmp_path: Path) -> None:
    rows = [f"{x} {y} {z} -100 1 2 3" for x, y, z in zip(X, Y, Z, strict=True)]
    path = tmp_path / "c.pts"
    path.write_text("\n".join(["100", *rows[:100], "250", *rows[100:350], "50", *rows[350:]]))
    cloud, notes = quietly(path)
    assert np.allclose(cloud.points, POINTS, atol=1e-5) and "3 scans" in notes[0]
    assert np.allclose(cloud.colors * 255, [1, 2, 3])
    path.write_text("\n".join(["100", *rows[:100], "251", *rows[100:350], "50", *rows[350:]]))
    one_sentence(path, "line 102")  # a number that counts nothing is damage


@pytest.mark.parametrize("intensity", [COUNT % 256, (COUNT / 400).round(4)])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("suffix", [".pts", ".txt"])
def test_the_intensity_before_the_colors(tmp_path: Path, intensity: np.ndarray, share: bool, suffix: str) -> None:
    """The order of .pts is x y z intensity r g b; elsewhere r g b come first unless the values say otherwise."""
    rng = np.random.default_rng(3)
    columns = (rng.random((3, 400)).round(3) if share else rng.integers(0, 256, (3, 400))).tolist()
    path = table(tmp_path / f"c{suffix}", "400", X, Y, Z, intensity, *columns, separator=" ")
    cloud, notes = quietly(path)
    alike = (intensity.max() > 1) != share
    first = suffix == ".txt" and alike
    expected = np.column_stack([intensity, *columns[:2]]) if first else np.array(columns).T
    scale = 1 if share else 255
    assert np.allclose(cloud.colors, expected / scale) and len(notes) == 1
    assert f"colors in columns {'4 to 6' if first else '5 to 7'}; left out column {7 if first else 4}" in notes[0]
    assert ("look alike" in notes[0]) == alike
    named = table(tmp_path / f"n{suffix}", "x y z Intensity R G B", X, Y, Z, intensity, *columns, separator=" ")
    assert np.allclose(quietly(named)[0].colors, np.array(columns).T / scale)


@pytest.mark.parametrize(
    "line", ["(" * 200_000, "1" + ";" * 400_000 + "x", '"' * 200_001, "x," * 200_000, "a\0,b,c", "; " * 200_000 + "1"]
)
def test_hostile_lines_take_no_time(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(line + "\n1,2,3\n4,5,6\n")
    start = time.process_time()
    try:
        quietly(path)
    except ShapeError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    assert time.process_time() - start < 5


def test_words_above_as_many_columns_are_a_header_where_one_names_a_coordinate(tmp_path: Path) -> None:
    path = tmp_path / "tower.txt"
    rows = "".join(f"{i} {2 * i} {i * i} 0.5 9.5 7.5\n" for i in range(5, 9))
    path.write_text("scan of the old church tower\n" + rows)
    assert quietly(path)[0].points[1].tolist() == [6, 12, 36]
    path.write_text("alt lat lon\n1 2 3\n4 5 6\n")
    refused(path, path.read_text(), "does not say which columns are the position")


def test_a_last_column_may_be_empty_here_and_there(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("x,y,z,height above ground\n1,2,3,\n4,5,6,7\n8,9,10,\n")
    assert quietly(path)[0].points.tolist() == [[1, 2, 3], [4, 5, 6], [8, 9, 10]]


def test_many_brackets_before_the_points_are_read_in_one_pass(tmp_path: Path) -> None:
    """Minutes, and the suite's time limit, if each is held against every other."""
    path = tmp_path / "brackets.txt"
    path.write_text(("#" + "(" * 9_990 + "\n") * 1000 + "1 2 3\n4 5 6\n")
    assert load(path).points.tolist() == [[1, 2, 3], [4, 5, 6]]
