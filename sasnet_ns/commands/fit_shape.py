"""Fit a signed distance field without nerfstudio: a shape and a YAML configuration in, a field and a mesh out.

sasnet fit-shape --data armadillo --output-dir outputs/quick
sasnet fit-shape --data armadillo --config configs/sdf_paper_armadillo.yaml --output-dir outputs/paper
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sasnet_ns.commands._command_line import command_line


@dataclass
class Arguments:
    """Fit a signed distance field without nerfstudio."""

    data: str
    """A shape's name (armadillo, ...), or a mesh or point-cloud file."""
    output_dir: Path
    """Folder for field.pt, mesh.ply and losses.json; created if it is missing."""
    config: Path | None = None
    """YAML file with fields of sasnet_ns.fitting.ShapeFit, see configs/; the defaults of ns-train sasnet-sdf if left
    out."""
    steps: int | None = None
    """Optimisation steps, instead of the configuration's."""
    seconds: float | None = None
    """Seconds of training: as many steps as fit, measured beforehand."""
    resolution: int = 512
    """Marching-cubes cells along the box for the mesh; 0 writes none."""
    device: str | None = None
    """cpu or cuda; CUDA where there is one if left out."""


def run(arguments: Arguments) -> None:
    """Fit, save, extract."""
    from sasnet_ns.fitting import ShapeFit, fit_shape
    from sasnet_ns.training.config import load_config
    from sdf_tools.io.writing import save_mesh, write_json

    config = load_config(arguments.config, ShapeFit) if arguments.config else ShapeFit()
    if arguments.steps is not None:
        config.recipe.steps = arguments.steps
    if arguments.seconds is not None:
        config.seconds = arguments.seconds
    fitted = fit_shape(arguments.data, config, device=arguments.device)
    folder = arguments.output_dir
    fitted.field.save(folder / "field.pt")
    write_json(folder / "losses.json", fitted.losses, indent=None)
    print(f"{folder / 'field.pt'}: {'interrupted, kept as it is' if fitted.interrupted else 'trained'}")
    if arguments.resolution:
        save_mesh(fitted.extract_mesh(arguments.resolution), folder / "mesh.ply")
        print(f"{folder / 'mesh.ply'}: the surface in the shape's own units")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="fit_shape", program=program, args=args)
