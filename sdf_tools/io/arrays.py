"""Shapes in numpy's own files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import ShapeError
from sdf_tools.io.columns import fields_of
from sdf_tools.io.limits import Archive, array_from, read_bytes

_FACES = ("faces", "triangles", "cells")
_IN_SPACE = ("occupancies", "occupancy", "occ", "sdf", "sdfs", "tsdf", "distances", "distance")
"""Arrays beside ``points`` that make these samples of a volume."""


def read_npz(path: Path) -> dict[str, Any]:
    """Points or vertices with what belongs to them; other arrays of the archive are not unpacked.

    Raises:
        ShapeError: no such archive, damaged, arrays of another shape, samples of a volume, or what may be faces under a
            name that says nothing.
    """
    archive = Archive(path)
    names = archive.names
    key = next((k for k in ("vertices", "verts", "points") if k in names), None)
    if key is None:
        listed = ", ".join(names[:10]) or "nothing"
        raise ShapeError(f"'{path.name}' has none of the arrays 'points' or 'vertices' (it has: {listed}).")
    fields: dict[str, Any] = {"points": archive.read(key)}
    _require_rows(fields["points"], f"'{key}' in '{path.name}'")
    faces = next((k for k in _FACES if k in names), None)
    if faces is None:
        _require_no_other_meaning(archive, key, len(fields["points"]))
    else:
        fields["faces"] = archive.read(faces)
        _require_rows(fields["faces"], f"'{faces}' in '{path.name}'")
        fields["must_have_faces"] = True
    for field, keys in (
        ("normals", ("normals", "vertex_normals")),
        ("colors", ("vertex_colors", "colors")),
        ("scan_ids", ("scan_id", "scan_ids")),
    ):
        found = next((k for k in keys if k in names), None)
        if found is not None:
            array = archive.read(found)
            if array.dtype.kind not in "fiu":
                raise ShapeError(f"'{found}' in '{path.name}' must hold numbers, not {array.dtype}.")
            fields[field] = array
    return fields


def _require_no_other_meaning(archive: Archive, key: str, count: int) -> None:
    """Refuse points whose surface would be a guess."""
    for name in archive.names:
        shape, kind = archive.declared(name) or ((), np.dtype(float))
        if name.lower() in _IN_SPACE and shape[:1] == (count,):
            raise ShapeError(
                f"'{archive.where}' has '{name}' for each of its points: samples of a volume, not of a surface; "
                "give the mesh or the surface points."
            )
        if len(shape) == 2 and shape[1] == 3 and shape[0] != count and kind.kind in "iu" and kind.itemsize > 1:
            raise ShapeError(
                f"'{archive.where}' has whole numbers '{name}' of shape {shape} beside its '{key}', which may be the "
                "faces of a mesh; name them 'faces', or leave them out."
            )


def read_npy(path: Path) -> dict[str, Any]:
    """(N, 3) points, or more columns: see ``columns.fields_of``.

    Raises:
        ShapeError: no such array, or damaged.
    """
    data = read_bytes(path, 3.0)
    rows = array_from(io.BytesIO(data), len(data), path.name)
    if rows.size == 0:
        raise ShapeError(f"'{path.name}' holds no geometry: there are no points in it.")
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or rows.shape[1] < 3:
        raise ShapeError(f"'{path.name}' must be an array of numbers of shape (N, 3) or (N, 6), not {rows.shape}.")
    few = rows.shape[0] == 3 and rows.shape[1] not in (3, 6)
    if few or rows.shape[0] < rows.shape[1] > 12:
        raise ShapeError(f"'{path.name}' {_turned(rows.shape)}.")
    return fields_of(rows, path.name)


def _require_rows(rows: np.ndarray, what: str) -> None:
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype.kind not in "fiu":
        if rows.ndim == 2 and rows.shape[0] == 3 and rows.dtype.kind in "fiu":
            raise ShapeError(f"{what} {_turned(rows.shape)}.")
        raise ShapeError(f"{what} must be an array of numbers of shape (N, 3), not {rows.shape} of {rows.dtype}.")


def _turned(shape: tuple[int, ...]) -> str:
    return f"must be an array of shape (N, 3), a row for each point, not {shape}: save its transpose (array.T)"
