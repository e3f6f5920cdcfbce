"""Files to shapes and back: meshes and point clouds, one clear sentence for everything that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh, PointCloud, Shape, positions
from sdf_tools.io.ply import read_ply, triangles_of
from sdf_tools.io.writing import save_mesh, save_points, write_atomically
from sdf_tools.vectors import unit_vectors

__all__ = ["load", "save_mesh", "save_points", "validate_for_fitting", "write_atomically"]

MESH_SUFFIXES = (".ply", ".obj", ".stl", ".off", ".glb", ".npz")
CLOUD_SUFFIXES = (".ply", ".xyz", ".npz", ".npy", ".pcd")
_READABLE = ".ply .obj .stl .off .glb (meshes), .ply .xyz .npz .npy .pcd (point clouds)"
MIN_FACES = 4
MIN_POINTS = 50


def load(path: str | Path, name: str | None = None, *, merge: bool = True) -> Shape:
    """Read a mesh or a point cloud.

    Meshes: .ply (triangles, quads, polygons, triangle strips), .obj (any number of objects), .stl, .off, .glb (all
    meshes of the scene, with their transforms), .npz with ``vertices`` and ``faces``. Point clouds: .ply or .obj
    without faces, .xyz, .npy ((N, 3) or, with normals, (N, 6)), .npz with ``points`` and optionally ``normals`` and
    ``scan_id``, .pcd. Coordinates keep the file's own units and position, as float64.

    Args:
        path: the file.
        name: what messages call the shape; the file name without it.
        merge: join mesh vertices at exactly the same position, which UV seams and STL files leave apart.

    Raises:
        ShapeError: the file is missing, empty, damaged, of an unknown kind, or has coordinates that are not finite.
    """
    path = Path(path)
    where = path.name
    name = name or path.stem
    if not path.exists():
        raise ShapeError(f"'{path}' does not exist; check the path.")
    if path.is_dir():
        raise ShapeError(f"'{path}' is a folder; give a file: {_READABLE}.")
    if path.stat().st_size == 0:
        raise ShapeError(f"'{where}' is an empty file; export or download it again.")
    suffix = path.suffix.lower()
    readers = {
        ".ply": _read_ply,
        ".npz": _read_npz,
        ".npy": _read_npy,
        ".xyz": _read_xyz,
        ".pcd": _read_pcd,
        **dict.fromkeys((".obj", ".stl", ".off", ".glb"), _read_with_trimesh),
    }
    if suffix not in readers:
        raise ShapeError(f"'{where}' has a suffix that is not known here ('{suffix}'); use one of {_READABLE}.")
    fields = readers[suffix](path)
    return _to_shape(fields, name, where, merge)


def _to_shape(fields: dict[str, Any], name: str, where: str, merge: bool) -> Shape:
    points = np.ascontiguousarray(fields["points"], dtype=np.float64).reshape(-1, 3)
    faces = fields.get("faces")
    if len(points) == 0 or (faces is not None and len(faces) == 0 and fields.get("must_have_faces")):
        raise ShapeError(f"'{where}' holds no geometry: it has no {'faces' if len(points) else 'points'}.")
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise ShapeError(
            f"'{where}' has {bad} of {len(points)} points with coordinates that are NaN or infinite; remove them first."
        )
    normals = _unit_normals(fields.get("normals"), len(points))
    colors = fields.get("colors")
    if colors is not None and len(colors) != len(points):
        colors = None
    if faces is None or len(faces) == 0:
        scans = fields.get("scan_ids")
        if scans is not None and len(scans) != len(points):
            raise ShapeError(f"'{where}' has {len(scans)} scan ids for {len(points)} points; there must be one each.")
        return PointCloud(
            torch.from_numpy(points),
            None if normals is None else torch.from_numpy(normals),
            None if scans is None else torch.from_numpy(np.ascontiguousarray(scans, dtype=np.int64)),
            name,
        )
    faces = np.ascontiguousarray(faces, dtype=np.int64).reshape(-1, 3)
    if faces.min() < 0 or faces.max() >= len(points):
        raise ShapeError(f"'{where}' has faces that name vertices it does not have; export it again.")
    mesh = Mesh(
        torch.from_numpy(points),
        torch.from_numpy(faces),
        None if normals is None else torch.from_numpy(normals),
        None if colors is None else torch.from_numpy(np.ascontiguousarray(colors, dtype=np.float64)),
        name,
    )
    if not merge:
        return mesh
    from sdf_tools.topology import merge_vertices

    return merge_vertices(mesh)


def _unit_normals(normals: np.ndarray | None, count: int) -> np.ndarray | None:
    """Unit normals, or None if they are not there for every point."""
    if normals is None or len(normals) != count:
        return None
    normals = np.ascontiguousarray(normals, dtype=np.float64)
    return unit_vectors(normals) if np.isfinite(normals).all() and normals.any() else None


def _read_ply(path: Path) -> dict[str, Any]:
    tables = read_ply(path.read_bytes(), path.name)
    vertex = tables.get("vertex", {})
    if not all(axis in vertex for axis in "xyz"):
        raise ShapeError(f"'{path.name}' holds no geometry: its PLY header has no vertices with x, y and z.")
    fields: dict[str, Any] = {"points": np.column_stack([vertex[axis] for axis in "xyz"]).astype(np.float64)}
    fields["faces"] = triangles_of(tables)
    if all(axis in vertex for axis in ("nx", "ny", "nz")):
        fields["normals"] = np.column_stack([vertex[axis] for axis in ("nx", "ny", "nz")])
    if all(channel in vertex for channel in ("red", "green", "blue")):
        colors = np.column_stack([vertex[channel] for channel in ("red", "green", "blue")]).astype(np.float64)
        fields["colors"] = colors / 255 if colors.size and colors.max() > 1 else colors
    for key in ("scan_id", "scan_ids"):
        if key in vertex:
            fields["scan_ids"] = vertex[key]
    return fields


def _read_with_trimesh(path: Path) -> dict[str, Any]:
    try:
        import trimesh
    except ImportError:
        raise MissingLibraryError(
            f"Reading {path.suffix} files needs trimesh, which is not installed: pip install trimesh"
        ) from None
    try:
        scene = trimesh.load(str(path), force="scene", process=False)
        parts = _scene_parts(scene)
    except ShapeError:
        raise
    except Exception as error:  # trimesh raises whatever its parsers meet
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ShapeError(f"'{path.name}' cannot be read as a {path.suffix} file ({reason}); export it again.") from None
    if not parts:
        raise ShapeError(f"'{path.name}' holds no geometry: there are no points or faces in it.")
    columns: dict[str, list[Any]] = {"points": [], "faces": [], "normals": [], "colors": []}
    offset = 0
    for part in parts:
        columns["points"].append(part["points"])
        columns["faces"].append(part["faces"] + offset)
        columns["normals"].append(part.get("normals"))
        columns["colors"].append(part.get("colors"))
        offset += len(part["points"])
    fields: dict[str, Any] = {
        key: np.concatenate(rows) for key, rows in columns.items() if all(row is not None for row in rows)
    }
    fields["must_have_faces"] = path.suffix.lower() in (".stl", ".off")
    return fields


def _scene_parts(scene: Any) -> list[dict[str, np.ndarray]]:
    """Every geometry of a trimesh scene, once per node that shows it, in scene coordinates."""
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, key = scene.graph[node]
        geometry = scene.geometry[key]
        if not hasattr(geometry, "vertices") or len(geometry.vertices) == 0:
            continue
        transform = np.asarray(transform, dtype=np.float64)
        linear = transform[:3, :3]
        points = np.asarray(geometry.vertices, dtype=np.float64) @ linear.T + transform[:3, 3]
        faces = np.asarray(getattr(geometry, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
        if np.linalg.det(linear) < 0:
            faces = faces[:, ::-1]
        part = {"points": points, "faces": faces}
        if "vertex_normals" in getattr(geometry, "_cache", {}) and len(faces):
            part["normals"] = np.asarray(geometry.vertex_normals) @ np.linalg.inv(linear)
        visual = getattr(geometry, "visual", None)
        if visual is not None and getattr(visual, "kind", None) == "vertex":
            part["colors"] = np.asarray(visual.vertex_colors, dtype=np.float64)[:, :3] / 255
        parts.append(part)
    return parts


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            stored = {key: archive[key] for key in archive.files if archive[key].dtype.kind in "fiu"}
            keys = list(archive.files)
    except Exception:
        raise ShapeError(f"'{path.name}' cannot be read as a .npz archive; save it again with numpy.savez.") from None
    for key in ("vertices", "points"):
        if key in stored:
            _require_columns(stored[key], (3,), f"'{key}' in '{path.name}'")
            break
    else:
        raise ShapeError(
            f"'{path.name}' has none of the arrays 'points' or 'vertices' (it has: {', '.join(keys) or 'nothing'})."
        )
    fields: dict[str, Any] = {"points": stored[key]}
    if "faces" in stored:
        _require_columns(stored["faces"], (3,), f"'faces' in '{path.name}'")
        fields["faces"] = stored["faces"]
        fields["must_have_faces"] = True
    fields["normals"] = stored.get("normals", stored.get("vertex_normals"))
    fields["colors"] = stored.get("vertex_colors")
    fields["scan_ids"] = stored.get("scan_id", stored.get("scan_ids"))
    return fields


def _read_npy(path: Path) -> dict[str, Any]:
    try:
        rows = np.load(path, allow_pickle=False)
    except Exception:
        raise ShapeError(f"'{path.name}' cannot be read as a .npy array; save it again with numpy.save.") from None
    return _rows_to_fields(rows, path.name)


def _read_xyz(path: Path) -> dict[str, Any]:
    text = path.read_text(errors="replace").replace(",", " ").replace(";", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and len(lines[0].split()) == 1 and lines[0].isdigit():
        lines = lines[1:]  # some writers put the number of points first
    try:
        rows = np.array([line.split() for line in lines], dtype=np.float64)
    except ValueError:
        raise ShapeError(f"'{path.name}' is not an .xyz file: every line must hold 3 or 6 numbers.") from None
    return _rows_to_fields(rows, path.name)


def _rows_to_fields(rows: np.ndarray, where: str) -> dict[str, Any]:
    if rows.size == 0:
        raise ShapeError(f"'{where}' holds no geometry: there are no points in it.")
    _require_columns(rows, (3, 6), f"'{where}'")
    return {"points": rows[:, :3], "normals": rows[:, 3:6] if rows.shape[1] == 6 else None}


def _require_columns(rows: np.ndarray, widths: tuple[int, ...], what: str) -> None:
    if rows.ndim != 2 or rows.shape[1] not in widths or rows.dtype.kind not in "fiu":
        wanted = " or ".join(f"(N, {w})" for w in widths)
        raise ShapeError(f"{what} must be an array of numbers of shape {wanted}, not {rows.shape}.")


def _read_pcd(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    start = data.find(b"DATA")
    stop = data.find(b"\n", start)
    if start < 0 or stop < 0:
        raise ShapeError(f"'{path.name}' is not a PCD file: its header has no DATA line.")
    header = {}
    for line in data[:stop].decode("latin-1").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
    try:
        names = header["FIELDS"]
        sizes = [int(s) for s in header["SIZE"]]
        counts = [int(c) for c in header.get("COUNT", ["1"] * len(names))]
        kinds = [{"F": "f", "I": "i", "U": "u"}[t] + str(s) for t, s in zip(header["TYPE"], sizes, strict=True)]
        total = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        form = header["DATA"][0].lower()
        if form == "ascii":
            table = np.array([line.split() for line in data[stop:].decode("latin-1").strip().splitlines()], dtype=float)
            starts = np.cumsum([0, *counts])
            columns = {n: table[:total, starts[i]] for i, n in enumerate(names)}
        elif form == "binary":
            dtype = np.dtype([(f"{i}", k, (c,)) for i, (k, c) in enumerate(zip(kinds, counts, strict=True))])
            rows = np.frombuffer(data, dtype, total, stop + 1)
            columns = {n: rows[f"{i}"][:, 0] for i, n in enumerate(names)}
        else:
            return _read_compressed_pcd(path)
        points = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float64)
    except (KeyError, ValueError, IndexError):
        raise ShapeError(f"'{path.name}' is cut short or damaged: its PCD header and data do not agree.") from None
    # Organised clouds mark pixels without a measurement by NaN: those are no points.
    seen = np.isfinite(points).all(1) if int(header.get("HEIGHT", ["1"])[0]) > 1 else np.ones(len(points), bool)
    fields: dict[str, Any] = {"points": points[seen]}
    if all(n in columns for n in ("normal_x", "normal_y", "normal_z")):
        fields["normals"] = np.column_stack([columns[n] for n in ("normal_x", "normal_y", "normal_z")])[seen]
    return fields


def _read_compressed_pcd(path: Path) -> dict[str, Any]:
    try:
        import open3d
    except ImportError:
        raise MissingLibraryError(
            f"'{path.name}' is a compressed PCD file, which needs open3d: pip install open3d (or save it uncompressed)"
        ) from None
    cloud = open3d.io.read_point_cloud(path)
    return {"points": np.asarray(cloud.points), "normals": np.asarray(cloud.normals) if cloud.has_normals() else None}


def validate_for_fitting(shape: Shape) -> None:
    """Check that a shape can be fitted at all.

    Raises:
        ShapeError: fewer than 4 triangles or 50 points, no extent, or coordinates that are not finite.
    """
    points = positions(shape)
    if points.shape[0] == 0:
        raise ShapeError(f"'{shape.name}' has no points; give a shape with a surface.")
    if not torch.isfinite(points).all():
        raise ShapeError(f"'{shape.name}' has coordinates that are NaN or infinite; remove those points first.")
    if isinstance(shape, Mesh):
        points = points[shape.faces.reshape(-1)]
        if shape.faces.shape[0] < MIN_FACES:
            raise ShapeError(
                f"'{shape.name}' has {_count(shape.faces.shape[0], 'triangle')}: too few for a surface, "
                f"at least {MIN_FACES} are needed."
            )
    elif points.shape[0] < MIN_POINTS:
        raise ShapeError(
            f"'{shape.name}' has {_count(points.shape[0], 'point')}: too few for a surface, at least {MIN_POINTS} "
            "are needed."
        )
    extent = float((points.amax(0) - points.amin(0)).max())
    if extent <= 1e-12 * max(1e-30, float(points.abs().max())):
        raise ShapeError(f"'{shape.name}' has zero size: all its points coincide; there is no surface to fit.")
    if isinstance(shape, Mesh):
        a, b, c = ((points - points[0]) / extent).reshape(-1, 3, 3).unbind(1)
        if float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum()) <= 1e-14:
            raise ShapeError(f"'{shape.name}' has no area: all its triangles are degenerate; there is nothing to fit.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
