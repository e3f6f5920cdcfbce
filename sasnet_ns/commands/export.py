"""Write a trained field as one file that runs without this package.

sasnet export --load-config outputs/armadillo/sasnet-sdf/DATE/config.yml --output-path field.pt2

A .pt2 needs torch alone (``torch.export.load("field.pt2").module()(points)``), an .onnx any ONNX runtime. Both map
(N, 3) float32 box coordinates to (N,) signed distances; ``box = (world - center) * scale`` is in the file and printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sasnet_ns.commands._command_line import command_line


@dataclass
class Arguments:
    """Write a trained field as one file that runs without this package."""

    load_config: Path
    """config.yml of a run, its folder, or a field.pt written by sasnet_ns."""
    output_path: Path = Path("field.pt2")
    """File to write: .pt2 (torch.export) or .onnx. It appears whole or not at all."""


def run(arguments: Arguments) -> None:
    """Load, export, compare with the field."""
    import torch

    from sasnet_ns.networks import SignedDistanceField
    from sasnet_ns.networks.export import export_field

    field = SignedDistanceField.load(arguments.load_config)
    export_field(field, arguments.output_path)
    center = " ".join(f"{value:.9g}" for value in field.center.tolist())
    print(f"{arguments.output_path}: box = (world - [{center}]) * {float(field.scale):.9g}")
    if arguments.output_path.suffix == ".pt2":
        points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0)) - 0.5
        with torch.no_grad():
            difference = torch.export.load(arguments.output_path).module()(points) - field(points)
        print(f"largest difference from the field at 4,096 points: {float(difference.abs().max()):.1e} box units")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="export_field", program=program, args=args)
