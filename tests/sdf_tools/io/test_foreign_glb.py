# ruff: noqa: E501
"""GLB scenes as other programs write them: each kind with the value it must have."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hostile_files import refused
from test_real_files import CUBE, TRIANGLES, quietly

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.io.loading import load
from sdf_tools.mesh.summary import summarize

CORNERS = np.array(TRIANGLES, "<u2").reshape(-1, 1)
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


class Glb:
    """A scene of a unit cube, to be changed and written."""

    def __init__(self) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
                                     "nodes": [{"mesh": 0}], "meshes": [{"primitives": []}], "accessors": [],
                                     "bufferViews": []}  # fmt: skip
        self.primitives = self.tree["meshes"][0]["primitives"]

    def view(self, array: np.ndarray, **more: Any) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        place = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes, **more}
        self.tree["bufferViews"].append(place)
        self.data += array.tobytes()
        return len(self.tree["bufferViews"]) - 1

    def add(
        self, array: np.ndarray, stride: dict[str, int] | None = None, width: int | None = None, **more: Any
    ) -> int:
        entry = {"bufferView": self.view(array, **(stride or {})), "componentType": KINDS[array.dtype.str[1:]],
                 "count": len(array), "type": WIDTHS[width or array.shape[1]], **more}  # fmt: skip
        self.tree["accessors"].append(entry)
        return len(self.tree["accessors"]) - 1

    def cube(self, points: np.ndarray = CUBE, corners: np.ndarray = CORNERS, **more: Any) -> dict[str, Any]:
        primitive = {"attributes": {"POSITION": self.add(points.astype("<f4"))}, "indices": self.add(corners), **more}
        self.primitives.append(primitive)
        return primitive

    def write(self, path: Path) -> Path:
        self.tree["buffers"] = self.tree.get("buffers") or [{"byteLength": len(self.data)}]
        text, data = json.dumps(self.tree).encode(), self.data + b"\0" * (-len(self.data) % 4)
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
        path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
        return path

    def need(self, name: str) -> None:
        self.tree.setdefault("extensionsRequired", []).append(name)


def one_sentence(path: Path, *words: str) -> None:
    with pytest.raises(ShapeError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 300
    assert all(word in message for word in words), message


@pytest.mark.parametrize("kind", ["<i1", "<u1", "<i2", "<u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantised_positions(tmp_path: Path, kind: str, normalized: bool) -> None:
    file, most = Glb(), int(np.iinfo(kind).max)
    points = np.zeros((8, 4), kind)
    points[:, :3] = CUBE * most
    flag = {"normalized": True} if normalized else {}
    at = file.add(points, {"byteStride": points.strides[0]}, 3, **flag)
    file.primitives.append({"attributes": {"POSITION": at}, "indices": file.add(CORNERS)})
    scale = 1.0 if normalized else 1 / most
    file.tree["nodes"] = [
        {"mesh": 0, "scale": [scale] * 3},
        {"mesh": 0, "scale": [scale] * 3, "translation": [3, 0, 0]},
    ]
    file.tree["scenes"] = [{"nodes": [0, 1]}]
    file.need("KHR_mesh_quantization")
    mesh, notes = quietly(file.write(tmp_path / "q.glb"))
    found = summarize(mesh)
    assert found.watertight and found.volume == pytest.approx(2) and found.faces == 24 and not notes
    assert np.allclose([found.low, found.high], [[0, 0, 0], [4, 1, 1]])


@pytest.mark.parametrize(("kind", "least"), [("<i1", -127), ("<i2", -32767)])
def test_the_least_integer_stands_for_minus_one_and_normals_are_divided(tmp_path: Path, kind: str, least: int) -> None:
    """glTF 2.0, 3.6.2.2: max(c / (2^(n-1) - 1), -1)."""
    file = Glb()
    points = np.where(CUBE == 0, least - 1, -least).astype(kind)
    normals = np.where(CUBE == 0, least, -least).astype(kind)
    pad = np.zeros((8, 1), kind)
    stride = {"byteStride": 4 * pad.itemsize}
    attributes = {name: file.add(np.hstack([rows, pad]), stride, 3, normalized=True)
                  for name, rows in (("POSITION", points), ("NORMAL", normals))}  # fmt: skip
    file.primitives.append({"attributes": attributes, "indices": file.add(CORNERS)})
    mesh, _ = quietly(file.write(tmp_path / "n.glb"))
    assert isinstance(mesh, Mesh) and mesh.vertex_normals is not None
    assert summarize(mesh).volume == pytest.approx(8) and np.allclose(mesh.vertices.abs(), 1)
    assert np.allclose(mesh.vertex_normals, mesh.vertices / np.sqrt(3), atol=1e-6)


@pytest.mark.parametrize("base", [True, False])
def test_sparse_positions(tmp_path: Path, base: bool) -> None:
    file = Glb()
    primitive = file.cube()
    rows = np.array([7], "<u1") if base else np.arange(8, dtype="<u1")
    values = np.array([[3, 3, 3]], "<f4") if base else CUBE.astype("<f4") * 2
    accessor = file.tree["accessors"][primitive["attributes"]["POSITION"]]
    if not base:
        del accessor["bufferView"]
    accessor["sparse"] = {"count": len(rows), "indices": {"bufferView": file.view(rows), "componentType": 5121},
                          "values": {"bufferView": file.view(values)}}  # fmt: skip
    mesh, _ = quietly(file.write(tmp_path / "s.glb"))
    found = summarize(mesh)
    # From (1, 1, 1) to (3, 3, 3) the corner rises by 2 over its 6 triangles of area 1/2: 6 * 1/2 * 2 / 3 = 2.
    assert found.watertight and found.volume == pytest.approx(3 if base else 8)
    assert list(found.high) == ([3, 3, 3] if base else [2, 2, 2])
    accessor["sparse"]["indices"] = {"bufferView": file.view(rows + 8), "componentType": 5121}
    refused(tmp_path / "bad.glb", file.write(tmp_path / "bad.glb").read_bytes(), "damaged")


def test_sparse_corners_and_buffers_within_the_tree(tmp_path: Path) -> None:
    file = Glb()
    primitive = file.cube()
    accessor = file.tree["accessors"][primitive["indices"]]
    wrong = CORNERS.copy()
    wrong[-1] = 0
    accessor["bufferView"] = file.view(wrong)
    accessor["sparse"] = {"count": 1, "indices": {"bufferView": file.view(np.array([35], "<u2")), "componentType": 5123},
                          "values": {"bufferView": file.view(CORNERS[-1:])}}  # fmt: skip
    uri = "data:application/octet-stream;base64," + base64.b64encode(file.data).decode()
    file.tree["buffers"] = [{"byteLength": len(file.data), "uri": uri}]
    file.data = b""
    found = summarize(quietly(file.write(tmp_path / "s.glb"))[0])
    assert found.watertight and found.volume == pytest.approx(1)


@pytest.mark.parametrize("required", [True, False])
def test_draco_is_refused_by_name_if_a_single_primitive_has_it(tmp_path: Path, required: bool, capfd: Any) -> None:
    file = Glb()
    file.cube()
    packed = file.cube(CUBE + 3)
    packed["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    assert summarize(load(file.write(tmp_path / "fallback.glb"))).volume == pytest.approx(2)  # with its values beside
    for index in (packed["attributes"]["POSITION"], packed["indices"]):
        del file.tree["accessors"][index]["bufferView"]
    if required:
        file.need("KHR_draco_mesh_compression")
    one_sentence(file.write(tmp_path / "d.glb"), "KHR_draco_mesh_compression", "without compression")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("required", [True, False])
def test_meshopt_is_refused_by_name(tmp_path: Path, required: bool) -> None:
    file = Glb()
    file.cube()
    file.tree["buffers"] = [{"byteLength": len(file.data)}, {"byteLength": 4096}]
    for view in file.tree["bufferViews"]:
        view.update(buffer=1, extensions={"EXT_meshopt_compression": {"buffer": 0, "byteLength": 9}})
    if required:
        file.need("EXT_meshopt_compression")
    one_sentence(file.write(tmp_path / "m.glb"), "EXT_meshopt_compression", "without compression")


def test_required_extensions(tmp_path: Path) -> None:
    file = Glb()
    file.cube()
    for name in ("KHR_materials_unlit", "KHR_texture_transform", "EXT_texture_webp", "KHR_lights_punctual"):
        file.need(name)
    assert summarize(load(file.write(tmp_path / "e.glb"))).volume == pytest.approx(1)
    file.need("CESIUM_RTC")
    one_sentence(file.write(tmp_path / "e.glb"), "CESIUM_RTC")


@pytest.mark.parametrize("indexed", [True, False])
def test_triangle_fans(tmp_path: Path, indexed: bool) -> None:
    """Five sides as triangles and the sixth as a fan; its turn is that of its corners."""
    file = Glb()
    file.cube(corners=CORNERS[:-6])
    fan = {"attributes": {"POSITION": 0}, "indices": file.add(np.array([[1], [5], [7], [3]], "<u2")), "mode": 6}
    if not indexed:
        fan = {"attributes": {"POSITION": file.add(CUBE[[1, 5, 7, 3]].astype("<f4"))}, "mode": 6}
    file.primitives.append(fan)
    found = summarize(load(file.write(tmp_path / "f.glb")))
    assert found.area == pytest.approx(6) and found.volume == pytest.approx(1) and found.watertight


def test_instances(tmp_path: Path) -> None:
    """Sizes 1 and 2 at 0 and 5, the second turned by 90 degrees around z; all below a node of scale 2."""
    file = Glb()
    file.cube()
    half = np.sqrt(0.5)
    turns = np.array([[0, 0, 0, 1], [0, 0, half, half]])
    given = {"TRANSLATION": file.add(np.array([[0, 0, 0], [5, 0, 0]], "<f4")),
             "SCALE": file.add(np.array([[1, 1, 1], [2, 2, 2]], "<f4")),
             "ROTATION": file.add(np.round(turns * 32767).astype("<i2"), normalized=True)}  # fmt: skip
    file.tree["nodes"] = [
        {"mesh": 0, "scale": [2, 2, 2], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": given}}}
    ]
    file.need("EXT_mesh_gpu_instancing")
    found = summarize(load(file.write(tmp_path / "i.glb")))
    assert found.bodies == 2 and found.watertight and found.volume == pytest.approx(8 * (1 + 8))
    assert np.allclose([found.low, found.high], [[0, 0, 0], [10, 4, 4]], atol=1e-3)


@pytest.mark.parametrize("mode", [0, 4])
@pytest.mark.parametrize(
    ("kind", "value", "share"), [("<u2", 40000, 40000 / 65535), ("<u2", 200, 200 / 65535), ("<u1", 40, 40 / 255), ("<f4", 0.25, 0.25)]
)  # fmt: skip
def test_colors_of_every_kind(tmp_path: Path, mode: int, kind: str, value: float, share: float) -> None:
    file = Glb()
    primitive = file.cube(mode=mode)
    colors = np.full((8, 4), value, kind)
    primitive["attributes"]["COLOR_0"] = file.add(colors, **({} if kind == "<f4" else {"normalized": True}))
    if mode == 0:
        del primitive["indices"]
    shape, _ = quietly(file.write(tmp_path / "c.glb"))
    found = shape.vertex_colors if isinstance(shape, Mesh) else shape.colors
    assert found is not None and np.allclose(found, share, atol=1 / 500)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_lines_are_no_surface(tmp_path: Path, mode: int) -> None:
    file = Glb()
    file.cube(corners=np.array([[0], [1], [1], [3]], "<u2"), mode=mode)
    one_sentence(file.write(tmp_path / "l.glb"), "lines")
    file.cube()
    mesh, notes = quietly(file.write(tmp_path / "both.glb"))
    assert summarize(mesh).volume == pytest.approx(1) and len(mesh.vertices) == 8
    assert len(notes) == 1 and "left out 1 set of lines" in notes[0]


def test_what_hangs_on_a_camera_or_on_lines_keeps_its_place(tmp_path: Path) -> None:
    file = Glb()
    file.cube()
    lines = {"attributes": {"POSITION": 0}, "mode": 1}
    file.tree["meshes"].append({"primitives": [lines]})
    file.tree["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 1, "aspectRatio": 1}}]
    file.tree["nodes"] = [{"camera": 0, "translation": [5, 0, 0], "children": [1]},
                          {"mesh": 1, "translation": [0, 6, 0], "children": [2]}, {"mesh": 0}]  # fmt: skip
    found = summarize(quietly(file.write(tmp_path / "t.glb"))[0])
    assert list(found.low) == [5, 6, 0] and list(found.high) == [6, 7, 1]


def test_poses_that_are_not_applied_are_said(tmp_path: Path) -> None:
    file = Glb()
    primitive = file.cube()
    primitive["targets"] = [{"POSITION": file.add(np.ones((8, 3), "<f4"))}]
    file.tree["meshes"][0]["weights"] = [1.0]
    file.tree["nodes"][0]["skin"] = 0
    file.tree["skins"] = [{"joints": [0]}]
    _, notes = quietly(file.write(tmp_path / "m.glb"))
    assert len(notes) == 2 and "skins" in notes[0] and "morph targets" in notes[1]


def test_scenes_that_share_their_bytes_very_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDF_TOOLS_MAX_MEMORY", "256M")
    big = np.zeros((60_000, 3), "<f4")

    def damaged(change: Any, word: str) -> None:
        file = Glb()
        primitive = file.cube(big)
        change(file, primitive)
        refused(tmp_path / "h.glb", file.write(tmp_path / "h.glb").read_bytes(), word)

    def views(file: Glb, primitive: Any) -> None:
        file.tree["bufferViews"] += [dict(file.tree["bufferViews"][0]) for _ in range(1000)]

    def accessors(file: Glb, primitive: Any) -> None:
        file.tree["accessors"] += [dict(file.tree["accessors"][0]) for _ in range(1000)]

    def fans(file: Glb, primitive: Any) -> None:
        file.primitives += [{"attributes": {"POSITION": 0}, "mode": 6} for _ in range(1000)]

    def instances(file: Glb, primitive: Any) -> None:
        given = {"attributes": {"TRANSLATION": 0}}
        file.tree["nodes"] = [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": given}} for _ in range(1000)]

    for change in (views, accessors, fans, instances):
        damaged(change, "SDF_TOOLS_MAX_MEMORY")

    sparse = {"count": 1, "indices": {"bufferView": 1, "componentType": 5123}, "values": {"bufferView": 0}}
    for change in (
        {"count": 2**40},
        {"count": -1},
        {"values": {"bufferView": 0, "byteOffset": 10**6}},
        {"values": {"bufferView": 0, "byteOffset": -8}},
    ):
        damaged(lambda file, _, change=change: file.tree["accessors"][0].update(sparse={**sparse, **change}), "damaged")
    damaged(lambda _, primitive: primitive.update(mode=7), "damaged")
    damaged(lambda _, primitive: primitive.update(indices=99), "damaged")
    for stride in (-12, 10**6):  # of shorts that have to be divided
        file = Glb()
        rows = file.add(np.zeros((50, 3), "<i2"), {"byteStride": stride}, normalized=True)
        file.primitives.append({"attributes": {"POSITION": rows}})
        refused(tmp_path / "h.glb", file.write(tmp_path / "h.glb").read_bytes(), "damaged")


@pytest.mark.parametrize("nodes", [True, False])
def test_a_file_without_scenes_is_read_whole(tmp_path: Path, nodes: bool) -> None:
    """glTF 2.0, 3.5.1: scenes may be missing."""
    file = Glb()
    file.cube()
    del file.tree["scenes"], file.tree["scene"]
    if nodes:
        file.tree["nodes"] = [{"mesh": 0}, {"children": [0], "translation": [5, 0, 0]}, {"mesh": 0}]
    else:
        del file.tree["nodes"]
    mesh, _ = quietly(file.write(tmp_path / "n.glb"))
    found = summarize(mesh)
    assert found.volume == pytest.approx(2 if nodes else 1) and found.high[0] == pytest.approx(6 if nodes else 1)
