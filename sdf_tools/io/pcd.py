"""PCD files of the Point Cloud Library: text, binary and compressed, organised or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.io.columns import meaning, named
from sdf_tools.io.limits import require_memory
from sdf_tools.io.numbers import table
from sdf_tools.io.ply import header_lines

_KINDS = {("F", 4), ("F", 8), *((t, s) for t in "IU" for s in (1, 2, 4, 8))}


@dataclass(frozen=True)
class _Header:
    names: list[str]
    types: list[np.dtype]
    counts: list[int]
    points: int
    form: str
    start: int


def read_pcd(data: bytes, where: str) -> dict[str, Any]:
    """Points, normals and colours. Points whose coordinates are NaN, how sensors mark "nothing seen", are left out.

    Raises:
        ShapeError: no PCD file, cut short, or a header that contradicts the data.
    """
    try:
        header = _header(data, where)
        columns = _columns(data, header, where)
        points = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float64)
    except (KeyError, ValueError, IndexError, OverflowError):
        raise ShapeError(f"'{where}' is cut short or damaged: its PCD header and data do not agree.") from None
    seen = ~np.isnan(points).any(1)
    if len(points) and not seen.any():
        raise ShapeError(f"'{where}' holds no geometry: none of its {len(points):,} points was measured (all are NaN).")
    fields: dict[str, Any] = {"points": points[seen]}
    if not seen.all():
        fields["notes"] = [f"left out {int((~seen).sum()):,} of {len(points):,} points without a measurement (NaN)"]
    names = list(columns)
    for part, places in named(names).items():
        if part != "points":
            fields[part] = np.column_stack([columns[names[i]] for i in places])[seen]
    packed = next((n for n in ("rgb", "rgba") if n in columns), None)
    if packed is not None:
        codes = _color_codes(columns[packed])
        if codes is not None:
            fields["colors"] = np.stack([(codes >> shift & 255) / 255 for shift in (16, 8, 0)], 1)[seen]
    return fields


def _header(data: bytes, where: str) -> _Header:
    found, start = header_lines(data, "data")
    if start == 0:
        raise ShapeError(f"'{where}' is not a PCD file: its header has no DATA line.")
    lines: dict[str, list[str]] = {}
    for words in map(str.split, found):
        if not words[0].startswith("#"):
            lines[words[0].upper()] = words[1:]
    names = [name.lower() for name in lines.get("FIELDS") or lines["COLUMNS"]]
    # The oldest versions have neither sizes nor types: all fields are floats.
    sizes = [int(s) for s in lines.get("SIZE", ["4"] * len(names))]
    counts = [int(c) for c in lines.get("COUNT", ["1"] * len(names))]
    types = []
    for kind, size in zip(map(str.upper, lines.get("TYPE", ["F"] * len(names))), sizes, strict=True):
        if (kind, size) not in _KINDS:
            raise ValueError("no such type")
        types.append(np.dtype("<" + kind.lower() + str(size)))
    if len(names) != len(types) or len(names) != len(counts) or min(counts, default=0) < 1:
        raise ValueError("fields that do not match")
    width, height = int(lines.get("WIDTH", ["0"])[0]), int(lines.get("HEIGHT", ["1"])[0])
    points = int(lines["POINTS"][0]) if "POINTS" in lines else width * height
    if points < 0 or width < 0 or height < 0:
        raise ValueError("a negative count")
    return _Header(names, types, counts, points, lines["DATA"][0].lower(), start)


def _columns(data: bytes, header: _Header, where: str) -> dict[str, np.ndarray]:
    """The first value of every field of every point."""
    row = sum(t.itemsize * c for t, c in zip(header.types, header.counts, strict=True))
    if header.form == "ascii":
        lines = [line for line in data[header.start :].splitlines() if line.strip()][: header.points]
        if len(lines) < header.points:
            raise ValueError("too few lines")
        rows = table(lines, sum(header.counts)) if lines else np.zeros((0, sum(header.counts)))
        starts = np.cumsum([0, *header.counts])
        found = {n: rows[:, starts[i]] for i, n in enumerate(header.names)}
        # A packed colour was printed as the number that its bits make in its own type.
        for name, kind in zip(header.names, header.types, strict=True):
            if name in ("rgb", "rgba") or (meaning(name) in ("r", "g", "b") and np.isfinite(found[name]).all()):
                found[name] = found[name].astype(kind)
        return found
    require_memory(2 * row * header.points, where)
    if header.form == "binary":
        kinds = enumerate(zip(header.types, header.counts, strict=True))
        dtype = np.dtype([(f"{i}", t, (c,)) for i, (t, c) in kinds])
        packed = np.frombuffer(data, dtype, header.points, header.start)
        return {n: packed[f"{i}"][:, 0] for i, n in enumerate(header.names)}
    if header.form != "binary_compressed":
        raise ValueError("an unknown form")
    content = _decompress(data, header.start, row * header.points)
    found, at = {}, 0
    for name, kind, count in zip(header.names, header.types, header.counts, strict=True):
        block = np.frombuffer(content, kind, count * header.points, at).reshape(header.points, count)
        found[name] = block[:, 0]
        at += block.nbytes
    return found


def _decompress(data: bytes, start: int, expected: int) -> bytes:
    """The field after field layout behind two sizes; its own length must be what the header promises."""
    packed_size, size = np.frombuffer(data, "<u4", 2, start).tolist()
    packed = np.frombuffer(data, np.uint8, packed_size, start + 8)
    # A code of three bytes stands for at most 264.
    if size != expected or size > 264 * max(1, packed_size):
        raise ValueError("sizes that do not match")
    try:
        from sdf_tools.io._lzf_kernels import decompress
    except ImportError:
        raise MissingLibraryError(
            "Compressed PCD files need numba, which is not installed: pip install numba (or save them uncompressed)"
        ) from None
    out = np.empty(size, np.uint8)
    if size and decompress(packed, out) != size:
        raise ValueError("damaged")
    return out.tobytes()


def _color_codes(values: np.ndarray) -> np.ndarray | None:
    """(N,) 0xRRGGBB from a packed field: the bits of a float, or an integer."""
    if values.dtype == np.float32:
        return np.ascontiguousarray(values).view(np.uint32).astype(np.int64)
    return values.astype(np.int64) if values.dtype.kind in "iu" else None
