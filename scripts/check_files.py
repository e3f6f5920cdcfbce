"""Try a folder of foreign files: load each, print what ``sdf-tools info`` would, compare with trimesh.

python scripts/check_files.py FOLDER

For every mesh the area, the volume and watertightness are compared with trimesh's, for every point cloud the number of
points and the bounding box. Differences that are meant are labelled: concave polygons that trimesh fans across their
notch, cracks that are closed here, open meshes whose volume means nothing. Exit code 1 if anything is left that does
not agree, or if a file ends in something else than a shape or one sentence.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

SUFFIXES = (".ply", ".obj", ".stl", ".off", ".glb")
TOLERANCE = 1e-5


@dataclass
class Arguments:
    """Compare what is read with what trimesh reads."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Files in it and in its folders are tried: .ply .obj .stl .off .glb against trimesh, other known kinds alone."""
    all: bool = False
    """Print agreeing files too."""


def close(a: float, b: float, scale: float) -> bool:
    """Whether two figures agree to a millionth of the larger, or of what counts here."""
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b), scale)


def trimesh_facts(path: Path) -> dict[str, Any] | None:
    """What trimesh says, seams joined by position as here; None where it reads nothing."""
    import numpy as np
    import trimesh

    try:
        scene: Any = trimesh.load(
            io.BytesIO(path.read_bytes()), file_type=path.suffix.lower()[1:], force="scene", process=False
        )
        meshes: list[Any] = []
        points: list[Any] = []
        for node in scene.graph.nodes_geometry:
            transform, key = scene.graph[node]
            part = scene.geometry[key].copy()
            part.apply_transform(transform)
            (meshes if len(getattr(part, "faces", ())) else points).append(part)
        if not meshes:
            rows = np.concatenate([np.asarray(p.vertices) for p in points if np.shape(p.vertices)[1:] == (3,)])
            return {"points": len(rows), "bounds": np.stack([rows.min(0), rows.max(0)])} if len(rows) else None
        mesh: Any = trimesh.util.concatenate([trimesh.Trimesh(m.vertices, m.faces, process=False) for m in meshes])
        _, first, index = np.unique(mesh.vertices + 0.0, axis=0, return_index=True, return_inverse=True)
        joined = trimesh.Trimesh(mesh.vertices[first], index.reshape(-1)[mesh.faces], process=False)
        kept = joined.vertices[np.unique(joined.faces)]
        return {
            "faces": len(joined.faces), "area": float(joined.area), "volume": float(joined.volume),
            "watertight": bool(joined.is_watertight and joined.is_winding_consistent),
            "bounds": np.stack([kept.min(0), kept.max(0)]),
        }  # fmt: skip
    except Exception:
        return None


def compare(path: Path) -> tuple[str, str]:
    """A verdict (agrees, better, refused, alone, DIFFERS, FAILS) and a few words."""
    import numpy as np

    from sdf_tools.errors import MissingLibraryError, ShapeError
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.loading import load
    from sdf_tools.mesh.summary import summarize

    try:
        shape = load(path)
        found = summarize(shape)
        str(found)
    except (ShapeError, MissingLibraryError) as error:
        theirs = trimesh_facts(path) if path.suffix.lower() in SUFFIXES else None
        return ("refused" if theirs is None else "DIFFERS"), str(error)
    except Exception as error:
        return "FAILS", f"{type(error).__name__}: {error}"
    words = f"{found.faces:,} faces" if isinstance(shape, Mesh) else f"{found.vertices:,} points"
    theirs = trimesh_facts(path) if path.suffix.lower() in SUFFIXES else None
    if theirs is None:
        return "alone", f"{words}; trimesh does not read it"
    size = float(np.ptp(theirs["bounds"], axis=0).max())
    if isinstance(shape, Mesh) != ("faces" in theirs):
        return "DIFFERS", f"{words}, trimesh finds {'a mesh' if 'faces' in theirs else 'points'}"
    if not isinstance(shape, Mesh):
        same = found.vertices == theirs["points"] and np.allclose(
            [found.low, found.high], theirs["bounds"], atol=1e-6 * size
        )
        return ("agrees" if same else "DIFFERS"), f"{words}, trimesh {theirs['points']:,}"
    ours = summarize(load(path, merge=False)) if path.suffix.lower() == ".stl" else found
    faces = found.faces == theirs["faces"]
    area = close(found.area, theirs["area"], size**2)
    volume = not found.watertight or not theirs["watertight"] or close(found.volume, theirs["volume"], size**3)
    used = shape.vertices[shape.faces.reshape(-1)]
    bounds = np.allclose(np.stack([used.amin(0), used.amax(0)]), theirs["bounds"], atol=1e-5 * size)
    facts = f"{words}, area {found.area:.6g}, volume {found.volume:.6g}, watertight {found.watertight}"
    against = f"trimesh {theirs['faces']:,}, {theirs['area']:.6g}, {theirs['volume']:.6g}, {theirs['watertight']}"
    if faces and area and volume and bounds and found.watertight == theirs["watertight"]:
        return "agrees", facts
    if faces and bounds and volume and area and found.watertight and not theirs["watertight"] and ours.faces:
        return "better", f"{facts}: cracks closed"
    if faces and bounds and found.area < theirs["area"] and (found.watertight or not theirs["watertight"]):
        return "better", f"{facts}: concave polygons cut along their notches ({against})"
    return "DIFFERS", f"{facts}; {against}"


def main() -> None:
    """Print a table and end with exit code 1 if anything differs."""
    from sdf_tools.io.loading import CLOUD_SUFFIXES, MESH_SUFFIXES

    arguments = tyro.cli(Arguments, description=__doc__)
    if not arguments.folder.is_dir():
        sys.exit(f"check_files: '{arguments.folder}' is not a folder.")
    warnings.simplefilter("ignore")
    known = {*MESH_SUFFIXES, *CLOUD_SUFFIXES}
    files = sorted(p for p in arguments.folder.rglob("*") if p.is_file() and p.suffix.lower() in known)
    counts: dict[str, int] = {}
    for path in files:
        verdict, words = compare(path)
        counts[verdict] = counts.get(verdict, 0) + 1
        if arguments.all or verdict != "agrees":
            print(f"{verdict:8} {path.relative_to(arguments.folder)}: {words}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "no files of a known kind")
    sys.exit(1 if counts.get("DIFFERS") or counts.get("FAILS") else 0)


if __name__ == "__main__":
    main()
