"""Shapes to files, written whole or not at all and with the precision the shape needs."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.ply import fits_float32, write_ply


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all (a temporary file in the same folder, then a rename)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh as .ply, .obj, .stl, .glb or .off, with vertex normals and colours where the format has them.

    Coordinates keep float64 where it matters: .ply switches to doubles and .stl to text when float32 would lose more
    than 1e-6 of the extent (far from the origin), .obj and .off are text with 17 digits, and .glb, float32 by its
    standard, stores centred vertices under a translation.

    Raises:
        ShapeError: unknown suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    vertices, faces = mesh.vertices.detach().cpu().double().numpy(), mesh.faces.detach().cpu().numpy()
    normals = None if mesh.vertex_normals is None else mesh.vertex_normals.detach().cpu().double().numpy()
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors.detach().cpu().double().numpy()
    if suffix == ".ply":
        data = write_ply(vertices, faces, normals, colors)
    elif suffix == ".obj":
        data = _obj_text(vertices, faces, normals, colors)
    elif suffix == ".off":
        data = _off_text(vertices, faces, colors)
    elif suffix == ".stl":
        data = _stl(vertices, faces)
    elif suffix == ".glb":
        data = _glb(vertices, faces, normals, colors)
    else:
        raise ShapeError(f"'{path.name}' cannot be written: use .ply, .obj, .stl, .glb or .off.")
    write_atomically(path, data)


def save_points(cloud: PointCloud, path: str | Path) -> None:
    """Write a point cloud as .ply, .xyz, .npy or .npz, with normals (and, in .npz, scan ids) when it has them.

    Colours are kept by .ply, .npz and .xyz (as whole numbers under a line of names).

    Raises:
        ShapeError: unknown suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    points = cloud.points.detach().cpu().double().numpy()
    normals = None if cloud.normals is None else cloud.normals.detach().cpu().double().numpy()
    colors = None if cloud.colors is None else cloud.colors.detach().cpu().double().numpy()
    rows = points if normals is None else np.hstack([points, normals])
    buffer = io.BytesIO()
    if suffix == ".ply":
        buffer.write(write_ply(points, None, normals, colors))
    elif suffix == ".xyz":
        names = "x y z" if normals is None else "x y z nx ny nz"
        if colors is None:
            np.savetxt(buffer, rows, fmt="%.17g")
        else:
            rows = np.hstack([rows, np.rint(np.clip(colors, 0, 1) * 255)])
            np.savetxt(buffer, rows, fmt="%.17g", header=f"{names} r g b")
    elif suffix == ".npy":
        np.save(buffer, rows)
    elif suffix == ".npz":
        arrays: dict[str, Any] = {"points": points, "normals": normals, "colors": colors}
        arrays["scan_id"] = None if cloud.scan_ids is None else cloud.scan_ids.cpu().numpy()
        np.savez_compressed(buffer, **{key: value for key, value in arrays.items() if value is not None})
    else:
        raise ShapeError(f"'{path.name}' cannot be written: use .ply, .xyz, .npy or .npz for point clouds.")
    write_atomically(path, buffer.getvalue())


def _lines(prefix: str, rows: np.ndarray, spec: str) -> str:
    """One line per row; a single formatting call is many times faster than one per row."""
    template = prefix + " ".join([spec] * rows.shape[1]) + "\n"
    return (template * len(rows)) % tuple(rows.reshape(-1).tolist())


def _obj_text(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None, colors: np.ndarray | None) -> bytes:
    rows = vertices if colors is None else np.hstack([vertices, colors])
    text = _lines("v ", rows, "%.17g" if not fits_float32(vertices) else "%.9g")
    if normals is None:
        return (text + _lines("f ", faces + 1, "%d")).encode()
    text += _lines("vn ", normals, "%.6g")
    corners = np.repeat(faces + 1, 2, axis=1)
    return (text + ("f %d//%d %d//%d %d//%d\n" * len(faces)) % tuple(corners.reshape(-1).tolist())).encode()


def _off_text(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> bytes:
    head = ("OFF" if colors is None else "COFF") + f"\n{len(vertices)} {len(faces)} 0\n"
    rows = vertices if colors is None else np.hstack([vertices, colors, np.ones((len(colors), 1))])
    return (head + _lines("", rows, "%.17g") + _lines("3 ", faces, "%d")).encode()


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    if fits_float32(vertices):
        rows = np.zeros(len(faces), dtype=[("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        rows["normal"], rows["corners"] = normals, corners
        return b"binary STL".ljust(80) + np.uint32(len(faces)).tobytes() + rows.tobytes()
    one = "facet normal %.6g %.6g %.6g\nouter loop\n" + "vertex %.17g %.17g %.17g\n" * 3 + "endloop\nendfacet\n"
    values = np.hstack([normals, corners.reshape(-1, 9)]).reshape(-1).tolist()
    return ("solid mesh\n" + (one * len(faces)) % tuple(values) + "endsolid mesh\n").encode()


def _glb(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None, colors: np.ndarray | None) -> bytes:
    try:
        import trimesh
    except ImportError:
        raise MissingLibraryError(
            "Writing .glb files needs trimesh, which is not installed: pip install trimesh"
        ) from None
    far = not fits_float32(vertices)
    center = (vertices.max(0) + vertices.min(0)) / 2 if far and len(vertices) else np.zeros(3)
    part: Any = trimesh.Trimesh(vertices - center, faces, vertex_normals=normals, process=False)
    if colors is not None:
        part.visual.vertex_colors = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    move = np.eye(4)
    move[:3, 3] = center
    scene = trimesh.Scene()
    scene.add_geometry(part, transform=move)
    return bytes(scene.export(file_type="glb", include_normals=normals is not None))
