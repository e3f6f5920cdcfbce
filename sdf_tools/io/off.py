"""OFF files: polygons of any size side by side, colours, normals, or points alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.numbers import table
from sdf_tools.io.ply import checked_indices
from sdf_tools.io.polygons import triangulate

_KEYWORD = re.compile(rb"^\s*(ST)?(C)?(N)?(4)?(n)?OFF", re.ASCII)


def read_off(data: bytes, where: str) -> dict[str, Any]:
    """Points, faces, normals and colours.

    Raises:
        ShapeError: no OFF file, cut short, or of a form that is not read (binary, four dimensions).
    """
    lines = [line.split(b"#")[0].strip() for line in data.splitlines()]
    lines = [line for line in lines if line]
    found = _KEYWORD.match(lines[0]) if lines else None
    if not found:
        raise ShapeError(f"'{where}' is not an OFF file: it does not start with 'OFF'; check the file or its suffix.")
    rest = lines[0][found.end() :].strip()
    if found.group(4) or found.group(5) or rest.upper().startswith(b"BINARY"):
        raise ShapeError(
            f"'{where}' is an OFF file of a kind that is not read here (binary or not in three dimensions)."
        )
    lines = [rest, *lines[1:]] if rest else lines[1:]
    try:
        count, faces = (int(word) for word in lines[0].split()[:2])
        if count < 0 or faces < 0 or 1 + count + faces > len(lines):
            raise ValueError
        normal = 3 if found.group(3) else 0
        rows = table(lines[1 : 1 + count], 3 + normal) if count else np.zeros((0, 3))
        fields: dict[str, Any] = {"points": rows[:, :3]}
        if normal:
            fields["normals"] = rows[:, 3:6]
        if found.group(2) and rows.shape[1] >= 6 + normal:
            fields["colors"] = rows[:, 3 + normal : 6 + normal]
        if faces:
            fields["faces"] = _faces(lines[1 + count : 1 + count + faces], fields["points"], where)
    except (ValueError, IndexError, OverflowError):
        raise ShapeError(
            f"'{where}' is cut short or damaged: it does not hold the vertices and faces that its OFF header promises; "
            "copy or export it again."
        ) from None
    return fields


def _faces(lines: list[bytes], points: np.ndarray, where: str) -> np.ndarray:
    words = [line.split() for line in lines]
    sizes = np.array([int(row[0]) for row in words])
    if (sizes < 0).any() or any(len(row) <= size for row, size in zip(words, sizes.tolist(), strict=True)):
        raise ValueError("a face that is cut short")
    corners = np.array([w for row, size in zip(words, sizes.tolist(), strict=True) for w in row[1 : size + 1]], float)
    return triangulate(points, checked_indices(corners, len(points), where), np.concatenate([[0], np.cumsum(sizes)]))
