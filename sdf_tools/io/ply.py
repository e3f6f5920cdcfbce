"""PLY files: every face form the format allows, and float64 where the coordinates need it.

trimesh's reader knows neither triangle strips nor polygons of more than four sides, and its writer rounds to float32.
What a header declares is held against the file's size before anything is read.
"""

from __future__ import annotations

import re

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.ply_rows import CutShort, Element, Property, Ragged, Table, read_ascii, read_binary
from sdf_tools.io.polygons import triangulate

_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}
_LONGEST_HEADER = 1 << 22  # bytes
_FACES = ("face", "faces", "triangle", "triangles", "tri", "tris", "polygon", "polygons", "facet", "facets")
_LISTS = ("vertex_indices", "vertex_index", "vertex_indexes", "vertex_indicies", "vertices", "indices", "index")
_CORNERS = re.compile(r"(v|p|i|idx|index|vertex|vert|corner|point|vertex_?index|vertex_?id)_?\d|[abc]|[ijk]")
_NO_FACES = ("vertex", "range_grid", "edge", "edges", "line", "lines", "material", "camera", "tristrips")


def _parse_header(data: bytes, where: str) -> tuple[str, list[Element], int]:
    if data[:3].lower() != b"ply":
        raise ShapeError(f"'{where}' is not a PLY file: it does not start with 'ply'; check the file or its suffix.")
    lines, start = header_lines(data, "end_header")
    if start == 0:
        raise ShapeError(f"'{where}' is a truncated PLY file: its header has no 'end_header' line; copy it again.")
    form, elements = "", []
    for line in lines[1:-1]:
        words = line.split()
        if words[0] in ("comment", "obj_info"):
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
            raise ShapeError(f"'{where}' has a PLY header line that cannot be read: '{line[:80]}'.") from None
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ShapeError(f"'{where}' has an unknown PLY format '{form}'; expected ascii or binary.")
    return form, elements, start


def header_lines(data: bytes, last: str) -> tuple[list[str], int]:
    """The lines of a header that are not blank, up to the one whose first word is ``last``, and where the rest begins.

    The rest begins at 0 if there is no such line. Lines end in a line feed, or in a carriage return if the first does.
    """
    old = data.find(b"\r", 0, _LONGEST_HEADER)
    ends = b"\r" if old >= 0 and b"\n" not in data[: old + 2] else b"\n"
    lines: list[str] = []
    at = 0
    while (stop := data.find(ends, at, _LONGEST_HEADER)) >= 0:
        line = data[at:stop].decode("latin-1").strip()
        at = stop + 1
        if line:
            lines.append(line)
            if line.split(maxsplit=1)[0].lower() == last:
                return lines, at
    return lines, 0


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
        ShapeError: a face names a vertex that is not there, or faces are there in a form that is not read.
    """
    parts = [np.zeros((0, 3), np.int64)]
    for name, table in tables.items():
        rows = _face_rows(name.lower(), table)
        if rows is not None:
            corners, offsets = _ragged(rows)
            parts.append(triangulate(vertices, checked_indices(corners, len(vertices), where), offsets))
        elif name.lower() in _FACES and _count_of(table):
            raise _unread(name, table, where)
    for strips in tables.get("tristrips", {}).values():
        values, offsets = _ragged(strips)
        values = (
            np.where(values == -1, 0, checked_indices(np.where(values == -1, 0, values), len(vertices), where) + 1) - 1
        )
        each = [values[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        parts += [_strips_to_triangles(row) for row in each if len(row) >= 3]
    triangles = np.concatenate(parts)
    for name, table in tables.items():
        if not len(triangles) and _lists_vertices(name.lower(), table):
            raise _unread(name, table, where)
    return triangles


def _unread(element: str, table: Table, where: str) -> ShapeError:
    return ShapeError(
        f"'{where}' has faces in a form that is not read here: its PLY element '{element[:40]}' has "
        f"{', '.join(table)[:80] or 'nothing'}; export it with lists 'vertex_indices' in an element 'face'."
    )


def _is_list(rows: np.ndarray | Ragged) -> bool:
    return isinstance(rows, Ragged) or rows.ndim == 2


def _count_of(table: Table) -> int:
    """Rows of an element."""
    return max((len(r.offsets) - 1 if isinstance(r, Ragged) else len(r) for r in table.values()), default=0)


def _face_rows(element: str, table: Table) -> np.ndarray | Ragged | None:
    """The vertex numbers of an element of faces: its list, by a usual name or the only one, or three columns."""
    if element not in _FACES:
        return None
    lists = {name.lower(): rows for name, rows in table.items() if _is_list(rows)}
    for name in _LISTS:
        if name in lists:
            return lists[name]
    if len(lists) == 1 and not next(iter(lists)).startswith(("tex", "uv", "st")):
        return next(iter(lists.values()))
    columns = [rows for name, rows in table.items() if not _is_list(rows) and _CORNERS.fullmatch(name.lower())]
    return np.column_stack(columns) if len(columns) == 3 else None


def _lists_vertices(element: str, table: Table) -> bool:
    """Whether an element that is not read holds faces nevertheless, which must not be dropped in silence."""
    if element in (*_FACES, *_NO_FACES) or _count_of(table) == 0:
        return False
    return any(name.lower() in _LISTS[:4] and _is_list(rows) for name, rows in table.items())


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
        raise ShapeError(
            f"'{where}' has faces that name vertices it does not have ({_first_bad(corners, count):g}; it has 0 to "
            f"{count - 1}); export it again."
        )
    return corners.astype(np.int64)


def _first_bad(corners: np.ndarray, count: int) -> float:
    good = np.isfinite(corners) & (corners >= 0) & (corners < count) & (corners % 1 == 0)
    return float(corners[~good][0])


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
