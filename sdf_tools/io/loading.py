"""Files to shapes: meshes and point clouds, one clear sentence for everything that cannot be read."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdf_tools.errors import MissingLibraryError, ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, PointCloud, Shape
from sdf_tools.io.arrays import read_npy, read_npz
from sdf_tools.io.foreign import what_it_is
from sdf_tools.io.limits import read_bytes
from sdf_tools.io.obj import read_obj
from sdf_tools.io.off import read_off
from sdf_tools.io.pcd import read_pcd
from sdf_tools.io.ply import read_ply, triangles_of
from sdf_tools.io.scans import read_e57, read_las
from sdf_tools.io.stl import read_stl
from sdf_tools.io.text_cloud import read_text_cloud
from sdf_tools.io.trimesh_files import read_glb
from sdf_tools.io.validation import validate_for_fitting
from sdf_tools.io.writing import save_mesh, save_points, write_atomically

__all__ = ["load", "save_mesh", "save_points", "validate_for_fitting", "write_atomically"]

TEXT_SUFFIXES = (".xyz", ".pts", ".txt", ".asc", ".csv")
SCAN_SUFFIXES = (".las", ".laz", ".e57")
MESH_SUFFIXES = (".ply", ".obj", ".stl", ".off", ".glb", ".npz")
CLOUD_SUFFIXES = (".ply", ".obj", ".off", ".glb", ".npz", ".npy", ".pcd", *TEXT_SUFFIXES, *SCAN_SUFFIXES)
_READABLE = (
    ".ply .obj .stl .off .glb .npz (meshes), .ply .obj .npz .npy .pcd .xyz .pts .txt .asc .csv .las .laz .e57 "
    "(point clouds)"
)
SMALLEST, LARGEST = 1e-30, 1e30  # beyond these squares of areas leave float64


def load(path: str | Path, name: str | None = None, *, merge: bool = True) -> Shape:
    """Read a mesh or a point cloud.

    Meshes: .ply (triangles, quads, polygons, triangle strips), .obj (any number of objects), .stl, .off, .glb (all
    meshes of the scene, with their transforms), .npz with ``vertices`` and ``faces``. Concave polygons are cut along
    their notches. Point clouds: .ply, .obj, .off or .glb without faces, .npy, .npz with ``points`` and optionally
    ``normals``, ``colors`` and ``scan_id``, .pcd (text, binary, compressed), text (.xyz .pts .txt .asc .csv) with or
    without a line of names, .las, .laz and .e57 with the extra ``scans``. Columns of text and of .npy beyond the third
    are normals or colours by their names or their values. Coordinates keep the file's own units and position, as
    float64.

    No other file is opened than this one, and no more memory taken than ``SDF_TOOLS_MAX_MEMORY`` (default: half of
    what is free).

    Args:
        path: the file.
        name: what messages call the shape; the file name without it.
        merge: join mesh vertices at exactly the same position, which UV seams and STL files leave apart; in STL files
            also those that differ in their last digits, if that closes cracks.

    Warns:
        ShapeWarning: columns were chosen by their values, or something was left out; one sentence.

    Raises:
        ShapeError: the file is missing, empty, damaged, of an unknown kind, too large, or has coordinates that are not
            finite or outside [1e-30, 1e30].
        MissingLibraryError: the format needs an optional library.
    """
    path = Path(path)
    where = path.name
    name = name or path.stem
    suffix = path.suffix.lower()
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise ShapeError(f"'{path}' does not exist; check the path.")
    if path.is_dir():
        raise ShapeError(f"'{path}' is a folder; give a file: {_READABLE}.")
    if not path.is_file():
        raise ShapeError(f"'{where}' is not a plain file (a device, a pipe or a socket); give a file.")
    if path.stat().st_size == 0:
        raise ShapeError(f"'{where}' is an empty file; export or download it again.")
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        ".ply": lambda: _ply_fields(path),
        ".obj": lambda: read_obj(_content(path, 8.0), where, merge),
        ".off": lambda: _without_gaps(read_off(_content(path, 8.0), where)),
        ".stl": lambda: read_stl(read_bytes(path, 6.0), where),
        ".glb": lambda: read_glb(path),
        ".npz": lambda: read_npz(path),
        ".npy": lambda: read_npy(path),
        ".pcd": lambda: read_pcd(_content(path, 3.0), where),
        ".e57": lambda: read_e57(path),
        **dict.fromkeys((".las", ".laz"), lambda: read_las(path)),
        **dict.fromkeys(TEXT_SUFFIXES, lambda: read_text_cloud(read_bytes(path, 6.0), where)),
    }
    if suffix not in readers:
        raise ShapeError(f"'{where}' has a suffix that is not known here ('{suffix}'); use one of {_READABLE}.")
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # coordinates that are not finite get a sentence
            fields = readers[suffix]()
            shape = _to_shape(fields, name, where, merge)
    except ShapeError as error:
        other = what_it_is(path)
        raise error if other is None else ShapeError(f"'{where}' {other}.") from None
    except MissingLibraryError:
        raise
    except MemoryError:
        raise ShapeError(f"'{where}' needs more memory than there is; give a smaller file.") from None
    except OSError as error:
        raise ShapeError(f"'{where}' cannot be read: {error.strerror or type(error).__name__}.") from None
    except Exception as error:  # the last net: a stranger's file must not end in a traceback
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")[:150]
        raise ShapeError(f"'{where}' is damaged in an unforeseen way ({reason}); export it again.") from error
    if isinstance(shape, Mesh) and suffix == ".stl" and merge:
        shape = _close_cracks(shape, fields)
    for note in fields.get("notes", ()):
        warnings.warn(f"'{where}': {note}.", ShapeWarning, stacklevel=2)
    return shape


def _to_shape(fields: dict[str, Any], name: str, where: str, merge: bool) -> Shape:
    points = np.ascontiguousarray(fields["points"], dtype=np.float64).reshape(-1, 3)
    faces = fields.get("faces")
    if len(points) == 0 or (faces is not None and len(faces) == 0 and fields.get("must_have_faces")):
        raise ShapeError(f"'{where}' holds no geometry: it has no {'faces' if len(points) else 'points'}.")
    check_range(points, where)
    normals = _unit_rows(fields.get("normals"), len(points), where)
    colors = _color_rows(fields.get("colors"), len(points))
    if faces is None or len(faces) == 0:
        scans = fields.get("scan_ids")
        if scans is not None and (np.ndim(scans) != 1 or len(scans) != len(points)):
            raise ShapeError(
                f"'{where}' has {np.size(scans)} scan ids for {len(points)} points; there must be one each."
            )
        return PointCloud(
            torch.from_numpy(points),
            None if normals is None else torch.from_numpy(normals),
            None if scans is None else torch.from_numpy(np.ascontiguousarray(scans, dtype=np.int64)),
            name,
            None if colors is None else torch.from_numpy(colors),
        )
    faces = np.asarray(faces)
    if faces.min() < 0 or faces.max() >= len(points) or (faces % 1 != 0).any():
        raise ShapeError(f"'{where}' has faces that name vertices it does not have; export it again.")
    mesh = Mesh(
        torch.from_numpy(points),
        torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64).reshape(-1, 3)),
        None if normals is None else torch.from_numpy(normals),
        None if colors is None else torch.from_numpy(colors),
        name,
    )
    if not merge:
        return mesh
    from sdf_tools.topology import merge_vertices

    return merge_vertices(mesh)


def check_range(points: np.ndarray, where: str) -> None:
    """Refuse coordinates that arithmetic cannot use.

    Raises:
        ShapeError: NaN or infinite coordinates, larger ones than 1e30, or a size below 1e-30.
    """
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise ShapeError(
            f"'{where}' has {bad} of {len(points)} points with coordinates that are NaN or infinite; remove them first."
        )
    largest, size = float(np.abs(points).max()), float(np.ptp(points, axis=0).max())
    if largest > LARGEST or 0 < size < SMALLEST:
        what = f"coordinates up to {largest:.3g}" if largest > LARGEST else f"a size of {size:.3g}"
        raise ShapeError(f"'{where}' has {what}, beyond 1e-30 to 1e30, which can only be damage; check the file.")


def _unit_rows(normals: np.ndarray | None, count: int, where: str) -> np.ndarray | None:
    """Unit normals, zero where there is none; None without any."""
    if normals is None:
        return None
    if np.shape(normals) != (count, 3):
        raise ShapeError(f"'{where}' has normals of shape {np.shape(normals)}; they must be ({count}, 3), one a point.")
    normals = np.array(normals, dtype=np.float64)
    normals[~np.isfinite(normals).all(1)] = 0
    # By the largest component first: squares of 1e-200 and 1e200 leave float64.
    largest = np.abs(normals).max(1, keepdims=True)
    if not (largest > 0).any():
        return None
    np.divide(normals, largest, out=normals, where=largest > 0)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=normals, where=length > 0)


def _color_rows(colors: np.ndarray | None, count: int) -> np.ndarray | None:
    """(N, 3) in [0, 1], from bytes, 16-bit values or shares; None if they are not there for every point."""
    if colors is None or np.ndim(colors) != 2 or np.shape(colors)[0] != count or np.shape(colors)[1] not in (3, 4):
        return None
    values = np.array(colors[:, :3], dtype=np.float64)
    if not np.isfinite(values).all():
        return None
    kind = np.asarray(colors).dtype
    largest = float(values.max(initial=0))
    if kind.kind in "iu":
        whole = 255 if largest <= 255 else 65535  # bytes may stand in fields of two
    elif largest <= 1 or (largest <= 2 and (values % 1 != 0).any()):
        whole = 1  # shares, some of them a little too bright
    else:
        whole = 255 if largest <= 255 else 65535
    return np.clip(values / whole, 0, 1)


def _content(path: Path, factor: float) -> bytes:
    """As ``read_bytes``, without the byte order mark that editors put before text."""
    return read_bytes(path, factor).removeprefix(codecs.BOM_UTF8)


def _without_gaps(fields: dict[str, Any]) -> dict[str, Any]:
    """The same without vertices that are not finite and in no face: marks of gaps, which no surface goes through."""
    points, faces = fields["points"], fields.get("faces")
    bad = ~np.isfinite(points).all(1)
    if faces is None or len(faces) == 0 or not bad.any():
        return fields
    bad[faces] = False
    keep = np.flatnonzero(~bad)
    if len(keep) == len(points):
        return fields
    count = len(points) - len(keep)
    said = f"left out {count:,} {'vertex' if count == 1 else 'vertices'} without finite coordinates and in no triangle"
    kept = {
        key: fields[key][keep] for key in ("points", "normals", "colors", "scan_ids") if fields.get(key) is not None
    }
    return {**fields, **kept, "faces": np.searchsorted(keep, faces), "notes": [*fields.get("notes", ()), said]}


def _ply_fields(path: Path) -> dict[str, Any]:
    tables = read_ply(_content(path, 3.0), path.name)
    named = next((table for name, table in tables.items() if name.lower() in ("vertex", "vertices")), {})
    vertex = {name.lower(): column for name, column in named.items()}
    if not all(axis in vertex and np.ndim(vertex[axis]) == 1 for axis in "xyz"):
        raise ShapeError(f"'{path.name}' holds no geometry: its PLY header has no vertices with x, y and z.")
    points = np.column_stack([vertex[axis] for axis in "xyz"]).astype(np.float64)
    fields: dict[str, Any] = {"points": points, "faces": triangles_of(tables, points, path.name)}

    def columns(*names: str) -> np.ndarray | None:
        found = [vertex.get(name) for name in names]
        return None if any(np.ndim(c) != 1 for c in found) else np.column_stack(found)  # type: ignore[arg-type]

    for names in (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")):
        if fields.get("normals") is None:
            fields["normals"] = columns(*names)
    for names in (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")):
        if fields.get("colors") is None:
            fields["colors"] = columns(*names)
    for key in ("scan_id", "scan_ids"):
        if key in vertex and np.ndim(vertex[key]) == 1:
            fields["scan_ids"] = vertex[key]
    return _without_gaps(fields)


def _close_cracks(mesh: Mesh, fields: dict[str, Any]) -> Mesh:
    from sdf_tools.topology import close_cracks

    closed, moved = close_cracks(mesh)
    if moved:
        fields.setdefault("notes", []).append(
            f"closed cracks by joining {moved:,} vertices that differ in their last digits"
        )
    return closed
