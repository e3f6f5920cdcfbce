"""PLY files: every face form the format allows, and float64 where the coordinates need it.

trimesh's reader knows neither triangle strips nor polygons of more than four sides, and its writer rounds to float32.
What a header declares is held against the file's size before anything is read.
"""

from __future__ import annotations

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.ply_rows import CutShort, Element, Property, Ragged, Table, read_ascii, read_binary
from sdf_tools.io.polygons import triangulate

_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}


def _parse_header(data: bytes, where: str) -> tuple[str, list[Element], int]:
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
                elements.append(Element(words[1], _count(words[2])))
            elif words[0] == "property" and words[1] == "list":
                if _TYPES[words[2]].startswith("f"):
                    raise ValueError("a length that is no integer")
                elements[-1].properties.append(Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append(Property(words[2], _TYPES[words[1]]))
        except (IndexError, KeyError, ValueError):
            raise ShapeError(f"'{where}' has a PLY header line that cannot be read: '{line.strip()}'.") from None
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ShapeError(f"'{where}' has an unknown PLY format '{form}'; expected ascii or binary.")
    return form, elements, stop + 1


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError("a negative count")
    return count


def read_ply(data: bytes, where: str) -> dict[str, Table]:
    """The elements of a PLY file, each a table of columns; lists are (N, k) arrays or :class:`Ragged`.

    Raises:
        ShapeError: not a PLY file, or cut short.
    """
    form, elements, at = _parse_header(data, where)
    tables: dict[str, Table] = {}
    order = ">" if form == "binary_big_endian" else "<"
    try:
        if form == "ascii":
            return read_ascii(elements, data[at:])
        for element in elements:
            try:
                tables[element.name], at = read_binary(element, data, at, order)
            except (ValueError, IndexError, OverflowError):
                raise CutShort(element) from None
    except CutShort as error:
        raise ShapeError(
            f"'{where}' is cut short or damaged: its PLY header promises {error.element.count} "
            f"'{error.element.name}' rows that the file does not hold; copy or export it again."
        ) from None
    return tables


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


def triangles_of(tables: dict[str, Table], vertices: np.ndarray, where: str) -> np.ndarray:
    """All triangles of a PLY file over its (V, 3) vertices: triangles, quads, polygons and strips.

    Raises:
        ShapeError: a face names a vertex that is not there.
    """
    parts = [np.zeros((0, 3), np.int64)]
    face = tables.get("face", {})
    for name in ("vertex_indices", "vertex_index"):
        if name in face:
            corners, offsets = _ragged(face[name])
            parts.append(triangulate(vertices, checked_indices(corners, len(vertices), where), offsets))
            break
    for strips in tables.get("tristrips", {}).values():
        values, offsets = _ragged(strips)
        values = (
            np.where(values == -1, 0, checked_indices(np.where(values == -1, 0, values), len(vertices), where) + 1) - 1
        )
        rows = [values[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        parts += [_strips_to_triangles(row) for row in rows if len(row) >= 3]
    return np.concatenate(parts)


def _ragged(rows: np.ndarray | Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list property; a property that is no list has rows of one value."""
    if isinstance(rows, Ragged):
        return rows.values, rows.offsets
    rows = rows.reshape(len(rows), rows.size // max(1, len(rows)))
    return rows.reshape(-1), np.arange(len(rows) + 1) * rows.shape[1]


def checked_indices(corners: np.ndarray, count: int, where: str) -> np.ndarray:
    """Vertex numbers as int64.

    Raises:
        ShapeError: one is not a whole number from 0 to ``count - 1``.
    """
    if corners.size and not (
        np.isfinite(corners).all() and corners.min() >= 0 and corners.max() < count and (corners % 1 == 0).all()
    ):
        raise ShapeError(f"'{where}' has faces that name vertices it does not have; export it again.")
    return corners.astype(np.int64)


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
