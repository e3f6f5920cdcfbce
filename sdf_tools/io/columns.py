"""Which columns of a table of points are normals and which are colours, by their names or by their values."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError

_NAMES = {
    "x": ("x", "px", "easting", "x_coord"),
    "y": ("y", "py", "northing", "y_coord"),
    "z": ("z", "pz", "height", "elevation", "altitude", "z_coord"),
    "nx": ("nx", "normal_x", "normalx", "normal x", "xn"),
    "ny": ("ny", "normal_y", "normaly", "normal y", "yn"),
    "nz": ("nz", "normal_z", "normalz", "normal z", "zn"),
    "r": ("r", "red", "rf", "diffuse_red"),
    "g": ("g", "green", "gf", "diffuse_green"),
    "b": ("b", "blue", "bf", "diffuse_blue"),
}
_MEANING = {alias: key for key, aliases in _NAMES.items() for alias in aliases}


def known_names(words: list[str]) -> bool:
    """Whether the words of a header line name at least x, y and z."""
    found = {_MEANING.get(word.lower()) for word in words}
    return {"x", "y", "z"} <= found


def fields_of(rows: np.ndarray, where: str, names: list[str] | None = None) -> dict[str, Any]:
    """Points, normals and colours of a table, and a sentence that says what was taken.

    Named columns are what their names say. Without names the first three are the position; after it, three columns
    whose rows have length one are normals, three of whole numbers from 0 to 255 (or 65,535) or of values from 0 to 1
    are colours, and every other column (an intensity, a time) is left out.

    Args:
        rows: (N, W) numbers.
        where: what messages call it.
        names: (W,) from a header line.

    Raises:
        ShapeError: fewer than three columns.
    """
    if rows.ndim != 2 or rows.shape[1] < 3 or rows.dtype.kind not in "fiu":
        raise ShapeError(f"'{where}' must hold rows of at least three numbers (x, y, z), not shape {rows.shape}.")
    width = rows.shape[1]
    # Names for other columns than there are say nothing.
    places = _named(names) if names is not None and len(names) == width else _guessed(rows)
    taken = {part: rows[:, columns].astype(np.float64) for part, columns in places.items()}
    fields: dict[str, Any] = {"points": taken["points"], "normals": taken.get("normals"), "colors": taken.get("colors")}
    used = [i for columns in places.values() for i in columns]
    spare = [i for i in range(width) if i not in used]
    if width > 3:
        said = ["x y z" if places["points"] == [0, 1, 2] else f"position in {_list(places['points'])}"]
        said += [f"{part} in {_list(places[part])}" for part in ("normals", "colors") if part in places]
        if spare:
            labels = names if names is not None and len(names) == width else None
            said.append(f"left out {_list(spare) if labels is None else ', '.join(labels[i] for i in spare)}")
        by = "by the names in its header" if names is not None and len(names) == width else "by their values"
        fields["notes"] = [f"columns taken {by}: {'; '.join(said)}"]
        if len(spare) >= 3 and "normals" not in places and "colors" not in places and names is None:
            fields["notes"] = [
                f"columns 4 to {width} are neither unit normals nor colours and were left out; name them in a first "
                "line (x y z nx ny nz) if they are"
            ]
    return fields


def _list(columns: list[int]) -> str:
    first, last = columns[0] + 1, columns[-1] + 1
    if len(columns) == 1:
        return f"column {first}"
    if columns == list(range(first - 1, last)):
        return f"columns {first} to {last}"
    return "columns " + ", ".join(str(i + 1) for i in columns)


def _named(names: list[str]) -> dict[str, list[int]]:
    at: dict[str, int] = {}
    for i, name in enumerate(names):
        at.setdefault(_MEANING.get(name.lower(), name), i)
    groups = {"points": "x y z", "normals": "nx ny nz", "colors": "r g b"}
    return {part: [at[k] for k in keys.split()] for part, keys in groups.items() if all(k in at for k in keys.split())}


def _guessed(rows: np.ndarray) -> dict[str, list[int]]:
    places, at = {"points": [0, 1, 2]}, 3
    while at + 3 <= rows.shape[1]:
        part = what_are(rows[:, at : at + 3])
        if part is None or part in places:
            at += 1
            continue
        places[part] = [at, at + 1, at + 2]
        at += 3
    return places


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
