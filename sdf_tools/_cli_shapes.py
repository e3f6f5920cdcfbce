"""Commands of ``sdf-tools`` that look at shapes and mend them: info, repair, evaluate."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sdf_tools.geometry import Mesh, PointCloud, Shape


@dataclass(kw_only=True)
class ReadsFiles:
    """What every command has that reads files."""

    max_memory: str | None = None
    """Memory that one file may ask for, such as 4G or 500M; half of what is free if left out."""


@dataclass
class Info(ReadsFiles):
    """Print what a mesh or point cloud is: size, bodies, watertightness, defects, and what training would mend."""

    shape: Annotated[str, tyro.conf.Positional]
    """A mesh (.ply .obj .stl .off .glb .npz), a point cloud (.ply .obj .npz .npy .pcd .xyz .pts .txt .asc .csv .las
    .laz .e57), or a name that an installed package knows (armadillo)."""

    def run(self) -> None:
        from sdf_tools.cloud.preparation import prepare_cloud
        from sdf_tools.errors import ShapeError
        from sdf_tools.mesh.prepare import prepare_mesh
        from sdf_tools.mesh.summary import summarize

        shape, notes = shape_and_notes(self.shape)
        print(summarize(shape))
        try:
            mended = prepare_cloud(shape).said if isinstance(shape, PointCloud) else prepare_mesh(shape)[1]
            notes += [f"mended for training: {note}" for note in mended]
        except ShapeError as error:
            notes.append(f"for training: {str(error).rstrip('.')}")
        for note in notes:
            print(f"  {note}")


@dataclass
class Repair(ReadsFiles):
    """Close a mesh and turn it outward; every change is printed."""

    shape: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A mesh."""
    output_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Mesh to write: .ply .obj .stl .glb or .off."""
    orient: bool = True
    """Make the orientation consistent and outward, keep one of each pair of opposite triangles, and drop walls hidden
    inside and sheets that enclose nothing."""
    fill_holes: bool = True
    """Close holes with a fan around their centre."""
    remesh: Literal["auto", "always", "never"] = "auto"
    """Replace the mesh by the level set one half of its winding number: if it is still open after all else, always, or
    never."""
    resolution: int = 192
    """Cells along the longest side of that grid."""

    def run(self) -> None:
        from sdf_tools.io.writing import save_mesh
        from sdf_tools.mesh.repair import repair

        if not 8 <= self.resolution <= 2048:
            raise ValueError(f"--resolution must lie between 8 and 2048, not {self.resolution}.")
        mesh, notes = mesh_and_notes(self.shape)
        remesh = {"auto": None, "always": True, "never": False}[self.remesh]
        mended, changes = repair(
            mesh, fill_holes=self.fill_holes, orient=self.orient, remesh=remesh, resolution=self.resolution
        )
        save_mesh(mended, self.output_path)
        for change in notes + changes:
            print(change)
        faces = f"{mended.vertices.shape[0]:,} vertices, {mended.faces.shape[0]:,} faces"
        print(f"{self.output_path}: {faces}{'' if changes else ', nothing had to be changed'}")


@dataclass
class Evaluate(ReadsFiles):
    """Measure a mesh against a reference; see sdf_tools.metrics.Evaluation for the names."""

    prediction: str
    """The mesh (or point cloud) to judge, in the same units and position as the reference."""
    reference: str
    """The true mesh or point cloud; its longest side is 0.9 box units, which distances are in. A cloud gives distances,
    and an intersection over union only if it has normals."""
    json: Path | None = None
    """Also write the figures to this file; undefined ones as null."""
    samples: int = 200_000
    """Points on each shape for distances and normals."""
    iou_samples: int = 1_000_000
    """Points for the intersection over union."""
    seed: int = 0
    """Seed of all samples."""
    orientation: Literal["check", "trust"] = "check"
    """check: find the inside of meshes and clouds as training does, and say what was mended; trust: take triangles and
    normals as they are."""

    def run(self) -> None:
        from sdf_tools.io.writing import write_json
        from sdf_tools.metrics import CloudEvaluation, Evaluation, evaluate, evaluate_cloud

        if self.json is not None and not self.json.resolve().parent.is_dir():
            raise ValueError(f"the folder of '{self.json}' does not exist; create it first.")
        if self.samples < 1 or self.iou_samples < 1:
            raise ValueError("--samples and --iou-samples must be at least 1.")
        shapes = [inside_found(name, self.orientation) for name in (self.prediction, self.reference)]
        result: Evaluation | CloudEvaluation
        if isinstance(shapes[0], Mesh) and isinstance(shapes[1], Mesh):
            result = evaluate(shapes[0], shapes[1], samples=self.samples, iou_samples=self.iou_samples, seed=self.seed)
        else:
            result = evaluate_cloud(
                shapes[0], shapes[1], samples=self.samples, iou_samples=self.iou_samples, seed=self.seed
            )
        print(result)
        if self.json is not None:
            write_json(self.json, result.to_dict())


def inside_found(name: str, orientation: str) -> Shape:
    """The shape with its inside found; one that encloses nothing as it is, since distances to it still count.

    What was mended goes to standard error. ``orientation`` is ``check`` or ``trust``.
    """
    from sdf_tools.cloud.given_normals import mend_normals
    from sdf_tools.errors import ShapeError
    from sdf_tools.mesh.prepare import prepare_mesh

    shape, notes = shape_and_notes(name)
    if isinstance(shape, PointCloud):
        shape, more = mend_normals(shape, orientation)
    elif shape.faces.shape[0] == 0:
        raise ShapeError(f"'{name}' has no triangles; there is no surface.")
    else:
        try:
            shape, more = prepare_mesh(shape, "trust" if orientation == "trust" else "guess")
        except ShapeError as error:
            more = [str(error).rstrip(".")]
    for note in notes + more:
        print(f"{shape.name}: {note}", file=sys.stderr)
    return shape


def shape_and_notes(name_or_path: str | Path) -> tuple[Shape, list[str]]:
    """A shape from a file, or by a name that an installed package registers, and what was said while it was read.

    Packages register names by an entry point of the group ``sdf_tools.shapes``: a function from a name to a shape, or
    to None for names that it does not know.
    """
    import warnings
    from importlib.metadata import entry_points

    from sdf_tools.errors import ShapeWarning
    from sdf_tools.io.loading import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ShapeWarning)
        found: Shape | None = None
        if not Path(name_or_path).exists():
            for entry in entry_points(group="sdf_tools.shapes"):
                found = found or entry.load()(str(name_or_path))
        shape = found or load(name_or_path)
    notes = [str(w.message).partition("': ")[2].rstrip(".") for w in caught if issubclass(w.category, ShapeWarning)]
    return shape, notes


def mesh_and_notes(path: str | Path) -> tuple[Mesh, list[str]]:
    shape, notes = shape_and_notes(path)
    if not isinstance(shape, Mesh):
        raise ValueError(f"'{path}' is a point cloud; this command needs a mesh with faces.")
    return shape, notes
