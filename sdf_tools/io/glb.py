"""What GLB files hold and trimesh does not read, written out plainly for it: nothing is left out in silence."""

from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.limits import require_memory

_KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
_LINES = (1, 2, 3)
_INSTANCES = "EXT_mesh_gpu_instancing"
_DRACO = "KHR_draco_mesh_compression"
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
# Extensions that a file may require and that leave its geometry as it is, or that are applied here.
_HARMLESS = (
    "KHR_materials_", "KHR_texture_", "KHR_lights_", "KHR_xmp", "KHR_animation_", "KHR_techniques_webgl",
    "KHR_mesh_quantization", "EXT_materials_", "EXT_texture_", "EXT_lights_", "EXT_mesh_features",
    "EXT_structural_metadata", "MSFT_texture_", "MSFT_packing_", "ADOBE_materials_", _INSTANCES,
)  # fmt: skip


def plain_glb(data: bytes, where: str) -> tuple[bytes, list[str]]:
    """The same scene as triangles, triangle strips and points of plain numbers, and what was left out of it.

    Normalised integers are divided, sparse accessors filled in, fans cut into triangles, instances given a node each.

    Args:
        data: the file.
        where: what messages call it.

    Raises:
        ShapeError: damaged, compressed, of lines alone, with geometry in another file, or with an extension that may
            change its geometry.
    """
    try:
        scene = _Scene(data, where)
        _refuse_extensions(scene)
        _place_all(scene)
        _spread_instances(scene)
        lines = _plain_primitives(scene)
        notes = _left_out(scene.tree, lines)
        return scene.packed(), notes
    except (ShapeError, MemoryError):
        raise
    except Exception:  # whatever stands in a damaged tree
        raise ShapeError(f"'{where}' is not a GLB file or is damaged; export it again.") from None


class _Scene:
    """The tree of a file and the bytes that it refers to."""

    def __init__(self, data: bytes, where: str) -> None:
        length, kind = struct.unpack_from("<I4s", data, 12)
        if data[:4] != b"glTF" or kind != b"JSON":
            raise ValueError
        self.where = where
        self.tree: dict[str, Any] = json.loads(data[20 : 20 + length])
        self.views: list[dict[str, Any]] = self.tree.get("bufferViews", [])
        self.accessors: list[dict[str, Any]] = self.tree.get("accessors", [])
        self.nodes: list[dict[str, Any]] = self.tree.get("nodes", [])
        self._check_sizes(len(data))
        self.buffers = _buffers(self.tree, memoryview(data)[20 + length :])
        self._written: dict[tuple[int, bool], int] = {}

    def _check_sizes(self, held: int) -> None:
        """Refuse geometry outside of the file, and arrays that are declared but not stored."""
        uris = [str(b["uri"]) for b in self.tree.get("buffers", []) if "uri" in b]
        outside = [uri for uri in uris if not uri.startswith("data:")]
        if outside:
            raise ShapeError(
                f"'{self.where}' keeps its geometry in another file ('{outside[0][:60]}'), which is not opened; "
                "export it as one file."
            )
        declared = [int(a.get("count", 0)) for a in self.accessors]
        absent = sum(n for n, a in zip(declared, self.accessors, strict=True) if "bufferView" not in a)
        if min(declared, default=0) < 0 or max(declared, default=0) > held or absent > held:
            raise ShapeError(f"'{self.where}' is damaged: it declares more values than it holds; export it again.")
        # Very many views, accessors and primitives may share the same bytes, of which each becomes a copy.
        lengths = [int(view["byteLength"]) for view in self.views]
        if min(lengths, default=0) < 0:
            raise ValueError
        copies = sum(lengths)
        copies += sum(4 * _WIDTHS[a["type"]] * n for n, a in zip(declared, self.accessors, strict=True))
        for mesh in self.tree.get("meshes", []):
            copies += sum(8 * declared[i] for primitive in mesh["primitives"] for i in _accessors_of(primitive))
        require_memory(held + copies, self.where)

    def _stored(self, part: dict[str, Any], kind: np.dtype, count: int, width: int) -> np.ndarray:
        view = self.views[part["bufferView"]]
        start = view.get("byteOffset", 0)
        held = self.buffers[view["buffer"]][start : start + view["byteLength"]]
        row = view.get("byteStride", kind.itemsize * width)
        # numpy holds shape, offset and strides against the length of what is held.
        return np.ndarray((count, width), kind, held, part.get("byteOffset", 0), (row, kind.itemsize))

    def values(self, index: int, normalized: bool = False) -> np.ndarray:
        """(N, W) what an accessor stands for; integers are divided if they are said to be normalised."""
        accessor = self.accessors[index]
        kind, width = np.dtype(_KINDS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        count, sparse = accessor["count"], accessor.get("sparse")
        values = np.zeros((count, width), kind)
        if "bufferView" in accessor:
            values = self._stored(accessor, kind, count, width)
        if sparse is not None:
            if not 0 <= sparse["count"] <= count:
                raise ValueError
            places = np.dtype(_KINDS[sparse["indices"]["componentType"]])
            at = self._stored(sparse["indices"], places, sparse["count"], 1)[:, 0]
            values = values.copy()
            values[at] = self._stored(sparse["values"], kind, sparse["count"], width)
        if kind.kind in "iu" and (normalized or accessor.get("normalized") is True):
            return np.maximum(values.astype(np.float64) / np.iinfo(kind).max, -1)
        return values

    def add(self, rows: np.ndarray, kind: int, form: str) -> int:
        """A new accessor for (N, W) rows, by its index."""
        stored = np.ascontiguousarray(rows, _KINDS[kind]).tobytes()
        self.views.append({"buffer": len(self.buffers), "byteLength": len(stored)})
        self.buffers.append(memoryview(stored))
        view = len(self.views) - 1
        self.accessors.append({"bufferView": view, "componentType": kind, "count": len(rows), "type": form})
        return len(self.accessors) - 1

    def plain(self, index: int, color: bool) -> int:
        """The accessor itself, or one of plain floats in its place. Colours of two bytes trimesh takes for bytes."""
        accessor = self.accessors[index]
        whole = accessor["componentType"] != 5126
        divided = whole and (accessor["componentType"] == 5123 if color else accessor.get("normalized") is True)
        if not divided and "sparse" not in accessor:
            return index
        if (index, color) not in self._written:
            rows = self.values(index, normalized=color)
            self._written[index, color] = self.add(rows, 5126, accessor["type"])
        return self._written[index, color]

    def packed(self) -> bytes:
        """The scene as a file of one buffer."""
        starts, total = [], 0
        for buffer in self.buffers:
            starts.append(total)
            total += len(buffer) + -len(buffer) % 4
        for view in self.views:
            view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
            view["buffer"] = 0
        self.tree["buffers"] = [{"byteLength": total}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + total, len(text), b"JSON")
        parts = [part for buffer in self.buffers for part in (buffer, b"\0" * (-len(buffer) % 4))]
        return b"".join([head, text, struct.pack("<I4s", total, b"BIN\0"), *parts])


def _buffers(tree: dict[str, Any], rest: memoryview) -> list[memoryview]:
    """The bytes of each buffer of the tree, from its data URI or the next binary chunk; empty if there is neither."""
    chunks, at = [], 0
    while at + 8 <= len(rest):
        length, kind = struct.unpack_from("<I4s", rest, at)
        if at + 8 + length > len(rest):
            raise ValueError
        if kind == b"BIN\0":
            chunks.append(rest[at + 8 : at + 8 + length])
        at += 8 + length
    found = []
    for buffer in tree.get("buffers", []):
        if "uri" in buffer:
            found.append(memoryview(base64.b64decode(str(buffer["uri"]).partition("base64,")[2])))
        else:
            found.append(chunks.pop(0) if chunks else memoryview(b""))
    return found


def _accessors_of(primitive: dict[str, Any]) -> list[int]:
    return [*primitive["attributes"].values(), *([primitive["indices"]] if "indices" in primitive else [])]


def _refuse_extensions(scene: _Scene) -> None:
    required = [str(name) for name in scene.tree.get("extensionsRequired", [])]
    compressed = [name for name in required if name in (_DRACO, *_MESHOPT)]
    for mesh in scene.tree.get("meshes", []):
        for primitive in mesh["primitives"]:
            used = _accessors_of(primitive)
            # A primitive may be stored twice, for readers that do not know Draco; then it has values.
            if _DRACO in primitive.get("extensions", {}) and any("bufferView" not in scene.accessors[i] for i in used):
                compressed.append(_DRACO)
    for view in scene.views:
        for name in _MESHOPT:
            if name in view.get("extensions", {}) and not len(scene.buffers[view["buffer"]]):
                compressed.append(name)
    if compressed:
        raise ShapeError(
            f"'{scene.where}' is compressed by {compressed[0]}, which is not read here; write it without compression, "
            "from Blender or by `gltf-transform copy IN.glb OUT.glb`."
        )
    unknown = [name for name in required if not name.startswith(_HARMLESS)]
    if unknown:
        raise ShapeError(
            f"'{scene.where}' needs the glTF extension {re.sub(r'[^!-~]+', ' ', unknown[0])[:60]}, which is not read "
            "here and may change its geometry; export it without."
        )


def _place_all(scene: _Scene) -> None:
    """A scene of all that there is, where the file has none: it may leave that to who opens it."""
    tree = scene.tree
    if tree.get("scenes") or not tree.get("meshes"):
        return
    if not scene.nodes:
        scene.nodes = tree["nodes"] = [{"mesh": i} for i in range(len(tree["meshes"]))]
    below = {child for node in scene.nodes for child in node.get("children", [])}
    tree["scenes"], tree["scene"] = [{"nodes": [i for i in range(len(scene.nodes)) if i not in below]}], 0


def _spread_instances(scene: _Scene) -> None:
    """A node for each instance of a mesh, below the one that has them."""
    for node in list(scene.nodes):
        found = node.get("extensions", {}).get(_INSTANCES)
        if found is None or "mesh" not in node:
            continue
        given = found["attributes"]
        columns = {k.lower(): scene.values(given[k]) for k in ("TRANSLATION", "ROTATION", "SCALE") if k in given}
        if not columns:
            continue
        count = len(next(iter(columns.values())))
        require_memory(2000 * (len(scene.nodes) + count), scene.where)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        first = len(scene.nodes)
        scene.nodes += [{"mesh": node["mesh"], **dict(zip(columns, row, strict=True))} for row in rows]
        node["children"] = [*node.get("children", []), *range(first, len(scene.nodes))]
        del node["mesh"]


def _plain_primitives(scene: _Scene) -> int:
    """Plain accessors for all that is no line; how many primitives are lines and were dropped."""
    lines, meshes = 0, scene.tree.get("meshes", [])
    for mesh in meshes:
        kept = []
        for primitive in mesh["primitives"]:
            mode = primitive.get("mode", _TRIANGLES)
            if mode in _LINES:
                lines += 1
                continue
            if mode not in (_POINTS, _TRIANGLES, _STRIP, _FAN):
                raise ValueError
            primitive.pop("extensions", None)  # nothing that trimesh could decode in their name
            given = primitive["attributes"]
            for name in ("POSITION", "NORMAL", "COLOR_0"):
                if name in given:
                    given[name] = scene.plain(given[name], name == "COLOR_0")
            _plain_indices(scene, primitive, mode)
            kept.append(primitive)
        mesh["primitives"] = kept
    if lines and not any(mesh["primitives"] for mesh in meshes):
        raise ShapeError(
            f"'{scene.where}' holds lines alone, which have no surface; export its faces, or its points as points."
        )
    for node in scene.nodes:  # trimesh leaves out cameras and empty meshes, and with them their children's place
        node.pop("camera", None)
        if "mesh" in node and not meshes[node["mesh"]]["primitives"]:
            del node["mesh"]
    return lines


def _plain_indices(scene: _Scene, primitive: dict[str, Any], mode: int) -> None:
    sparse = "indices" in primitive and "sparse" in scene.accessors[primitive["indices"]]
    if mode != _FAN and not sparse:
        return
    if "indices" in primitive:
        corners = scene.values(primitive["indices"])[:, 0]
    else:
        corners = np.arange(scene.accessors[primitive["attributes"]["POSITION"]]["count"])
    if mode == _FAN:
        corners = np.stack([corners[1:-1], corners[2:], np.full(max(len(corners) - 2, 0), corners[0])], 1)
        primitive["mode"] = _TRIANGLES
    primitive["indices"] = scene.add(corners.reshape(-1, 1), 5125, "SCALAR")


def _left_out(tree: dict[str, Any], lines: int) -> list[str]:
    notes = []
    if lines:
        notes.append(f"left out {lines:,} {'set' if lines == 1 else 'sets'} of lines beside the faces and points")
    if any("mesh" in node and "skin" in node for node in tree.get("nodes", [])):
        notes.append("bones (skins) are not applied, the shape stands as it was modelled")
    posed = [item.get("weights") for key in ("meshes", "nodes") for item in tree.get(key, [])]
    if any(weights is not None and any(weights) for weights in posed):
        notes.append("morph targets are not applied, the shape stands as it was modelled")
    return notes
