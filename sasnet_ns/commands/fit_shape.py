"""Fit a signed distance field without nerfstudio: a shape and a YAML configuration in, a field and a mesh out.

sasnet fit-shape --data armadillo --output-dir outputs/quick

sasnet fit-shape --data armadillo --config configs/sdf_paper_armadillo.yaml --output-dir outputs/paper
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sasnet_ns.commands._command_line import command_line
from sasnet_ns.commands._training_folder import GOES_ON, training_in

if TYPE_CHECKING:
    from sasnet_ns.fitting.shape import FittedShape, ShapeFit

NO_SHAPE = 0.01
"""Intersection over union below which a field does not show the shape."""
MOST_CELLS = 8192
"""Largest resolution that the extraction takes."""


@dataclass
class Arguments:
    """Fit a signed distance field without nerfstudio."""

    data: str
    """A shape's name (armadillo, ...), or a mesh or point-cloud file."""
    output_dir: Path
    """Folder for field.pt, mesh.ply, losses.json and run.json; created if it is missing."""
    config: Path | None = None
    """YAML file with fields of sasnet_ns.fitting.ShapeFit, see configs/, or the run.json of an earlier run; the
    defaults of ns-train sasnet-sdf if left out."""
    steps: int | None = None
    """Optimisation steps, instead of the configuration's."""
    seconds: float | None = None
    """Seconds of training instead of steps: as many steps as fit, measured beforehand."""
    resolution: int = 512
    """Marching-cubes cells along the box for the mesh; 0 writes none."""
    max_memory: str | None = None
    """Memory that one file may ask for, such as 4G or 500M; half of what is free if left out."""
    checkpoint_seconds: float = 60.0
    """Seconds between savings of the run's middle (training.pt in the folder, removed at the end), from which the same
    command goes on after any end, to the same bits; 0 saves after every step."""
    device: str | None = None
    """cpu or cuda; CUDA where there is one if left out."""


def run(arguments: Arguments) -> None:
    """Fit, save, extract."""
    from sasnet_ns.fitting import ShapeFit, fit_shape
    from sasnet_ns.training.config import load_config
    from sasnet_ns.training.devices import chosen_device
    from sdf_tools.errors import ShapeError
    from sdf_tools.ranges import require

    require("--resolution", arguments.resolution, 0, MOST_CELLS)
    if arguments.steps is not None and arguments.seconds is not None:
        raise ValueError("--steps and --seconds are two ways to say the same; give one of them.")
    device = chosen_device(arguments.device)
    config = load_config(arguments.config, ShapeFit) if arguments.config else ShapeFit()
    if arguments.steps is not None:
        config.recipe.steps, config.seconds = arguments.steps, None
    if arguments.seconds is not None:
        config.seconds = arguments.seconds
    config.check()
    with training_in(arguments.output_dir, arguments.checkpoint_seconds) as checkpoint:
        fitted = fit_shape(arguments.data, config, device=device, checkpoint=checkpoint)
        try:
            _write(arguments, config, fitted)
        except ShapeError:  # nothing to go on from: there is no shape in the field
            checkpoint.remove()
            raise
        if fitted.interrupted:
            print(GOES_ON)
        else:
            checkpoint.remove()


def _write(arguments: Arguments, config: ShapeFit, fitted: FittedShape) -> None:
    """Field, losses, description and mesh.

    Raises:
        ShapeError: the field does not show the shape.
    """
    from sdf_tools.errors import ShapeError
    from sdf_tools.io.writing import save_mesh, write_json

    folder = arguments.output_dir
    (folder / "mesh.ply").unlink(missing_ok=True)  # an earlier fit's
    done = fitted.history.step[-1] if fitted.history.step else 0
    fitted.field.save(folder / "field.pt", step=done)
    write_json(folder / "losses.json", fitted.losses, indent=None)
    trained = "trained" if config.recipe.steps or config.seconds else "not trained, as its weights were drawn"
    print(f"{folder / 'field.pt'}: {'interrupted, kept as it is' if fitted.interrupted else trained}")
    _describe(arguments, config, fitted)
    if not fitted.interrupted and fitted.iou is not None and fitted.iou < NO_SHAPE and config.recipe.steps >= 100:
        raise ShapeError(
            f"the field does not show the shape (IoU {fitted.iou:.4f} of the samples), and no mesh was written; train "
            "for longer or lower the learning rates."
        )
    if arguments.resolution:
        save_mesh(fitted.extract_mesh(arguments.resolution), folder / "mesh.ply")
        print(f"{folder / 'mesh.ply'}: the surface in the shape's own units")


def _describe(arguments: Arguments, config: ShapeFit, fitted: FittedShape) -> None:
    """Write run.json: what was fitted to what, where and by which versions."""
    from sasnet_ns.models.run_description import describe_environment, describe_files, write_description
    from sasnet_ns.shapes.named import shape_file
    from sasnet_ns.training.options import digest, plain_options

    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    command = ["sasnet", "fit-shape"]
    for name, value in given.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    options, normalized = plain_options(config), fitted.normalized
    content = {
        "method": "fit-shape",
        "model": config.network,
        "seed": config.seed,
        "data": {"path": arguments.data, **describe_files([shape_file(arguments.data)])},
        "frame": {"center": normalized.center.tolist(), "scale": float(normalized.scale)},
        **describe_environment(str(fitted.field.scale.device)),
        "command": command,
        "options_sha256": digest(options),
        "options": options,
    }
    write_description(arguments.output_dir, content)


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="fit_shape", program=program, args=args)
