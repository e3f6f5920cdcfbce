"""Extract a mesh from a trained run, in the units and position of the shape or the cameras it was trained on.

    sasnet extract --load-config outputs/armadillo/sasnet-sdf/DATE/config.yml --output-path mesh.ply

The network is evaluated only next to the surface. See --help for the box, the level and the clean-up options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sasnet_ns.commands._command_line import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from sasnet_ns.models.surface import LoadedSurface
    from sdf_tools.geometry import Mesh

SUFFIXES = (".ply", ".obj", ".stl", ".glb", ".off")
BYTES_OF_A_CELL = {".ply": 76, ".glb": 76, ".stl": 200, ".obj": 160, ".off": 160}
"""Bytes of a mesh for each cell of one side of the lattice, squared; to refuse a disk without room beforehand."""
TEXTURED_FACES = 50_000
"""Triangles of a textured mesh if nobody asks for another number: unwrapping takes long, the picture has the detail."""


@dataclass
class Arguments:
    """Extract a mesh from a trained run."""

    load_config: Path
    """config.yml of a run of any sasnet method, its folder, or a field.pt or field.safetensors."""
    output_path: Path = Path("mesh.ply")
    """Mesh to write: .ply .obj .stl .glb or .off. It appears whole or not at all."""
    resolution: int = 512
    """Marching-cubes cells along the longest side of the box."""
    bounding_box_min: tuple[float, float, float] | None = None
    """Lowest corner of the box, in the units of the input; the whole trained domain if left out."""
    bounding_box_max: tuple[float, float, float] | None = None
    """Highest corner of the box, in the units of the input."""
    level: float | None = None
    """Signed distance of the extracted surface, in the units of the input, 0 if left out; positive is outside. For a
    method that learns densities, the density of its surface."""
    largest_component: bool = False
    """Keep only the largest connected piece."""
    min_component_faces: int = 100
    """Leave out stray pieces with fewer triangles than this that are also too small for a part of the shape. 0 keeps
    all."""
    lipschitz: float | None = None
    """Largest slope of the field, 1 for a distance, if it is known: no piece can then be missed."""
    coarse_resolution: int = 64
    """Cells along the longest side of the lattice that the search begins on; finer finds smaller separate pieces."""
    thorough: bool = False
    """Evaluate every node of the lattice: nothing that it holds is missed, and it takes as long as it takes."""
    cap: bool = False
    """Close the surface where it leaves the box."""
    simplify_mesh: int | None = None
    """Simplify to about this many triangles."""
    normals: bool = False
    """Add vertex normals from the field's gradient (formats that hold them); takes half as long again."""
    vertex_colors: bool = True
    """Add the colours of the surface where the method learns them (formats that hold them)."""
    texture_size: int = 0
    """Bake the colours into a picture with this many pixels a side, wrapped around the mesh (.obj with .mtl and
    .png, or .glb); 0 for none. The mesh is simplified to 50,000 triangles unless --simplify-mesh says otherwise."""
    frame: Literal["data", "colmap"] | None = None
    """Axes of the mesh of a run on photographs: data for those of transforms.json, its cameras and its sparse points
    (what is taken if left out), colmap for COLMAP's, which ns-process-data turns and scales; refused where the data set
    has none."""
    device: str = "auto"
    """Where the network runs: auto, cpu or cuda."""
    trust: bool = False
    """Read a config.yml that has no run.json beside it (older versions wrote none). That can run any code in it: for
    runs that you made, or whose maker you know."""


@contextlib.contextmanager
def _in_box_units(scale: float) -> Iterator[None]:
    """Say that the extractor's own sentences are in units of the field's box, where those are not the shape's."""
    from sdf_tools.errors import ShapeError

    try:
        yield
    except ShapeError as error:
        if scale == 1:
            raise
        raise ShapeError(
            f"{str(error).removesuffix('.')} (lengths of the field's box, of which 1 is {1 / scale:.6g} of the shape)."
        ) from error


def extract(surface: LoadedSurface, arguments: Arguments) -> Mesh:
    """The surface in the input's units.

    Raises:
        ShapeError: there is no surface at that level in that box.
        ValueError: the box is empty or outside what was trained.
    """
    import torch
    from rich.console import Console

    from sdf_tools.extraction import drop_specks, extract_mesh, largest_component, leaves_box, simplify
    from sdf_tools.geometry import Mesh, NormalizedShape

    frame = NormalizedShape(
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), surface.center, surface.scale
    )
    trained = [frame.to_world(corner) for corner in surface.bounds]
    low = trained[0] if arguments.bounding_box_min is None else arguments.bounding_box_min
    high = trained[1] if arguments.bounding_box_max is None else arguments.bounding_box_max
    if any(not float(a) < float(b) for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"the box from {_triple(low)} to {_triple(high)} is empty: its highest corner must exceed its "
            "lowest along every axis."
        )
    corners = frame.to_box(torch.tensor([list(map(float, low)), list(map(float, high))], dtype=torch.float64))
    if (corners[0] < surface.bounds[0] - 1e-6).any() or (corners[1] > surface.bounds[1] + 1e-6).any():
        raise ValueError(
            "the box reaches beyond the trained domain, which runs from "
            f"{_triple(trained[0])} to {_triple(trained[1])}."
        )
    level = surface.level if arguments.level is None else arguments.level
    if surface.inside == "below":  # a distance
        level = level * surface.scale
    with _in_box_units(surface.scale), Console(stderr=True).status("extracting") as status:
        mesh = extract_mesh(
            surface.field,
            arguments.resolution,
            bounds=corners.tolist(),
            level=level,
            inside=surface.inside,
            lipschitz=arguments.lipschitz,
            coarse_resolution=arguments.coarse_resolution,
            thorough=arguments.thorough,
            cap=arguments.cap,
            normals=arguments.normals and arguments.simplify_mesh is None,
            device=surface.device,
            progress=lambda stage, count: status.update(f"extracting: {stage}, {count:,} evaluations"),
        )
    if leaves_box(mesh, corners.tolist()):
        warnings.warn("the surface leaves the box and is cut off there; --cap closes it.", stacklevel=1)
    if arguments.largest_component:
        mesh = largest_component(mesh)
    mesh, left_out = drop_specks(mesh, arguments.min_component_faces)
    if left_out:
        warnings.warn(f"{left_out} --min-component-faces 0 keeps them.", stacklevel=1)
    if arguments.simplify_mesh is not None:
        mesh = simplify(mesh, arguments.simplify_mesh)
    if arguments.normals and mesh.vertex_normals is None:
        mesh = _with_normals(mesh, surface, float((corners[1] - corners[0]).max()) / arguments.resolution)
    if arguments.vertex_colors and surface.color is not None:
        mesh = _colored(mesh, surface)
    return frame.mesh_to_world(mesh)


def _with_normals(mesh: Mesh, surface: LoadedSurface, cell: float) -> Mesh:
    """A simplified mesh, in box coordinates, with the direction of the field's gradient, or its own where that is 0."""
    import numpy as np
    import torch

    from sdf_tools.extraction import SampledField
    from sdf_tools.topology import vertex_normals
    from sdf_tools.vectors import unit_vectors

    field = SampledField(surface.field, surface.device)
    vertices = mesh.vertices.numpy()
    normals = unit_vectors(field.gradient(vertices, np.full(3, 0.01 * cell)))
    outwards = normals if surface.inside == "below" else -normals
    outwards = np.where(outwards.any(1, keepdims=True), outwards, vertex_normals(vertices, mesh.faces.numpy()))
    return dataclasses.replace(mesh, vertex_normals=torch.from_numpy(outwards))


def _colored(mesh: Mesh, surface: LoadedSurface) -> Mesh:
    """The mesh, in box coordinates, with the surface's colours at its vertices."""
    import torch

    from sdf_tools.chunks import in_chunks

    assert surface.color is not None
    points = mesh.vertices.float().to(surface.device)
    with torch.no_grad():
        colors = in_chunks(surface.color, points).cpu()
    return dataclasses.replace(mesh, vertex_colors=colors)


def _save_textured(mesh: Mesh, surface: LoadedSurface, arguments: Arguments) -> None:
    """Bake the surface's colours around the mesh, in the input's units, and write it."""
    from sdf_tools.pictures.texture_baking import bake_texture, save_textured

    assert surface.color is not None
    color, center, scale, device = surface.color, surface.center, surface.scale, surface.device
    textured = bake_texture(
        mesh, lambda points: color(((points - center) * scale).float().to(device)), arguments.texture_size
    )
    save_textured(textured, arguments.output_path)


def _triple(values: Iterable[float | Tensor]) -> str:
    return "(" + ", ".join(f"{float(value):.6g}" for value in values) + ")"


def run(arguments: Arguments) -> None:
    """Load, extract, write."""
    from sasnet_ns.models.loading import load_surface
    from sasnet_ns.training.devices import chosen_device
    from sdf_tools.io.limits import require_space
    from sdf_tools.io.writing import save_mesh
    from sdf_tools.topology import edge_table, face_components, is_watertight

    if arguments.output_path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"'{arguments.output_path}' must end in one of {' '.join(SUFFIXES)}.")
    if arguments.texture_size and arguments.output_path.suffix.lower() not in (".obj", ".glb"):
        raise ValueError(f"'{arguments.output_path}' cannot hold a texture; use .obj or .glb.")
    if not arguments.output_path.resolve().parent.is_dir():
        raise ValueError(f"the folder of '{arguments.output_path}' does not exist; create it first.")
    # About two vertices and four triangles for each cell of a side: a closed surface that fills its box.
    size = BYTES_OF_A_CELL[arguments.output_path.suffix.lower()] * arguments.resolution**2
    require_space(arguments.output_path, size, f"meshes of {arguments.resolution} cells along a side")
    started = time.perf_counter()
    device = chosen_device(None if arguments.device == "auto" else arguments.device)
    surface = load_surface(arguments.load_config, device, arguments.frame, trust=arguments.trust)
    if arguments.texture_size:
        if surface.color is None:
            raise ValueError(f"'{arguments.load_config}' has learned no colours; leave --texture-size out.")
        faces_wanted = TEXTURED_FACES if arguments.simplify_mesh is None else arguments.simplify_mesh
        arguments = dataclasses.replace(arguments, simplify_mesh=faces_wanted, vertex_colors=False, normals=False)
    mesh = extract(surface, arguments)
    if arguments.texture_size:
        _save_textured(mesh, surface, arguments)
    else:
        save_mesh(mesh, arguments.output_path)
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    components = face_components(faces, table)[0]
    print(
        f"{arguments.output_path}: {mesh.vertices.shape[0]:,} vertices, {len(faces):,} faces, "
        f"{components} component{'s' * (components != 1)}, "
        f"{'watertight' if is_watertight(faces, table) else 'not watertight'}, {time.perf_counter() - started:.1f} s"
        f"{', ' * bool(surface.axes)}{surface.axes}"
    )


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="extract_mesh", program=program, args=args)
