"""Point clouds as text: .xyz .pts .txt .asc .csv, with whatever separators, headers and columns scanners write."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.columns import fields_of, known_names
from sdf_tools.io.numbers import numbers, words_per_line

_COMMENT = ("#", "//", "%", ";;", "!")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_PROBE = 100  # lines that decide on the separator
_COLUMNS = 1000


def read_text_cloud(data: bytes, where: str) -> dict[str, Any]:
    """Points, and normals and colours where there are some: see ``columns.fields_of``.

    Separators are white space, semicolons or commas; ``12,5 0,3 7,1`` has decimal commas. A first line may hold the
    number of points, and a line before the points the names of the columns, as a comment or not.

    Raises:
        ShapeError: no points, a line with words or with another number of columns.
    """
    lines = _decode(data).splitlines()
    first, names = _find_points(lines, where)
    body = [re.split(r"#|//", line)[0] if "#" in line or "//" in line else line for line in lines[first:]]
    kept = [(first + i, line) for i, line in enumerate(body) if line.strip() and not line.lstrip().startswith(_COMMENT)]
    text = "\n".join(line for _, line in kept)
    probe = [w for _, line in kept[:_PROBE] for w in re.split(r"[;\s]+", line.strip()) if w]
    decimal = any("," in w for w in probe) and all(_DECIMAL_COMMA.fullmatch(w) for w in probe)
    if decimal and len(probe) >= 3 * min(len(kept), _PROBE):
        text = text.replace(",", ".").replace(";", " ")
        notes = ["decimal commas were read as points"]
    else:
        text, notes = text.replace(",", " ").replace(";", " "), []
    packed = text.encode("latin-1", "replace")
    widths = words_per_line(packed)
    odd = np.flatnonzero(widths != np.bincount(widths).argmax()) if len(widths) else widths
    if len(widths) != len(kept) or len(odd):
        row = kept[int(odd[0])][0] + 1 if len(odd) else first + 1
        raise ShapeError(
            f"line {row} of '{where}' holds {int(widths[odd[0]]) if len(odd) else 0} columns where the others hold "
            f"{int(np.bincount(widths).argmax())}; every point needs the same."
        )
    if widths[0] > _COLUMNS:
        raise ShapeError(f"'{where}' has lines of {widths[0]:,} numbers, which are no points; one point is one line.")
    try:
        values = numbers(packed)
        if len(values) != widths.sum():
            raise ValueError
    except ValueError:
        bad = next((at for at, line in kept if not _all_numbers(line)), first)
        raise ShapeError(_no_points(where, bad)) from None
    fields = fields_of(values.reshape(len(kept), -1), where, names)
    fields["notes"] = notes + fields.get("notes", [])
    return fields


def _find_points(lines: list[str], where: str) -> tuple[int, list[str] | None]:
    """The line of the first point, and the names of the columns if a line before it has them."""
    names: list[str] | None = None
    for at, line in enumerate(lines):
        bare = line.strip()
        comment = bare.startswith(_COMMENT)
        for mark in _COMMENT:
            bare = bare.removeprefix(mark)
        bare = re.sub(r"[\[(].*?[\])]", "", bare)  # units
        words = [word.strip("\"'") for word in re.split(r"[,;\s]+", bare) if word]
        figures = [bool(_NUMBER.fullmatch(word)) for word in words]
        if not words or (len(words) == 1 and words[0].isdigit()):
            continue
        if not comment and all(figures):
            return at, names
        if known_names(words):
            names = words
        elif not comment and any(figures):
            raise ShapeError(_no_points(where, at))
    raise ShapeError(f"'{where}' holds no points: no line has three numbers.")


def _no_points(where: str, line: int) -> str:
    return f"line {line + 1} of '{where}' is not a point: every line must hold three or more numbers."


def _all_numbers(line: str) -> bool:
    return all(_NUMBER.fullmatch(w) for w in re.split(r"[,;\s]+", line.strip()) if w)


def _decode(data: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")
