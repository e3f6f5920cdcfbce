"""Point clouds as text: .xyz .pts .txt .asc .csv, with whatever separators, headers and columns scanners write."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.columns import counts_rows, fields_of, known_names, listed, meaning
from sdf_tools.io.numbers import numbers, words_per_line

_COMMENT = ("#", "//", "%", ";;", "!")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]*)"')
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_PLAIN = re.compile(r"[+-]?\d+(\.\d*)?")
_GROUPED = re.compile(r"[+-]?(\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+,\d+|\d{1,3}( \d{3})+([.,]\d+)?|\d+,\d+)")
"""Numbers with separators of thousands, or with a decimal comma."""
_HEADER = 10_000  # characters of a line that may name columns
_SEPARATORS = ";,\t"
_PROBE = 100  # lines that decide on the separator
_COLUMNS = 1000


@dataclass
class _Header:
    """A line before the points: its fields by each separator that may part them, the likeliest first."""

    splits: list[list[str]]
    spaced: bool
    """White space is all that separates it."""
    comment: bool


def read_text_cloud(data: bytes, where: str) -> dict[str, Any]:
    """Points, and normals and colours where there are some: see ``columns.fields_of``.

    Separators are white space, semicolons or commas; ``12,5 0,3 7,1`` has decimal commas; numbers may stand in quotes.
    A first line may hold the number of points, as may one before each further scan, and a line before the points the
    names of the columns, as a comment or not.

    Raises:
        ShapeError: no points, a line with words or with another number of columns, or a header that names others.
    """
    lines = _decode(data).splitlines()
    first, header = _find_points(lines, where)
    body = [re.split(r"#|//", line)[0] if "#" in line or "//" in line else line for line in lines[first:]]
    kept = [(first + i, line) for i, line in enumerate(body) if line.strip() and not line.lstrip().startswith(_COMMENT)]
    kept, notes = _without_counts(kept)
    text, quoted_commas = _unquoted("\n".join(line for _, line in kept))
    probe = [w for line in _first_lines(text, _PROBE) for w in re.split(r"[;\s]+", line.strip()) if w]
    decimal = any("," in w for w in probe) and all(_DECIMAL_COMMA.fullmatch(w) for w in probe)
    if quoted_commas and (not decimal or all(_THOUSANDS.fullmatch(w) for w in probe if "," in w)):
        raise ShapeError(
            f"'{where}' has commas inside of numbers in quotes, which may stand for thousands or for decimals; write "
            "the numbers without."
        )
    if decimal and len(probe) >= 3 * min(len(kept), _PROBE):
        text = text.replace(",", ".")
        notes.append("decimal commas were read as points")
    elif _are_grouped(_first_lines(text, _PROBE)):
        raise ShapeError(
            f"'{where}' has commas or blanks inside of its numbers, for thousands or for decimals, which may part "
            "columns as well; write the numbers without."
        )
    ends = any(re.search(r"[,;]\s*$", line) for line in _first_lines(text, 1))
    packed = _spaced(text).encode("latin-1", "replace")
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
    rows = values.reshape(len(kept), -1)
    names, doubt = (None, []) if header is None else _names(header, rows, ends, where)
    fields = fields_of(rows, where, names, intensity_first=where.lower().endswith(".pts"))
    fields["notes"] = notes + doubt + fields.get("notes", [])
    return fields


def _are_grouped(lines: list[str]) -> bool:
    """Whether the numbers between the strongest separators of every line have separators of their own."""
    grouped = False
    counts = set()
    for line in lines:
        parts = [r";", r"\t", r",\s", r"\s"]
        mark = next((mark for mark in parts if re.search(mark, line.strip())), None)
        words = [] if mark is None else [word.strip() for word in re.split(mark, line.strip(" ;\t,")) if word.strip()]
        counts.add(len(words))
        if not all(_PLAIN.fullmatch(word) or _GROUPED.fullmatch(word) for word in words):
            return False
        grouped |= not all(_PLAIN.fullmatch(word) for word in words)
    return grouped and len(counts) == 1 and min(counts) >= 3


def _without_counts(kept: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines without those that hold, before each further scan of a file, the number of its points."""
    at = [i for i, (_, line) in enumerate(kept) if line.strip().isdecimal()]
    ends = [*at[1:], len(kept)]
    if not at or any(kept[i][1].strip() != str(end - i - 1) for i, end in zip(at, ends, strict=True)):
        return kept, []
    counts = set(at)
    return [line for i, line in enumerate(kept) if i not in counts], [f"joined the points of {len(at) + 1} scans"]


def _unquoted(text: str) -> tuple[str, bool]:
    """The text without quotation marks, and whether there were commas between them.

    If so, the commas outside separate and become semicolons.
    """
    if '"' not in text:
        return text, False
    if not any("," in found[1] for found in _QUOTED.finditer(text)):
        return text.replace('"', ""), False
    return re.sub(_QUOTED.pattern + "|,", lambda found: ";" if found[0] == "," else found[1], text), True


def _spaced(text: str) -> str:
    """The text with its separators as blanks, and NaN for empty fields.

    Those at the end of a line count if all lines have as many separators, not all of them one at their end.
    """
    text = text.replace(",", ";")
    if re.search(r"(?m)(^|;)[ \t]*(;|$)", text):
        lines = text.split("\n")
        full = len({line.count(";") for line in lines}) == 1 and not all(line.rstrip().endswith(";") for line in lines)
        text = text if full else "\n".join(line.rstrip("; \t") for line in lines)
        text = re.sub(r"(?m)(^|;)(?=[ \t]*(;|$))" if full else r"(?m)(^|;)(?=[ \t]*;)", r"\1nan", text)
    return text.replace(";", " ")


def _first_lines(text: str, count: int) -> list[str]:
    """The first lines, without a copy of the rest."""
    lines: list[str] = []
    at = 0
    while len(lines) < count and at <= len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        lines.append(text[at:end])
        at = end + 1
    return lines


def _find_points(lines: list[str], where: str) -> tuple[int, _Header | None]:
    """The line of the first point, and the line before it that names the columns, if there is one."""
    header: _Header | None = None
    known = False
    for at, line in enumerate(lines):
        bare = line.strip(" \r\n")  # a tab may follow an empty name
        comment = line.lstrip().startswith(_COMMENT)
        bare = bare.lstrip() if comment else bare
        for mark in _COMMENT:
            bare = bare.removeprefix(mark)
        if len(bare) <= _HEADER:
            bare = re.sub(r"[\[(][^\[\](){}]*[\])]", "", bare)  # units
        bare = bare.strip() if comment else bare.strip(" ")
        words = [word.strip("\"'") for word in re.split(r"[,;\s]+", bare) if word]
        figures = [bool(_NUMBER.fullmatch(word)) for word in words]
        if not words or (len(words) == 1 and words[0].isdigit()):
            continue
        if not comment and all(figures):
            return at, header
        splits = _splits(bare[:_HEADER].replace("\0", ""))
        spaced = not any(separator in bare for separator in _SEPARATORS)
        if any(known_names(names) for names in splits):
            header, known = _Header(splits, spaced, comment), True
        elif not comment and any(_NUMBER.fullmatch(name) for name in splits[0]):
            raise ShapeError(_no_points(where, at))
        elif not comment and not known:
            header = _Header(splits, spaced, comment)
    raise ShapeError(f"'{where}' holds no points: no line has three numbers.")


def _splits(text: str) -> list[list[str]]:
    """The fields of a header line by each separator that is in it, and by white space if that parts no name."""
    found = []
    for separator in _SEPARATORS:
        if separator in text:
            fields = next(csv.reader([text], delimiter=separator, skipinitialspace=separator != "\t"))
            found.append([field.strip(" \"'") for field in fields])
    whole = all(len(field.split()) < 2 for fields in found for field in fields)
    if whole or not any(known_names(fields) for fields in found):
        words = [word.strip("\"'") for word in re.findall(r"\"[^\"]*\"|'[^']*'|[^,;\s]+", text)]
        found.append(words)
    return sorted(found, key=known_names, reverse=True)


def _names(header: _Header, rows: np.ndarray, ends: bool, where: str) -> tuple[list[str] | None, list[str]]:
    """The name of each column, or none and why.

    Args:
        header: the line that names them.
        rows: (N, W) the points.
        ends: whether their lines end in a separator.
        where: what messages call the file.

    Raises:
        ShapeError: it names other columns than there are, and what is the position would be a guess.
    """
    width = rows.shape[1]
    for names in header.splits:
        while len(names) > width and (ends or not names[-1]):
            names = names[:-1]
        if len(names) == width - 1 and known_names(names) and counts_rows(rows[:, 0]):
            names = ["", *names]  # R writes the numbers of rows without a name
        if len(names) == width:
            return names, []
    names = header.splits[0]
    said = f"{listed(names)}: {len(names)} names for {width} columns"
    unused = [f"the names before the points are not those of the columns and were not used ({said})"]
    if not known_names(names):
        text = len(names) < 3 or (header.spaced and not any(meaning(name) for name in names))
        return None, [] if text else unused
    joined = _with_one_blank(names, width, header.comment)
    if header.spaced and joined is not None:
        return joined, []
    unnamed_first = len(names) == width - 1 and np.array_equal(rows[:, 0], np.rint(rows[:, 0]))
    in_order = [meaning(name) for name in names[:3]] == ["x", "y", "z"]
    if header.comment or (in_order and not unnamed_first):
        return None, unused
    raise ShapeError(
        f"the header of '{where}' does not fit its rows ({said}); give each column one name, with the position as "
        "x, y and z."
    )


def _with_one_blank(words: list[str], width: int, comment: bool) -> list[str] | None:
    """Words that white space separates, with their one run of unknown ones as the one column that is left for it.

    In a comment the run may be mere text, for which no column is left.
    """
    strange = [i for i, word in enumerate(words) if meaning(word) is None]
    if not strange or strange[-1] - strange[0] + 1 != len(strange):
        return None
    left = width - (len(words) - len(strange))
    if left != 1 and not (comment and left == 0):
        return None
    run = [" ".join(words[strange[0] : strange[-1] + 1])] * left
    return words[: strange[0]] + run + words[strange[-1] + 1 :]


def _no_points(where: str, line: int) -> str:
    return f"line {line + 1} of '{where}' is not a point: every line must hold three or more numbers."


def _all_numbers(line: str) -> bool:
    return all(_NUMBER.fullmatch(w) for w in re.split(r"[,;\s\"]+", line.strip()) if w)


def _decode(data: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "replace")
