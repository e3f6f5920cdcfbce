"""PLY files: every face form the format allows, and float64 where the coordinates need it.

trimesh's reader knows neither triangle strips nor polygons of more than four sides, and its writer rounds to float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError

_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}


@dataclass
class _Property:
    name: str
    kind: str
    count_kind: str | None = None


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.count_kind is not None for p in self.properties)


@dataclass
class Ragged:
    """Rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: np.ndarray
    offsets: np.ndarray


Table = dict[str, Any]


def _parse_header(data: bytes, where: str) -> tuple[str, list[_Element], int]:
    if not data.startswith(b"ply"):
        raise ShapeError(f"'{where}' is not a PLY file: it does not start with 'ply'; check the file or its suffix.")
    end = data.find(b"end_header")
    stop = data.find(b"\n", end)
    if end < 0 or stop < 0:
        raise ShapeError(f"'{where}' is a truncated PLY file: its header has no 'end_header' line; copy it again.")
    form, elements = "", []
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                form = words[1]
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2])))
            elif words[0] == "property" and words[1] == "list":
                elements[-1].properties.append(_Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append(_Property(words[2], _TYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise ShapeError(f"'{where}' has a PLY header line that cannot be read: '{line.strip()}'.") from None
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ShapeError(f"'{where}' has an unknown PLY format '{form}'; expected ascii or binary.")
    return form, elements, stop + 1


def _row_dtype(element: _Element, order: str, lengths: list[int]) -> np.dtype:
    fields: list[tuple] = []
    remaining = iter(lengths)
    for i, p in enumerate(element.properties):
        if p.count_kind is None:
            fields.append((f"{i}", order + p.kind))
        else:
            fields += [(f"n{i}", order + p.count_kind), (f"{i}", order + p.kind, (next(remaining),))]
    return np.dtype(fields)


def _first_lengths(element: _Element, data: bytes, at: int, order: str) -> list[int]:
    lengths = []
    for p in element.properties:
        if p.count_kind is None:
            at += np.dtype(p.kind).itemsize
        else:
            count = int(np.frombuffer(data, order + p.count_kind, 1, at)[0])
            at += np.dtype(p.count_kind).itemsize + count * np.dtype(p.kind).itemsize
            lengths.append(count)
    return lengths


def _read_binary(element: _Element, data: bytes, at: int, order: str) -> tuple[Table, int]:
    if element.count == 0:
        return {p.name: np.zeros(0, p.kind) for p in element.properties}, at
    lengths = _first_lengths(element, data, at, order) if element.has_lists else []
    dtype = _row_dtype(element, order, lengths)
    if at + dtype.itemsize * element.count <= len(data):
        rows = np.frombuffer(data, dtype, element.count, at)
        constant = all(
            (rows[f"n{i}"] == rows[f"n{i}"][0]).all() for i, p in enumerate(element.properties) if p.count_kind
        )
        if constant:
            return {p.name: rows[f"{i}"] for i, p in enumerate(element.properties)}, at + rows.nbytes
    return _walk_binary(element, data, at, order)


def _walk_binary(element: _Element, data: bytes, at: int, order: str) -> tuple[Table, int]:
    columns: list[list] = [[] for _ in element.properties]
    kinds = [np.dtype(order + p.kind) for p in element.properties]
    counts = [None if p.count_kind is None else np.dtype(order + p.count_kind) for p in element.properties]
    for _ in range(element.count):
        for column, kind, count_kind in zip(columns, kinds, counts, strict=True):
            count = 1
            if count_kind is not None:
                count = int(np.frombuffer(data, count_kind, 1, at)[0])
                at += count_kind.itemsize
            column.append(np.frombuffer(data, kind, count, at))
            at += kind.itemsize * count
    return _columns_to_table(element, columns), at


def _read_ascii(element: _Element, tokens: list[bytes], at: int) -> tuple[Table, int]:
    if not element.has_lists:
        width = len(element.properties)
        block = np.array(tokens[at : at + width * element.count], dtype=np.float64).reshape(element.count, width)
        return {p.name: block[:, i] for i, p in enumerate(element.properties)}, at + block.size
    columns: list[list] = [[] for _ in element.properties]
    for _ in range(element.count):
        for p, column in zip(element.properties, columns, strict=True):
            count = 1
            if p.count_kind is not None:
                count = int(tokens[at])
                at += 1
            if at + count > len(tokens):
                raise ValueError("too few values")
            column.append(np.array(tokens[at : at + count], dtype=np.float64))
            at += count
    return _columns_to_table(element, columns), at


def _columns_to_table(element: _Element, columns: list[list]) -> Table:
    table: Table = {}
    for p, rows in zip(element.properties, columns, strict=True):
        values = np.concatenate(rows) if rows else np.zeros(0)
        if p.count_kind is None:
            table[p.name] = values
        else:
            table[p.name] = Ragged(values, np.cumsum([0] + [len(r) for r in rows]))
    return table


def read_ply(data: bytes, where: str) -> dict[str, Table]:
    """The elements of a PLY file, each a table of columns; lists are (N, k) arrays or :class:`Ragged`.

    Raises:
        ShapeError: not a PLY file, or cut short.
    """
    form, elements, at = _parse_header(data, where)
    tables: dict[str, Table] = {}
    tokens = data[at:].split() if form == "ascii" else []
    position = 0 if form == "ascii" else at
    order = ">" if form == "binary_big_endian" else "<"
    for element in elements:
        try:
            if form == "ascii":
                table, position = _read_ascii(element, tokens, position)
            else:
                table, position = _read_binary(element, data, position, order)
        except (ValueError, IndexError):
            raise ShapeError(
                f"'{where}' is cut short or damaged: its PLY header promises {element.count} '{element.name}' rows "
                "that the file does not hold; copy or export it again."
            ) from None
        tables[element.name] = table
    return tables


def _polygons_to_triangles(rows: np.ndarray | Ragged) -> np.ndarray:
    """Fan triangulation of polygons."""
    if isinstance(rows, np.ndarray):
        if rows.size == 0 or rows.shape[1] < 3:
            return np.zeros((0, 3), np.int64)
        width = rows.shape[1]
        fans = [rows[:, [0, i, i + 1]] for i in range(1, width - 1)]
        return np.stack(fans, 1).reshape(-1, 3).astype(np.int64)
    lengths = np.diff(rows.offsets)
    parts = []
    for width in np.unique(lengths):
        if width >= 3:
            starts = rows.offsets[:-1][lengths == width]
            parts.append(_polygons_to_triangles(rows.values[starts[:, None] + np.arange(width)]))
    return np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)


def _strips_to_triangles(strip: np.ndarray) -> np.ndarray:
    """Triangles of strips laid end to end and separated by -1; every other triangle is turned around."""
    strip = strip.astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], strip[:-1] < 0]))
    first = starts[np.searchsorted(starts, np.arange(len(strip)), side="right") - 1]
    at = np.arange(len(strip) - 2)
    a, b, c = strip[:-2], strip[1:-1], strip[2:]
    keep = (a >= 0) & (b >= 0) & (c >= 0)
    odd = (at - first[:-2]) % 2 == 1
    triangles = np.stack([np.where(odd, b, a), np.where(odd, a, b), c], 1)[keep]
    repeated = (triangles[:, 0] == triangles[:, 1]) | (triangles[:, 1] == triangles[:, 2])
    return triangles[~(repeated | (triangles[:, 0] == triangles[:, 2]))]


def triangles_of(tables: dict[str, Table]) -> np.ndarray:
    """All triangles of a PLY file: triangles, quads, polygons and strips."""
    parts = [np.zeros((0, 3), np.int64)]
    face = tables.get("face", {})
    for name in ("vertex_indices", "vertex_index"):
        if name in face:
            parts.append(_polygons_to_triangles(face[name]))
            break
    for strips in tables.get("tristrips", {}).values():
        if isinstance(strips, Ragged):
            rows = [strips.values[a:b] for a, b in zip(strips.offsets[:-1], strips.offsets[1:], strict=True)]
        else:
            rows = list(np.atleast_2d(strips))
        parts += [_strips_to_triangles(row) for row in rows if len(row) >= 3]
    return np.concatenate(parts)


def write_ply(
    vertices: np.ndarray, faces: np.ndarray | None, normals: np.ndarray | None, colors: np.ndarray | None
) -> bytes:
    """A binary PLY file. Coordinates are float32 when that loses less than 1e-6 of the extent, else float64."""
    kind = "<f4" if fits_float32(vertices) else "<f8"
    fields: list[tuple] = [(name, kind) for name in "xyz"]
    columns = [vertices[:, i] for i in range(3)]
    if normals is not None:
        fields += [(name, "<f4") for name in ("nx", "ny", "nz")]
        columns += [normals[:, i] for i in range(3)]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        columns += [np.rint(np.clip(colors[:, i], 0, 1) * 255) for i in range(3)]
    rows = np.zeros(len(vertices), dtype=fields)
    for (name, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    names = {"<f4": "float", "<f8": "double", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {names[k]} {name}" for name, k in fields]
    body = rows.tobytes()
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        table = np.zeros(len(faces), dtype=[("n", "u1"), ("v", "<i4", (3,))])
        table["n"], table["v"] = 3, faces
        body += table.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode() + body


def fits_float32(vertices: np.ndarray) -> bool:
    """Whether float32 keeps the coordinates to 1e-6 of their extent (it does not far from the origin)."""
    if len(vertices) == 0:
        return True
    extent = np.ptp(vertices, axis=0).max()
    return bool(np.abs(vertices - vertices.astype(np.float32)).max() <= 1e-6 * extent)
