"""Which columns of a table of points are normals and which are colours, by their names or by their values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError

_AXIS = "{0} p{0} {0}_coord {0}_coordinate {0}coord coord_{0} pos_{0} position_{0} point_{0} points_{1}"
_NORMAL = "n{0} normal_{0} normal{0} {0}n norm_{0} normals_{0} normals_{1}"
_COLOR = "{0} {1} {0}f diffuse_{1} color_{0} colour_{0} color_{1} colour_{1} rgb_{0}"
_SURVEY = {"x": "easting east e", "y": "northing north n", "z": "height elevation elev altitude alt h"}
# Of several columns that mean the same the one whose name stands first is taken.
_NAMES = {
    **{a: [*_AXIS.format(a, i).split(), *_SURVEY[a].split()] for i, a in enumerate("xyz")},
    **{f"n{a}": _NORMAL.format(a, i).split() for i, a in enumerate("xyz")},
    **{word[0]: _COLOR.format(word[0], word).split() for word in ("red", "green", "blue")},
    "intensity": ["intensity", "i", "reflectance", "reflectivity", "remission"],
    # pandas leaves the name of its index empty, and reads it back as "Unnamed: 0".
    "index": ["index", "", "id", "fid", "oid", "pid", "no", "nr", "number", "point_id", "pointid", "unnamed_0"],
}
_MEANING = {alias: (key, rank) for key, aliases in _NAMES.items() for rank, alias in enumerate(aliases)}
_COUNTED = 10  # rows from which on a column that counts them is no chance


def meaning(name: str) -> str | None:
    """What the name of a column says that it is: ``x y z nx ny nz r g b intensity index``, or None."""
    return _MEANING.get(_plain(name), (None, 0))[0]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def known_names(words: list[str]) -> bool:
    """Whether the words of a header line name at least x, y and z."""
    return {"x", "y", "z"} <= {meaning(word) for word in words}


def listed(names: list[str]) -> str:
    """Names of columns as messages show them, not all of very many."""
    text = ", ".join(name or "''" for name in names)
    return text if len(text) <= 120 else text[:117] + "..."


def counts_rows(column: np.ndarray) -> bool:
    """Whether a column is a running number of its rows: whole, and one more from each row to the next."""
    return float(column[0]).is_integer() and np.array_equal(column, column[0] + np.arange(len(column)))


def fields_of(
    rows: np.ndarray, where: str, names: list[str] | None = None, *, intensity_first: bool = False
) -> dict[str, Any]:
    """Points, normals and colours of a table, and a sentence that says what was taken.

    Named columns are what their names say. Without names the first three are the position, after a column that counts
    the rows; after it, three columns whose rows have length one are normals, three of whole numbers from 0 to 255 (or
    65,535) or of values from 0 to 1 are colours, and every other column (an intensity, a time) is left out.

    Args:
        rows: (N, W) numbers.
        where: what messages call it.
        names: (W,) from a header line.
        intensity_first: of four columns that may be an intensity and a colour the first is the intensity (.pts).

    Raises:
        ShapeError: fewer than three columns, or names that contradict the only position that can be guessed.
    """
    if rows.ndim != 2 or rows.shape[1] < 3 or rows.dtype.kind not in "fiu":
        raise ShapeError(f"'{where}' must hold rows of at least three numbers (x, y, z), not shape {rows.shape}.")
    width = rows.shape[1]
    if names is not None and len(names) != width:
        names = None  # names for other columns than there are say nothing
    if names is not None and known_names(names):
        places, by = named(names), "by the names in its header"
    else:
        places, by = _guessed(rows, names, intensity_first), "by their values"
        if names is not None:
            _require_no_contradiction(names, places["points"], where)
            places.update(named(names))
            by += f", since its header ({listed(names)}) does not name x, y and z"
    taken = {part: rows[:, columns].astype(np.float64) for part, columns in places.items()}
    fields: dict[str, Any] = {"points": taken["points"], "normals": taken.get("normals"), "colors": taken.get("colors")}
    used = [i for columns in places.values() for i in columns]
    spare = [i for i in range(width) if i not in used]
    if width > 3 or "since" in by:
        said = ["x y z" if places["points"] == [0, 1, 2] else f"position in {_list(places['points'])}"]
        said += [f"{part} in {_list(places[part])}" for part in ("normals", "colors") if part in places]
        if spare:
            labels = [] if names is None else [names[i] or _list([i]) for i in spare]
            said.append(f"left out {listed(labels) if labels else _list(spare)}")
        fields["notes"] = [f"columns taken {by}: {'; '.join(said)}"]
        if len(spare) >= 3 and len(places) == 1 and places["points"] == [0, 1, 2] and names is None:
            fields["notes"] = [
                f"columns 4 to {width} are neither unit normals nor colours and were left out; name them in a first "
                "line (x y z nx ny nz) if they are"
            ]
        if names is None and _may_be_shifted(rows, places, spare):
            fields["notes"][0] += (
                "; intensity and colours look alike here, name the columns in a first line if this is wrong"
            )
    return fields


def _list(columns: list[int]) -> str:
    first, last = columns[0] + 1, columns[-1] + 1
    if len(columns) == 1:
        return f"column {first}"
    if columns == list(range(first - 1, last)):
        return f"columns {first} to {last}"
    return "columns " + ", ".join(str(i + 1) for i in columns)


def named(names: list[str]) -> dict[str, list[int]]:
    """The columns of ``points``, ``normals`` and ``colors``, of those that have a name for each of their three."""
    at: dict[str, tuple[int, int]] = {}
    for i, name in enumerate(names):
        key, rank = _MEANING.get(_plain(name), ("", 0))
        at[key] = min(at.get(key, (rank, i)), (rank, i))
    groups = {"points": "x y z", "normals": "nx ny nz", "colors": "r g b"}
    return {
        part: [at[k][1] for k in keys.split()] for part, keys in groups.items() if all(k in at for k in keys.split())
    }


def _guessed(rows: np.ndarray, names: list[str] | None, intensity_first: bool) -> dict[str, list[int]]:
    left = [i for i in range(rows.shape[1]) if not np.isnan(rows[:, i]).all()]
    if len(left) > 3:
        called = names is not None and meaning(names[left[0]]) == "index"
        if called or (len(rows) >= _COUNTED and counts_rows(rows[:, left[0]])):
            left = left[1:]
    if len(left) < 3:
        left = list(range(rows.shape[1]))
    places, left = {"points": left[:3]}, left[3:]
    if intensity_first and len(left) in (4, 7) and _alike(rows, left):
        left = left[1:]
    at = 0
    while at + 3 <= len(left):
        part = what_are(rows[:, left[at : at + 3]])
        if part is None or part in places:
            at += 1
            continue
        places[part] = left[at : at + 3]
        at += 3
    return places


def _alike(rows: np.ndarray, columns: list[int]) -> bool:
    """Whether the first three and the last three of four columns may both be colours."""
    return what_are(rows[:, columns[:3]]) == "colors" == what_are(rows[:, columns[1:4]])


def _may_be_shifted(rows: np.ndarray, places: dict[str, list[int]], spare: list[int]) -> bool:
    colors = places.get("colors")
    if colors is None:
        return False
    around = [sorted([i, *colors]) for i in (colors[0] - 1, colors[-1] + 1) if i in spare]
    return any(_alike(rows, four) for four in around)


def _require_no_contradiction(names: list[str], position: list[int], where: str) -> None:
    others = [i for columns in named(names).values() for i in columns]
    for i, name in enumerate(names):
        key = meaning(name)
        if key in ("x", "y", "z"):
            fits = position["xyz".index(key)] == i
        else:
            fits = i not in position or (key not in ("intensity", "index") and i not in others)
        if not fits:
            raise ShapeError(
                f"the header of '{where}' ({listed(names)}) does not say which columns are the position; name three of "
                "them x, y and z."
            )


def what_are(values: np.ndarray) -> str | None:
    """``normals``, ``colors`` or None for (N, 3) values.

    Normals have length one, to the digits they were written with, in 19 of 20 rows that are not zero or NaN.
    """
    values = values[np.isfinite(values).all(1)].astype(np.float64)
    if len(values) == 0 or np.abs(values).max() > 1e6:
        return None
    length = np.sqrt((values**2).sum(1))
    length = length[length > 0]
    if len(length) and (np.abs(length - 1) < 0.02).mean() > 0.95:
        return "normals"
    if values.min() < 0:
        return None
    whole = bool((values % 1 == 0).all())
    if (whole and values.max() <= 65535) or values.max() <= 1:
        return "colors"
    return None
