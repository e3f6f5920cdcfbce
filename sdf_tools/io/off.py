"""OFF files: polygons of any size side by side, colours, normals, or points alone; by lines or as one stream."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.numbers import numbers, table
from sdf_tools.io.ply import checked_indices
from sdf_tools.io.polygons import triangulate

_KEYWORD = re.compile(rb"((?:ST|C|N|4|n)*)OFF|((?:st|c|n|4)*)off", re.ASCII)

_Faces = tuple[np.ndarray, np.ndarray]
"""Vertex numbers of all faces, and (F + 1,) where each begins."""


def read_off(data: bytes, where: str) -> dict[str, Any]:
    """Points, faces, normals and colours.

    ``N`` before ``C`` in the first word, as MeshLab writes it, puts colours before normals; the format's own order is
    the other way round.

    Args:
        data: the file's content, without a byte order mark.
        where: what messages call it.

    Raises:
        ShapeError: no OFF file, cut short, of a form that is not read (binary, four dimensions), or with faces that
            name vertices it does not have.
    """
    lines = [line.split(b"#")[0].strip() for line in data.splitlines()]
    lines = [line for line in lines if line]
    found = _KEYWORD.match(lines[0]) if lines else None
    if not found:
        raise ShapeError(f"'{where}' is not an OFF file: it does not start with 'OFF'; check the file or its suffix.")
    kind = found.group(1) if found.group(1) is not None else found.group(2).upper()
    rest = lines[0][found.end() :].strip()
    if b"4" in kind or b"n" in kind or rest.upper().startswith(b"BINARY"):
        raise ShapeError(
            f"'{where}' is an OFF file of a kind that is not read here (binary or not in three dimensions)."
        )
    lines = [rest, *lines[1:]] if rest else lines[1:]
    try:
        count, faces, lines = _counts(lines)
        try:
            rows, corners, offsets = _by_lines(lines, count, faces, 6 if b"N" in kind else 3)
        except (ValueError, IndexError):
            rows, corners, offsets = _by_stream(lines, count, faces, kind)
    except (ValueError, IndexError, OverflowError):
        raise ShapeError(
            f"'{where}' is cut short or damaged: it does not hold the vertices and faces that its OFF header promises; "
            "copy or export it again."
        ) from None
    fields = _vertex_fields(rows, kind)
    if faces:
        fields["faces"] = triangulate(fields["points"], checked_indices(corners, count, where), offsets)
    return fields


def _counts(lines: list[bytes]) -> tuple[int, int, list[bytes]]:
    """Vertices and faces, and the lines behind; the number of edges may be missing, unless each has its own line."""
    words, used = lines[0].split(), 1
    least = 2 if len(words) > 1 else 3
    while len(words) < least:
        words += lines[used].split()
        used += 1
    count, faces = int(words[0]), int(words[1])
    if count < 0 or faces < 0:
        raise ValueError("a negative count")
    return count, faces, lines[used:]


def _vertex_fields(rows: np.ndarray, kind: bytes) -> dict[str, Any]:
    """Points, normals and colours of (V, W) rows; texture coordinates stand last and are left out."""
    fields: dict[str, Any] = {"points": rows[:, :3]}
    width = rows.shape[1] - (2 if b"ST" in kind else 0)
    normals_last = b"C" in kind and b"N" in kind and kind.index(b"N") < kind.index(b"C")
    if b"N" in kind:
        fields["normals"] = rows[:, width - 3 : width] if normals_last else rows[:, 3:6]
    at = 6 if b"N" in kind and not normals_last else 3
    if b"C" in kind and width >= (9 if b"N" in kind else 6):
        fields["colors"] = rows[:, at : at + 3]
    return fields


def _by_lines(lines: list[bytes], count: int, faces: int, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(V, W) rows of vertices, and faces, each on a line of its own, which may go on with colours."""
    if count + faces > len(lines):
        raise ValueError("too few lines")
    rows = table(lines[:count], least) if count else np.zeros((0, least))
    return rows, *_face_lines(lines[count : count + faces])


def _face_lines(lines: list[bytes]) -> _Faces:
    words = [line.split() for line in lines]
    sizes = np.array([int(row[0]) for row in words], np.int64)
    if (sizes < 0).any() or any(len(row) <= size for row, size in zip(words, sizes.tolist(), strict=True)):
        raise ValueError("a face that is cut short")
    corners = np.array([w for row, size in zip(words, sizes.tolist(), strict=True) for w in row[1 : size + 1]], float)
    return corners, np.concatenate([[0], np.cumsum(sizes)])


def _by_stream(lines: list[bytes], count: int, faces: int, kind: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same where lines hold several vertices or faces: as many numbers as the format says, whatever the lines."""
    base = 3 + 3 * (b"N" in kind) + 2 * (b"ST" in kind)
    values = numbers(b" ".join(lines))
    ends = np.cumsum([len(line.split()) for line in lines]).tolist()
    for width in (base + 4, base + 3) if b"C" in kind else (base,):
        if count * width not in (0, *ends):  # vertices and faces never share a line
            continue
        rows = values[: count * width].reshape(count, width)
        behind = lines[ends.index(count * width) + 1 :] if count else lines
        try:
            return rows, *(_face_lines(behind) if len(behind) == faces else _face_stream(values[rows.size :], faces))
        except (ValueError, IndexError):
            continue
    raise ValueError("numbers that do not fit")


def _face_stream(values: np.ndarray, faces: int) -> _Faces:
    """Faces without colours, one after the other, that end where the numbers end."""
    sizes, starts, at = [], [], 0
    for _ in range(faces):
        sizes.append(int(values[at]))
        starts.append(at + 1)
        at += 1 + sizes[-1]
        if sizes[-1] < 3:
            raise ValueError("no face")
    if at != len(values):
        raise ValueError("numbers behind the last face")
    corners = [values[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return np.concatenate([np.zeros(0), *corners]), np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
