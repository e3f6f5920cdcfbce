"""Shapes to files, written whole or not at all and with the precision the shape needs."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdf_tools.errors import ShapeError, needs
from sdf_tools.geometry import Mesh, PointCloud, for_numpy
from sdf_tools.io.ply import fits_float32, write_ply
from sdf_tools.topology import unit_face_normals

if TYPE_CHECKING:
    from PIL.Image import Image


def write_atomically(
    path: str | Path, content: bytes | Callable[[Path], object], *, folder: str | Path | None = None
) -> None:
    """Write a file so that it appears whole or not at all: under another name, then flushed to the disk, then renamed.

    A file that is written over keeps its permissions; of a link it is the file that the link leads to.

    Args:
        path: the file; its folder is made.
        content: what to write, or a function that writes the file it is given (whose name ends as that of ``path``).
        folder: where the unfinished file lies, on the same disk; default the folder of ``path``. Its name is
            ``.partial-PROCESS@MACHINE-NAME``; it is removed when anything goes wrong short of a killed process, and
            then by the next process that writes there, see :func:`sweep_partials`.
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(folder or path.parent)
    if place not in _swept:
        _swept.add(place)
        sweep_partials(place)
    end = path.name.encode(errors="surrogateescape")[-100:].decode(errors="ignore")  # file names are limited in bytes
    partial = place / f".partial-{os.getpid()}@{_machine()}-{secrets.token_hex(4)}-{end}"
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content)
        # A rename may reach the disk before what was written: without this a power cut leaves an empty file.
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)  # for the sentence that a user reads
        raise
    sync_folder(path.parent)


_swept: set[Path] = set()


def _machine() -> str:
    return re.sub(r"[^\w.]", "_", platform.node())[:60]


_PARTIAL = re.compile(r"\.partial-(\d+)@([\w.]*)-[0-9a-f]{8}-.+", re.DOTALL)


def sweep_partials(folder: str | Path) -> list[Path]:
    """Remove what processes of this machine that are gone left unfinished in a folder.

    Returns:
        The files that were removed.
    """
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            name = _PARTIAL.fullmatch(entry.name)
            if name is not None and name[2] == _machine() and not _alive(int(name[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    found.append(Path(entry.path))
    return found


def _alive(process: int) -> bool:
    if os.name != "posix":  # asking Windows in this way would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder last through a power cut, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, content: object, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all. Numbers that are NaN or infinite become null: JSON has no word for them."""
    write_atomically(path, json.dumps(_without_nan(content), indent=indent).encode())


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh as .ply, .obj, .stl, .glb or .off, with vertex normals and colours where the format has them.

    Coordinates keep float64 where it matters: .ply switches to doubles and .stl to text when float32 would lose more
    than 1e-6 of the extent (far from the origin), .obj and .off are text with 17 digits, and .glb, float32 by its
    standard, stores centred vertices under a translation.

    >>> import tempfile
    >>> from sdf_tools import extract_mesh, load, save_mesh
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_mesh(ball, f"{folder}/ball.obj")
    ...     load(f"{folder}/ball.obj").faces.equal(ball.faces)
    True

    Raises:
        ShapeError: unknown suffix, faces of vertices that are not there, or not one normal or colour for each vertex.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    mesh = for_numpy(mesh)
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    normals = None if mesh.vertex_normals is None else mesh.vertex_normals.double().numpy()
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors.double().numpy()
    if suffix == ".ply":
        data = write_ply(vertices, faces, normals, colors)
    elif suffix == ".obj":
        data = encode_obj(vertices, faces, normals, colors)
    elif suffix == ".off":
        data = _off_text(vertices, faces, colors)
    elif suffix == ".stl":
        data = _stl(vertices, faces)
    elif suffix == ".glb":
        data = encode_glb(vertices, faces, normals, colors)
    else:
        raise ShapeError(f"'{path.name}' cannot be written: use .ply, .obj, .stl, .glb or .off.")
    write_atomically(path, data)


def save_points(cloud: PointCloud, path: str | Path) -> None:
    """Write a point cloud as .ply, .xyz, .npy or .npz, with normals (and, in .npz, scan ids) when it has them.

    Colours are kept by .ply, .npz and .xyz (as whole numbers under a line of names, very dark ones as shares).

    Raises:
        ShapeError: unknown suffix, or not one normal, colour or scan id for each point.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    cloud = for_numpy(cloud)
    points = cloud.points.double().numpy()
    normals = None if cloud.normals is None else cloud.normals.double().numpy()
    colors = None if cloud.colors is None else cloud.colors.double().numpy()
    rows = points if normals is None else np.hstack([points, normals])
    buffer = io.BytesIO()
    if suffix == ".ply":
        buffer.write(write_ply(points, None, normals, colors))
    elif suffix == ".xyz":
        names = "x y z" if normals is None else "x y z nx ny nz"
        if colors is None:
            np.savetxt(buffer, rows, fmt="%.17g")
        else:
            shares = np.clip(colors, 0, 1)
            levels = np.rint(shares * 255)
            dark = levels.max(initial=0) <= 1  # levels of 0 and 1 would be read as shares
            rows = np.hstack([rows, shares if dark else levels])
            np.savetxt(buffer, rows, fmt="%.17g", header=f"{names} rf gf bf" if dark else f"{names} r g b")
    elif suffix == ".npy":
        np.save(buffer, rows)
    elif suffix == ".npz":
        arrays: dict[str, Any] = {"points": points, "normals": normals, "colors": colors}
        arrays["scan_id"] = None if cloud.scan_ids is None else cloud.scan_ids.numpy()
        np.savez_compressed(buffer, **{key: value for key, value in arrays.items() if value is not None})
    else:
        raise ShapeError(f"'{path.name}' cannot be written: use .ply, .xyz, .npy or .npz for point clouds.")
    write_atomically(path, buffer.getvalue())


def _lines(prefix: str, rows: np.ndarray, spec: str) -> str:
    """One line per row; a single formatting call is many times faster than one per row."""
    template = prefix + " ".join([spec] * rows.shape[1]) + "\n"
    return (template * len(rows)) % tuple(rows.reshape(-1).tolist())


def encode_obj(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    material: str | None = None,
) -> bytes:
    """A mesh as an OBJ file.

    Args:
        vertices: (V, 3).
        faces: (F, 3) indices into all of the others.
        normals: (V, 3) unit normals, or None.
        colors: (V, 3) RGB in [0, 1] behind the coordinates (as MeshLab and others read them), or None.
        uv: (V, 2) places in a texture, or None.
        material: file (``NAME.mtl``) that defines the material ``surface`` of all faces, or None.
    """
    rows = vertices if colors is None else np.hstack([vertices, colors])
    text = "" if material is None else f"mtllib {material}\nusemtl surface\n"
    text += _lines("v ", rows, "%.17g" if not fits_float32(vertices) else "%.9g")
    if uv is not None:
        text += _lines("vt ", uv, "%.9g")
    if normals is not None:
        text += _lines("vn ", normals, "%.6g")
    corner = "%d" + ("/%d" if uv is not None else "/" if normals is not None else "") + "/%d" * (normals is not None)
    text += (f"f {corner} {corner} {corner}\n" * len(faces)) % tuple(
        np.repeat(faces + 1, corner.count("%"), axis=1).reshape(-1).tolist()
    )
    return text.encode()


def _off_text(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> bytes:
    head = ("OFF" if colors is None else "COFF") + f"\n{len(vertices)} {len(faces)} 0\n"
    rows = vertices if colors is None else np.hstack([vertices, colors, np.ones((len(colors), 1))])
    return (head + _lines("", rows, "%.17g") + _lines("3 ", faces, "%d")).encode()


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    corners = vertices[faces]
    normals = unit_face_normals(vertices, faces)
    if fits_float32(vertices):
        rows = np.zeros(len(faces), dtype=[("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        rows["normal"], rows["corners"] = normals, corners
        return b"binary STL".ljust(80) + np.uint32(len(faces)).tobytes() + rows.tobytes()
    one = "facet normal %.6g %.6g %.6g\nouter loop\n" + "vertex %.17g %.17g %.17g\n" * 3 + "endloop\nendfacet\n"
    values = np.hstack([normals, corners.reshape(-1, 9)]).reshape(-1).tolist()
    return ("solid mesh\n" + (one * len(faces)) % tuple(values) + "endsolid mesh\n").encode()


def encode_glb(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    texture: Image | None = None,
) -> bytes:
    """A mesh as a binary glTF file; the arguments are :func:`encode_obj`'s, but for ``texture``: the picture itself."""
    with needs("trimesh", "Writing .glb files"):
        import trimesh
    far = not fits_float32(vertices)
    center = (vertices.max(0) + vertices.min(0)) / 2 if far and len(vertices) else np.zeros(3)
    part: Any = trimesh.Trimesh(vertices - center, faces, vertex_normals=normals, process=False)
    if colors is not None:
        part.visual.vertex_colors = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    if uv is not None:
        skin = trimesh.visual.material.PBRMaterial(baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)
        part.visual = trimesh.visual.TextureVisuals(uv=uv, material=skin)
    move = np.eye(4)
    move[:3, 3] = center
    scene = trimesh.Scene()
    scene.add_geometry(part, transform=move)
    return bytes(scene.export(file_type="glb", include_normals=normals is not None))
