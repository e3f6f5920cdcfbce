"""Wavefront OBJ files: polygons of any form, points, colours and normals; materials and textures are not opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.numbers import numbers, table, words_per_line
from sdf_tools.io.ply import checked_indices
from sdf_tools.io.polygons import triangulate
from sdf_tools.topology import first_occurrences

_CONTINUED = (b"v ", b"v\t", b"vn", b"f ", b"f\t", b"fo")
_UNREAD = {b"l", b"curv", b"curv2", b"surf", b"bsp", b"bzp", b"cdc", b"cdp", b"res"}
"""Words of Wavefront's format for lines and free-form surfaces, of whose points a cloud would be no surface."""


def read_obj(data: bytes, where: str, merge: bool = True) -> dict[str, Any]:
    """Points, faces, normals and colours of all objects of a file.

    Args:
        data: the file's content, without a byte order mark.
        where: what messages call it.
        merge: one vertex for all corners that name it, with the mean of their normals; else one for each combination
            of position, texture coordinate and normal, so that seams stay apart.

    Raises:
        ShapeError: no OBJ file, lines or free-form surfaces alone, or faces that name vertices it does not have.
    """
    vertices, normals, faces, before, unread = _collect(data)
    if not vertices:
        raise ShapeError(f"'{where}' holds no geometry: there are no vertices in it.")
    try:
        rows = table(vertices, 3)
        directions = table(normals, 3)[:, :3] if normals else None
    except ValueError:
        why = "it has decimal commas" if any(b"," in line for line in vertices) else "it is damaged"
        raise ShapeError(
            f"'{where}' has a vertex line that does not hold three numbers: {why}; export it again."
        ) from None
    fields: dict[str, Any] = {"points": rows[:, :3]}
    if rows.shape[1] in (6, 7):
        fields["colors"] = rows[:, 3:6]
    free_form = ", ".join(sorted(word.decode() for word in unread - {b"l"}))
    if not faces:
        if unread:
            what = f"free-form surfaces ({free_form})" if free_form else "lines"
            raise ShapeError(f"'{where}' holds {what} and no faces; export it with triangles or polygons.")
        return fields
    if free_form:
        fields["notes"] = [f"its free-form surfaces ({free_form}) were left out"]
    corners, offsets = _corners(faces, before, len(rows), 0 if directions is None else len(directions), where)
    position = checked_indices(corners[:, 0], len(rows), where)
    named = corners[:, 2] if directions is not None and (corners[:, 2] >= 0).all() else None
    if named is not None and directions is not None:
        named = checked_indices(named, len(directions), where)
    if merge:
        keep, index = np.unique(position, return_inverse=True)
        index = index.reshape(-1)
        if named is not None and directions is not None:
            summed = [np.bincount(index, directions[named, i], minlength=len(keep)) for i in range(3)]
            fields["normals"] = np.stack(summed, 1)
    else:
        first, index = first_occurrences(corners)
        keep = position[first]
        if named is not None and directions is not None:
            fields["normals"] = directions[named[first]]
    fields["points"] = rows[keep, :3]
    if "colors" in fields:
        fields["colors"] = fields["colors"][keep]
    fields["faces"] = triangulate(fields["points"], index, offsets)
    return fields


def _collect(data: bytes) -> tuple[list[bytes], list[bytes], list[bytes], list[tuple[int, int]], set[bytes]]:
    """Lines of vertices, normals and faces without their keyword, how many of the first two precede each face, and
    the keywords of other shapes."""
    vertices: list[bytes] = []
    normals: list[bytes] = []
    faces: list[bytes] = []
    before: list[tuple[int, int]] = []
    unread: set[bytes] = set()
    lines = data.splitlines()
    for raw in _continued(lines) if b"\\" in data else lines:
        line = raw.strip() if b"#" not in raw else raw.split(b"#")[0].strip()
        word = line[:2]
        if word in (b"v ", b"v\t"):
            vertices.append(line[2:])
        elif word == b"vn":
            normals.append(line[2:])
        elif word in (b"f ", b"f\t") or line[:3] in (b"fo ", b"fo\t"):  # fo: an older word for f
            faces.append(line[2:].removeprefix(b"o"))
            before.append((len(vertices), len(normals)))
        elif word[:1] in (b"l", b"c", b"s", b"b", b"r"):
            unread |= {line.split(None, 1)[0]} & _UNREAD
    return vertices, normals, faces, before, unread


def _continued(lines: list[bytes]) -> Iterator[bytes]:
    """Lines joined where a backslash ends them; one that ends a comment or a name (a folder) joins nothing."""
    parts: list[bytes] = []
    for raw in lines:
        line = raw.strip()
        if line.endswith(b"\\") and b"#" not in line and (parts or line[:2] in _CONTINUED):
            parts.append(line[:-1])
        elif parts:
            yield b" ".join([*parts, line])
            parts = []
        else:
            yield line
    yield b" ".join(parts)


def _corners(
    faces: list[bytes], before: list[tuple[int, int]], count: int, normals: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """(C, 3) indices of position, texture coordinate and normal of each corner from 0, -1 where it has none."""
    text = b"\n".join(faces)
    sizes = words_per_line(text)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    corners = np.full((int(offsets[-1]), 3), -1, np.int64)
    slashes = _slashes(text, len(corners))
    alike = int(slashes.max(initial=0)) if (slashes == slashes[:1]).all() else -1
    try:
        if alike == 0:
            corners[:, 0] = _one_based(numbers(text))
        elif alike == 2 and text.count(b"//") == len(corners) and not re.search(rb"//(\s|$)", text):
            both = _one_based(numbers(text.replace(b"//", b" "))).reshape(-1, 2)
            corners[:, 0], corners[:, 2] = both.T
        elif alike in (1, 2) and not re.search(rb"/([/\s]|$)", text):
            corners[:, : alike + 1] = _one_based(numbers(text.replace(b"/", b" "))).reshape(-1, alike + 1)
        else:
            words = [word.split(b"/") for word in text.split()]
            for column in range(3):
                rows = [i for i, parts in enumerate(words) if len(parts) > column and parts[column]]
                corners[rows, column] = _one_based(np.array([float(words[i][column]) for i in rows]))
    except (ValueError, OverflowError):
        raise ShapeError(f"'{where}' has a face line that is not a list of vertex numbers; export it again.") from None
    relative = corners < -1
    if relative.any():  # counted back from the last vertex before the face
        passed = np.repeat(np.array(before), sizes, axis=0)
        for column, known in ((0, passed[:, 0]), (2, passed[:, 1])):
            back = relative[:, column]
            corners[back, column] = known[back] + corners[back, column] + 1
        corners[:, ::2][corners[:, ::2] < -1] = -2
    if (corners[:, 0] >= count).any():
        raise ShapeError(
            f"'{where}' has faces that name vertices it does not have ({int(corners[:, 0].max()) + 1}; it has 1 to "
            f"{count}); export it again."
        )
    if (corners[:, 0] < 0).any() or (normals and (corners[:, 2] >= normals).any()):
        raise ShapeError(f"'{where}' has faces that name vertices or normals it does not have; export it again.")
    return corners, offsets


def _slashes(text: bytes, words: int) -> np.ndarray:
    """How many slashes each word has."""
    letters = np.frombuffer(text, np.uint8)
    blank = letters <= 32
    starts = ~blank & np.concatenate([[True], blank[:-1]])
    return np.bincount(np.cumsum(starts, dtype=np.int32)[letters == ord("/")] - 1, minlength=words)


def _one_based(values: np.ndarray) -> np.ndarray:
    """File numbers (1 first, or -1 last) to 0 first, or -2 last: -1 stays free for 'none'."""
    if (
        not np.isfinite(values).all()
        or (values % 1 != 0).any()
        or (np.abs(values) > 2**53).any()
        or (values == 0).any()
    ):
        raise ValueError("no vertex number")
    return (values - 1).astype(np.int64)
