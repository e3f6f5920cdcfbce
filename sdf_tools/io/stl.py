"""STL files, binary and text, as programs write them: padded, cut, with odd names, line ends, counts or polygons."""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.limits import require_memory
from sdf_tools.io.numbers import table
from sdf_tools.io.polygons import triangulate

_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER = 84  # bytes: 80 of text and the number of triangles
_UNFILLED = (0, 0xFFFFFFFF)  # counts of writers that never came back to write the right one
_BLOCK = 1 << 16  # lines
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # never in text, soon in floats
_KEYWORD = re.compile(rb"[ \t](facet|outer|vertex|endloop|endfacet)\b")


def read_stl(data: bytes, where: str) -> dict[str, Any]:
    """Triangles of a binary or text file: ``points`` (3F, 3) and ``faces`` (F, 3); facets of more corners are cut.

    Args:
        data: the file's content.
        where: what messages call it.

    Raises:
        ShapeError: no STL file, cut short, without triangles, or with a count that contradicts its size.
    """
    count = int.from_bytes(data[80:_HEADER], "little") if len(data) >= _HEADER else 0
    exact = len(data) == _HEADER + count * _RECORD.itemsize
    if exact or _CONTROL.search(data[:4096]):
        points, notes = _binary(data, count, where)
        faces = np.arange(len(points)).reshape(-1, 3)
    else:
        require_memory(7 * len(data), where)
        points, faces = _text(data.removeprefix(codecs.BOM_UTF8), where)
        notes = []
    if not len(faces):
        raise ShapeError(f"'{where}' holds no geometry: it has no triangles.")
    return {"points": points, "faces": faces, "notes": notes}


def _binary(data: bytes, count: int, where: str) -> tuple[np.ndarray, list[str]]:
    """(3F, 3) corners, and what was done about a count that the size contradicts."""
    room, over = divmod(max(0, len(data) - _HEADER), _RECORD.itemsize)
    if len(data) < _HEADER:
        raise ShapeError(f"'{where}' is not an STL file, or cut short: it ends within the header; copy it again.")
    notes = []
    if count in _UNFILLED and room and not over:
        notes.append(f"its header does not say how many triangles there are; its size says {room:,}")
        count = room
    rest = data[_HEADER + count * _RECORD.itemsize :]
    if count > room:
        raise ShapeError(
            f"'{where}' is cut short or no STL file: its header says {count:,} triangles, and the file has room for "
            f"{room:,}; copy or export it again."
        )
    if rest.strip(b"\0"):
        if not over or _starts_another(rest):
            raise ShapeError(
                f"'{where}' is damaged: its header says {count:,} triangles, and the file holds {room:,} or a second "
                "file behind them; export it again."
            )
        if len(rest.strip()) > 0:
            notes.append(f"left out {len(rest):,} bytes behind the {count:,} triangles that its header promises")
    rows = np.frombuffer(data, _RECORD, count, _HEADER)
    return rows["corners"].reshape(-1, 3).astype(np.float64), notes


def _starts_another(rest: bytes) -> bool:
    """Whether files were laid end to end: what follows has the size that its own count promises."""
    if len(rest) < _HEADER + _RECORD.itemsize:
        return False
    return len(rest) == _HEADER + int.from_bytes(rest[80:_HEADER], "little") * _RECORD.itemsize


def _text(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) corners and (F, 3) triangles."""
    text = data.lower()
    points = _plain_triangles(text)
    if points is not None:
        return points, np.arange(len(points)).reshape(-1, 3)
    lines = [line.strip() for line in text.splitlines()]
    corners, sizes = _facets(lines)
    if not len(sizes) or sizes.min() < 3 or sizes.sum() != len(corners):  # several words of the format on a line
        lines = _one_word_a_line(lines)
        corners, sizes = _facets(lines)
    if not corners and not any(line.startswith(b"solid") for line in lines):
        raise ShapeError(f"'{where}' is not an STL file: it has neither triangles nor a 'solid' line; check the file.")
    if not _ends(lines):
        raise ShapeError(
            f"'{where}' is cut short: no 'endsolid' follows the last of its {len(sizes):,} facets; copy or export it "
            "again."
        )
    if not corners:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    if not len(sizes) or sizes.min() < 3 or sizes.sum() != len(corners):
        raise ShapeError(f"'{where}' is damaged: it has a facet of fewer than three vertices; export it again.")
    try:
        points = _numbers(corners)
    except ValueError:
        why = "it has decimal commas" if any(b"," in line for line in corners) else "it is damaged"
        raise ShapeError(
            f"'{where}' has a vertex line that does not hold three numbers: {why}; export it again."
        ) from None
    return points, triangulate(points, np.arange(len(points)), np.concatenate([[0], np.cumsum(sizes)]))


def _plain_triangles(text: bytes) -> np.ndarray | None:
    """(3F, 3) corners of a file of triangles with a line for each vertex and no such word elsewhere, else None.

    Fast, for the files that most programs write.
    """
    pieces = text.split(b"vertex")
    if len(pieces) % 3 != 1 or text.count(b"endloop") * 3 != len(pieces) - 1:
        return None
    _, end, after = pieces[-1].rpartition(b"endsolid")
    if not end or b"solid" in after or b"facet" in pieces[-1].replace(b"endfacet", b""):
        return None
    if not all(b"endloop" in piece for piece in pieces[3::3]):
        return None
    rows = [piece[: piece.find(b"\n")] for piece in pieces[1:]]
    del pieces  # as large as the file
    try:
        return _numbers(rows)
    except ValueError:
        return None


def _numbers(rows: list[bytes]) -> np.ndarray:
    """(P, 3); in blocks, since the check for short lines takes eight bytes for each character."""
    return np.concatenate([table(rows[at : at + _BLOCK], 3)[:, :3] for at in range(0, len(rows), _BLOCK)])


def _facets(lines: list[bytes]) -> tuple[list[bytes], np.ndarray]:
    """What follows each ``vertex``, and (F,) how many of them each ``facet`` has; those before the first count none."""
    kept = [line for line in lines if line[:6] == b"vertex" or line[:5] == b"facet"]
    opens = np.frombuffer(b"".join([line[:1] for line in kept]), np.uint8) == ord("f")
    starts = np.append(np.flatnonzero(opens), len(kept))
    return [line[6:] for line in kept if line[:1] == b"v"], np.diff(starts) - 1


def _one_word_a_line(lines: list[bytes]) -> list[bytes]:
    """The same with a line for each word of the format; the names of solids, which may hold such words, stay whole."""
    return [
        part
        for line in lines
        for part in ([line] if b"solid" in line[:9] else _KEYWORD.sub(rb"\n\1", line).splitlines())
    ]


def _ends(lines: list[bytes]) -> bool:
    for line in reversed(lines):
        if line.startswith((b"endsolid", b"end solid")):
            return True
        if line.startswith((b"facet", b"vertex", b"endloop", b"endfacet", b"solid", b"outer")):
            return False
    return False
