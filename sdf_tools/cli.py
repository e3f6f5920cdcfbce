"""The command ``sdf-tools``: shapes in, facts, samples, distances, meshes and pictures out."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from sdf_tools._cli_shapes import Evaluate, Info, ReadsFiles, Repair, inside_found, shape_and_notes
from sdf_tools.errors import MissingLibraryError, file_trouble
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.limits import allow_memory


@dataclass
class Sample(ReadsFiles):
    """Sample points on, near or in a mesh; on it with normals."""

    shape: Annotated[Path, tyro.conf.Positional]
    """A mesh."""
    output_path: Path
    """Point cloud to write: .ply .xyz .npz or .npy."""
    count: int = 100_000
    """Number of points."""
    method: Literal["uniform", "blue-noise", "curvature", "sharp-edges", "near-surface", "volume"] = "uniform"
    """uniform by area; blue noise, evenly spread; denser where the surface bends; on edges sharper than 30 degrees;
    moved off the surface by Laplace noise; or uniform inside."""
    scale: float | None = None
    """Laplace scale of near-surface samples, in the mesh's units; 1 % of its longest side if left out."""
    seed: int = 0
    """Same seed, same points."""
    orientation: Literal["check", "trust"] = "check"
    """check: find the inside as training does, so that normals point out of it, and say what was mended; trust: take
    triangles as they are."""

    def run(self) -> None:
        from sdf_tools import sampling
        from sdf_tools.io.writing import save_points

        mesh = inside_found(str(self.shape), self.orientation)
        if not isinstance(mesh, Mesh):
            raise ValueError(f"'{self.shape}' is a point cloud; this command needs a mesh with faces.")
        if self.count < 1:
            raise ValueError(f"--count must be at least 1, not {self.count}.")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"--scale must be positive, not {self.scale:g}.")
        if self.method == "near-surface":
            scale = self.scale or 0.01 * float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
            cloud = PointCloud(sampling.sample_near_surface(mesh, self.count, scale, self.seed))
        elif self.method == "volume":
            cloud = PointCloud(sampling.sample_volume(mesh, self.count, self.seed))
        else:
            ways: dict[str, Callable[..., sampling.SurfaceSamples]] = {
                "uniform": sampling.sample_surface,
                "blue-noise": sampling.sample_poisson_disk,
                "curvature": sampling.sample_curvature,
                "sharp-edges": sampling.sample_sharp_edges,
            }
            samples = ways[self.method](mesh, self.count, seed=self.seed)
            cloud = PointCloud(samples.points, samples.normals)
        save_points(cloud, self.output_path)
        print(f"{self.output_path}: {self.count:,} points{'' if cloud.normals is None else ' with normals'}")


@dataclass
class Normals(ReadsFiles):
    """Estimate the normals of a point cloud and turn them outwards."""

    shape: Annotated[Path, tyro.conf.Positional]
    """A point cloud."""
    output_path: Path
    """Point cloud to write, with normals."""
    method: Literal["winding", "mst"] = "winding"
    """How they are turned: by the winding number of the whole cloud, or along a minimum spanning tree."""

    def run(self) -> None:
        import dataclasses

        from sdf_tools.cloud.normals import estimate_normals, orient_normals
        from sdf_tools.io.loading import load
        from sdf_tools.io.writing import save_points

        cloud = load(self.shape)
        if not isinstance(cloud, PointCloud):
            raise ValueError(f"'{self.shape}' is a mesh and has normals; normals are estimated for point clouds.")
        normals, reliability = estimate_normals(cloud.points)
        normals = orient_normals(cloud.points, normals, self.method)
        save_points(dataclasses.replace(cloud, normals=normals), self.output_path)
        print(f"{self.output_path}: {len(normals):,} normals, median reliability {reliability.median():.2f}")


@dataclass
class Distance(ReadsFiles):
    """Signed distance of points to a shape, negative inside, in the shape's units."""

    shape: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SHAPE")]
    """A mesh, or a point cloud with normals."""
    points: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="POINTS")]
    """Where to measure: a point cloud, or the vertices of a mesh."""
    output_path: Path
    """.npy file of (N,) distances to write."""
    orientation: Literal["check", "trust"] = "check"
    """check: find the inside as training does, and say what was mended; trust: take triangles and normals as they
    are."""

    def run(self) -> None:
        import io

        import numpy as np

        from sdf_tools.distance.signed_distance import SignedDistance
        from sdf_tools.geometry import positions
        from sdf_tools.io.loading import load
        from sdf_tools.io.writing import write_atomically

        distance = SignedDistance(inside_found(str(self.shape), self.orientation))(
            positions(load(self.points, merge=False))
        )
        buffer = io.BytesIO()
        np.save(buffer, distance.numpy())
        write_atomically(self.output_path, buffer.getvalue())
        inside = float((distance < 0).double().mean())
        mean = float(distance.abs().mean())
        print(f"{self.output_path}: {len(distance):,} distances, mean |d| {mean:.6g}, {inside:.1%} inside")


@dataclass
class Extract(ReadsFiles):
    """Mesh a level set: of a function, of an exported field, or of a shape's own distance (offset or closed)."""

    field: Annotated[str, tyro.conf.Positional]
    """module:function or file.py:function from (N, 3) points to (N,) values; a field.pt2 written by torch.export; or a
    mesh or a point cloud with normals."""
    output_path: Path
    """Mesh to write: .ply .obj .stl .glb or .off."""
    resolution: int = 256
    """Cells along the longest side of the box."""
    level: float = 0.0
    """Value of the field on the surface; for distances in the shape's units, positive is outside."""
    inside: Literal["below", "above"] = "below"
    """Which side of the level is inside: below for distances, above for densities and occupancies."""
    bounding_box_min: tuple[float, float, float] | None = None
    """Lowest corner of the box, in the field's or shape's units; (-0.5, -0.5, -0.5) or all of the shape if left out."""
    bounding_box_max: tuple[float, float, float] | None = None
    """Highest corner of the box."""
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes"
    """How vertices are placed; dual contouring keeps sharp edges and corners."""
    lipschitz: float | None = None
    """Largest slope of the field, if you know it (1 for distances, truncated ones too): nothing that it does not rule
    out is then missed. Measured if left out."""
    coarse_resolution: int = 64
    """Cells of the lattice that the search starts from; in every field, pieces larger than these are found."""
    thorough: bool = False
    """Look into every cell that may hide a piece, however long it takes."""
    refine_steps: int = 0
    """Steps that move the vertices of marching cubes along their edges onto the level set."""
    largest_component: bool = False
    """Keep only the largest connected piece."""
    cap: bool = False
    """Close the surface where it leaves the box."""
    fill_holes: bool = False
    """Close every hole that is left."""
    simplify: int | None = None
    """Simplify to about this many triangles."""
    trust: bool = False
    """Read a .pt2, which can run any code that is in it: for files whose maker you know."""
    orientation: Literal["check", "trust"] = "check"
    """check: find the inside of a shape as training does, and say what was mended; trust: take triangles and normals as
    they are."""

    def run(self) -> None:
        from sdf_tools import extraction
        from sdf_tools.extraction.field_files import load_field
        from sdf_tools.io.writing import save_mesh

        named = load_field(self.field, trust=self.trust, read=lambda spec: inside_found(spec, self.orientation))
        level = self.level * named.frame.scale
        corners = []
        for given, side in ((self.bounding_box_min, -1.0), (self.bounding_box_max, 1.0)):
            whole = torch.full((3,), side * named.box(level), dtype=torch.float64)
            chosen = named.frame.to_box(torch.tensor(given, dtype=torch.float64)) if given else whole
            corners.append(chosen.tolist())
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *rest: print(f"sdf-tools: {message}", file=sys.stderr)
            mesh = extraction.extract_mesh(
                named.field,
                self.resolution,
                corners,
                level=level,
                inside=self.inside,
                method=self.method,
                lipschitz=self.lipschitz,
                coarse_resolution=self.coarse_resolution,
                thorough=self.thorough,
                refine_steps=self.refine_steps,
                cap=self.cap,
            )
        cell = max(high - low for low, high in zip(*corners, strict=True)) / self.resolution
        if extraction.leaves_box(mesh, corners, cell * (self.method == "dual_contouring")) and not self.fill_holes:
            print("sdf-tools: the surface leaves the box and is cut off there; --cap closes it.", file=sys.stderr)
        if self.largest_component:
            mesh = extraction.largest_component(mesh)
        if self.fill_holes:
            mesh = extraction.fill_holes(mesh)
        if self.simplify is not None:
            mesh = extraction.simplify(mesh, self.simplify)
        save_mesh(named.frame.mesh_to_world(mesh), self.output_path)
        print(f"{self.output_path}: {mesh.vertices.shape[0]:,} vertices, {mesh.faces.shape[0]:,} faces")


@dataclass
class Reconstruct(ReadsFiles):
    """Mesh a point cloud, with or without normals, in seconds and without a network."""

    shape: Annotated[Path, tyro.conf.Positional]
    """A point cloud (.ply .obj .off .glb .npz .npy .pcd .xyz .pts .txt .asc .csv .las .laz .e57)."""
    output_path: Path
    """Mesh to write: .ply .obj .stl .glb or .off."""
    method: Literal["imls", "poisson"] = "imls"
    """The cloud's own signed distance by marching cubes, or Open3D's screened Poisson on the same prepared points."""
    resolution: int | None = None
    """Cells along the longest side; about one a spacing of the points if left out, 64 to 512."""
    trim: float | None = None
    """Leave borders where no point is within this many spacings; the mesh is closed if left out."""
    keep_outliers: bool = False
    """Do not look for stray points."""
    keep_noise: bool = False
    """Do not move noisy points onto the surface that they tell."""
    all_pieces: bool = False
    """Keep pieces with less than 2 % of the largest one's faces."""
    max_points: int = 1_500_000
    """Larger clouds are thinned to this many points, evenly."""
    orientation: Literal["check", "trust"] = "check"
    """Mend the cloud's own normals where they are wrong, or take them as they are."""

    def run(self) -> None:
        import warnings

        from sdf_tools.io.loading import load
        from sdf_tools.io.writing import save_mesh
        from sdf_tools.reconstruction import reconstruct

        cloud = load(self.shape)
        if not isinstance(cloud, PointCloud):
            raise ValueError(f"'{self.shape}' is a mesh already; reconstruct takes a point cloud.")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mesh = reconstruct(
                cloud,
                method=self.method,
                resolution=self.resolution,
                keep_outliers=self.keep_outliers,
                denoise=not self.keep_noise,
                trim=self.trim,
                all_pieces=self.all_pieces,
                max_points=self.max_points,
                orientation=self.orientation,
            )
        for warning in said:
            print(warning.message, file=sys.stderr)
        save_mesh(mesh, self.output_path)
        print(f"{self.output_path}: {mesh.vertices.shape[0]:,} vertices, {mesh.faces.shape[0]:,} faces")


@dataclass
class Render(ReadsFiles):
    """Draw a mesh or a point cloud, without a display."""

    shape: Annotated[str, tyro.conf.Positional]
    """A mesh, or a point cloud (a tile for each point)."""
    output_path: Path
    """Picture to write: .png or .jpg; .gif or .mp4 for a turntable."""
    turntable: bool = False
    """Turn all the way round in a .png as well (an animated PNG)."""
    frames: int = 36
    """Pictures of a turntable."""
    size: int = 800
    """Width and height in pixels."""
    azimuth: float = 20.0
    """Degrees around the up axis."""
    elevation: float = 12.0
    """Degrees above the horizon."""
    up: Literal["x", "y", "z"] = "y"
    """The axis that points up."""
    reference: str | None = None
    """Colour the shape by its distance to this mesh or point cloud, with a colour bar."""
    largest: float | None = None
    """Distance of the last colour; the 99th percentile of all distances if left out."""

    def run(self) -> None:
        import dataclasses

        self._check()
        from sdf_tools.distance.signed_distance import SignedDistance
        from sdf_tools.geometry import positions
        from sdf_tools.pictures.plots import add_color_bar
        from sdf_tools.pictures.render import (
            BACKGROUND,
            Camera,
            check_picture_name,
            error_colors,
            error_range,
            render_mesh,
            save_picture,
            turntable,
        )
        from sdf_tools.pictures.splats import cloud_as_mesh

        moving = self.turntable or self.output_path.suffix.lower() in (".gif", ".mp4")
        check_picture_name(self.output_path, moving)
        shape, _ = shape_and_notes(self.shape)
        camera = Camera(self.azimuth, self.elevation, up=self.up)
        size = (self.size, self.size)
        errors, label = None, ""
        if self.reference is not None:
            truth = inside_found(str(self.reference), "check")
            sided = isinstance(truth, Mesh) or truth.normals is not None
            errors = SignedDistance(truth, sign="auto" if sided else "unsigned")(positions(shape))
            label = "distance to the reference (its units" + (", negative inside)" if sided else ")")
        if isinstance(shape, PointCloud):
            mesh, shown = cloud_as_mesh(shape, errors)
            errors = None if errors is None else shown
        else:
            mesh = shape
        if errors is not None:
            mesh = dataclasses.replace(mesh, vertex_colors=error_colors(errors, self.largest, "coolwarm"))
        if moving:
            pictures = turntable(mesh, self.frames, camera, size, progress=True)
        else:
            pictures = [render_mesh(mesh, camera, size)]
        if errors is not None:
            low, high = error_range(errors, self.largest)
            pictures = [add_color_bar(picture, low, high, "coolwarm", label, BACKGROUND) for picture in pictures]
        save_picture(pictures if moving else pictures[0], self.output_path)
        print(self.output_path)

    def _check(self) -> None:
        if self.size < 1:
            raise ValueError(f"--size must be at least 1, not {self.size}.")
        for name, angle in (("azimuth", self.azimuth), ("elevation", self.elevation)):
            if not math.isfinite(angle):
                raise ValueError(f"--{name} must be finite, not {angle:g}.")
        if self.largest is not None and not 0 < self.largest < math.inf:
            raise ValueError(f"--largest must be positive and finite, not {self.largest:g}.")


Command = Info | Repair | Sample | Normals | Distance | Extract | Reconstruct | Evaluate | Render


def main() -> None:
    """The command ``sdf-tools``."""
    _run(tyro.cli(Command, description=__doc__))  # type: ignore[call-overload]


def _run(command: Command) -> None:
    """Run a command; one sentence and exit code 1 where the input is at fault."""
    import warnings

    torch.set_grad_enabled(False)
    usual, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"sdf-tools: {message}\n"
    try:
        allow_memory(command.max_memory)
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output (head, less) has enough; a closed pipe must not be flushed once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, MissingLibraryError) as error:
        sys.exit(f"sdf-tools: {error}")
    except OSError as error:
        sys.exit(f"sdf-tools: {file_trouble(error)}")
    except KeyboardInterrupt:
        sys.exit("sdf-tools: interrupted.")
    finally:
        warnings.formatwarning = usual
