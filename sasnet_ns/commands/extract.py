"""Extract a mesh from a trained run, in the units and position of the shape or the cameras it was trained on.

    sasnet extract --load-config outputs/armadillo/sasnet-sdf/DATE/config.yml --output-path mesh.ply

The network is evaluated only next to the surface. See --help for the box, the level and the clean-up options.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sasnet_ns.commands._command_line import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from sasnet_ns.models.surface import LoadedSurface
    from sdf_tools.geometry import Mesh

SUFFIXES = (".ply", ".obj", ".stl", ".glb", ".off")
TEXTURED_FACES = 50_000
"""Triangles of a textured mesh if nobody asks for another number: unwrapping takes long, the picture has the detail."""


@dataclass
class Arguments:
    """Extract a mesh from a trained run."""

    load_config: Path
    """config.yml of a run of any sasnet method, its folder, or a field.pt written by sasnet-sdf."""
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
    """Drop connected pieces with fewer triangles than this; by default specks of a few cells. 0 keeps all."""
    simplify_mesh: int | None = None
    """Simplify to about this many triangles."""
    normals: bool = False
    """Add vertex normals from the field's gradient (formats that hold them); takes half as long again."""
    vertex_colors: bool = True
    """Add the colours of the surface where the method learns them (formats that hold them)."""
    texture_size: int = 0
    """Bake the colours into a picture with this many pixels a side, wrapped around the mesh (.obj with .mtl and
    .png, or .glb); 0 for none. The mesh is simplified to 50,000 triangles unless --simplify-mesh says otherwise."""
    device: str = "auto"
    """Where the network runs: auto, cpu or cuda."""


def extract(surface: LoadedSurface, arguments: Arguments) -> Mesh:
    """The surface in the input's units.

    Raises:
        ShapeError: there is no surface at that level in that box.
        ValueError: the box is empty or outside what was trained.
    """
    import torch
    from rich.console import Console

    from sdf_tools.extraction import drop_small_components, extract_mesh, largest_component, simplify
    from sdf_tools.geometry import Mesh, NormalizedShape

    frame = NormalizedShape(
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), surface.center, surface.scale
    )
    trained = [frame.to_world(corner) for corner in surface.bounds]
    low = trained[0] if arguments.bounding_box_min is None else arguments.bounding_box_min
    high = trained[1] if arguments.bounding_box_max is None else arguments.bounding_box_max
    corners = frame.to_box(torch.tensor([list(map(float, low)), list(map(float, high))], dtype=torch.float64))
    if (corners[0] < surface.bounds[0] - 1e-6).any() or (corners[1] > surface.bounds[1] + 1e-6).any():
        raise ValueError(
            "the box reaches beyond the trained domain, which runs from "
            f"{_triple(trained[0])} to {_triple(trained[1])}."
        )
    level = surface.level if arguments.level is None else arguments.level
    if surface.inside == "below":  # a distance
        level = level * surface.scale
    with Console(stderr=True).status("extracting") as status:
        mesh = extract_mesh(
            surface.field,
            arguments.resolution,
            bounds=corners.tolist(),
            level=level,
            inside=surface.inside,
            normals=arguments.normals,
            device=surface.device,
            progress=lambda stage, count: status.update(f"extracting: {stage}, {count:,} evaluations"),
        )
    if arguments.largest_component:
        mesh = largest_component(mesh)
    mesh, whole = drop_small_components(mesh, arguments.min_component_faces), mesh
    if mesh is not whole:
        warnings.warn(
            f"left out {whole.faces.shape[0] - mesh.faces.shape[0]:,} triangles in pieces of fewer than "
            f"{arguments.min_component_faces}; --min-component-faces 0 keeps them.",
            stacklevel=1,
        )
    if arguments.simplify_mesh is not None:
        mesh = simplify(mesh, arguments.simplify_mesh)
    if arguments.vertex_colors and surface.color is not None:
        mesh = _colored(mesh, surface)
    return frame.mesh_to_world(mesh)


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
    import torch

    from sasnet_ns.models.loading import load_surface
    from sdf_tools.io.writing import save_mesh
    from sdf_tools.topology import edge_table, face_components, is_watertight

    if arguments.output_path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"'{arguments.output_path}' must end in one of {' '.join(SUFFIXES)}.")
    if arguments.texture_size and arguments.output_path.suffix.lower() not in (".obj", ".glb"):
        raise ValueError(f"'{arguments.output_path}' cannot hold a texture; use .obj or .glb.")
    if not arguments.output_path.resolve().parent.is_dir():
        raise ValueError(f"the folder of '{arguments.output_path}' does not exist; create it first.")
    started = time.perf_counter()
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    surface = load_surface(arguments.load_config, torch.device(device))
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
    )


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="extract_mesh", program=program, args=args)
