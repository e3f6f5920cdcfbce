"""Write a trained field as one HTML page that opens from disk, offline: for who has nothing installed.

    sasnet page outputs/armadillo/sasnet-sdf/DATE --output-path armadillo.html

On it: the surface shaded, by its error against the input, by gradient, curvature and masks, with a colour bar; a slice
with level lines that a slider moves. The input is the run's own, unless --shape names another.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sasnet_ns.commands._command_line import command_line


@dataclass
class Arguments:
    """Write a trained field as one HTML page that opens from disk, offline."""

    run: Annotated[Path, tyro.conf.Positional]
    """config.yml of a run, its folder, or a field.pt or field.safetensors."""
    output_path: Path = Path("page.html")
    """Page to write: .html. It appears whole or not at all."""
    shape: str | None = None
    """Name or file of the input, for the errors; the run's own if left out."""
    errors: bool = True
    """Show the errors; with --no-errors the input is not read."""
    resolution: int = 128
    """Cells along the longest side of the box; twice as many make the page four times as large."""
    masks: int = 8
    """How many masks to show, those that vary most over the surface."""
    slices: int = 31
    """Positions of the slice along each axis."""
    up: Literal["x", "y", "z"] | None = None
    """The axis that points up; what the run says if left out, else y."""
    title: str | None = None
    """Title of the page; the file's name if left out."""


def run(arguments: Arguments) -> None:
    """Load, find the input, write."""
    from rich.console import Console

    from sasnet_ns.commands._run_shape import run_shape, shape_field
    from sasnet_ns.viewer.page import write_page

    for name, least in (("resolution", 8), ("masks", 0), ("slices", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(arguments, name)}.")
    if not arguments.output_path.resolve().parent.is_dir():
        raise ValueError(f"the folder of '{arguments.output_path}' does not exist; create it first.")
    if not arguments.run.exists():
        raise ValueError(f"there is no run at '{arguments.run}'; give its folder or its config.yml.")
    field, _ = shape_field(arguments.run)
    known = run_shape(arguments.run, arguments.shape, read=arguments.errors)
    if arguments.errors and known.shape is None:
        warnings.warn(f"the page shows no errors: {known.why_not}.", stacklevel=1)
    with Console(stderr=True).status("writing the page"):
        write_page(
            field,
            arguments.output_path,
            shape=known.shape,
            resolution=arguments.resolution,
            masks=arguments.masks,
            slices=arguments.slices,
            up=arguments.up or known.up,
            front=known.front,
            title=arguments.title,
        )
    print(f"{arguments.output_path}: {arguments.output_path.stat().st_size / 1e6:.1f} MB")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="page", program=program, args=args)
