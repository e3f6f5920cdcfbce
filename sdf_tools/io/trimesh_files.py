"""GLB files, through trimesh; nothing but the file itself is opened."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.io.glb import plain_glb
from sdf_tools.io.limits import read_bytes, require_memory


def read_glb(path: Path) -> dict[str, Any]:
    """All meshes of a scene, or its points if it has no meshes.

    Raises:
        ShapeError: damaged, without geometry, or one that ``glb.plain_glb`` refuses.
    """
    data, notes = plain_glb(read_bytes(path, 6.0), path.name)
    parts = _parts(data, path)
    meshes = [part for part in parts if len(part["faces"])]
    fields = _joined(meshes or parts, path)
    loose = sum(len(part["points"]) for part in parts) - sum(len(part["points"]) for part in meshes)
    if meshes and loose:
        notes.append(f"left out {loose:,} points that stand beside the meshes")
    return {**fields, "notes": notes}


def _parts(data: bytes, path: Path) -> list[dict[str, Any]]:
    try:
        import trimesh
    except ImportError:
        raise MissingLibraryError(
            f"Reading {path.suffix} files needs trimesh, which is not installed: pip install trimesh"
        ) from None
    try:
        # Without a resolver trimesh cannot open textures or buffers beside the file, or on the web.
        scene = trimesh.load(
            io.BytesIO(data), file_type=path.suffix.lower()[1:], force="scene", process=False, resolver=None
        )
        parts = _scene_parts(scene, path)
    except ShapeError:
        raise
    except Exception as error:  # trimesh raises whatever its parsers meet
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:150] or type(error).__name__
        raise ShapeError(f"'{path.name}' cannot be read as a {path.suffix} file ({reason}); export it again.") from None
    if not parts:
        raise ShapeError(f"'{path.name}' holds no geometry: there are no points or faces in it.")
    return parts


def _joined(parts: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"points": [], "faces": [], "normals": [], "colors": []}
    offset = 0
    for part in parts:
        columns["points"].append(part["points"])
        columns["faces"].append(part["faces"] + offset)
        columns["normals"].append(part.get("normals"))
        columns["colors"].append(part.get("colors"))
        offset += len(part["points"])
    if not parts:
        raise ShapeError(f"'{path.name}' holds no geometry: there are no points or faces in it.")
    return {key: np.concatenate(rows) for key, rows in columns.items() if all(row is not None for row in rows)}


def _scene_parts(scene: Any, path: Path) -> list[dict[str, Any]]:
    """Every geometry of a trimesh scene, once per node that shows it, in scene coordinates."""
    parts: list[dict[str, Any]] = []
    total = 0
    for node in scene.graph.nodes_geometry:
        transform, key = scene.graph[node]
        geometry = scene.geometry[key]
        count = len(getattr(geometry, "vertices", ()))
        if count == 0 or np.shape(geometry.vertices)[1:] != (3,):
            continue
        total += 200 * count
        require_memory(total, path.name)  # one mesh may be shown by very many nodes
        transform = np.asarray(transform, dtype=np.float64)
        linear = transform[:3, :3]
        if not math.isfinite(float(np.abs(transform).sum())):
            raise ShapeError(f"'{path.name}' has a node with a transform that is NaN or infinite; export it again.")
        points = np.asarray(geometry.vertices, dtype=np.float64) @ linear.T + transform[:3, 3]
        faces = np.asarray(getattr(geometry, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
        if np.linalg.det(linear) < 0:
            faces = faces[:, ::-1]
        part: dict[str, Any] = {"points": points, "faces": faces}
        if len(faces) and "vertex_normals" in getattr(geometry, "_cache", {}):
            part["normals"] = np.asarray(geometry.vertex_normals) @ np.linalg.pinv(linear)
        visual = getattr(geometry, "visual", None)
        colors = getattr(geometry, "colors", None) if not len(faces) else None
        if visual is not None and len(faces) and getattr(visual, "kind", None) == "vertex":
            colors = visual.vertex_colors
        if colors is not None and len(colors) == count:
            part["colors"] = np.asarray(colors, dtype=np.float64)[:, :3] / 255
        parts.append(part)
    return parts
