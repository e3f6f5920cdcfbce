"""Write a trained field as one file that runs without this package.

sasnet export --load-config outputs/armadillo/sasnet-sdf/DATE/config.yml --output-path field.pt2

A .safetensors holds the weights and the network's description, nothing that can run: the form to hand on. A .pt2 needs
torch alone (``torch.export.load("field.pt2").module()(points)``), an .onnx any ONNX runtime; both map (N, 3) float32
box coordinates to (N,) signed distances. ``box = (world - center) * scale`` is in every file and printed.
``--bits 8`` makes a .safetensors or .pt of a quarter of the size or less, whose distances are somewhat farther off; how
far is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sasnet_ns.commands._command_line import command_line


@dataclass
class Arguments:
    """Write a trained field as one file that runs without this package."""

    load_config: Path
    """config.yml of a run, its folder, or a field.pt or field.safetensors written by sasnet_ns."""
    output_path: Path = Path("field.pt2")
    """File to write: .safetensors, .pt, .pt2 (torch.export) or .onnx, always in small letters. It appears whole or not
    at all."""
    bits: Literal[8, 16, 32] = 32
    """Of the weights in a .safetensors or .pt: 16 is half the size, 8 a quarter or less. Read wherever fields are."""


def run(arguments: Arguments) -> None:
    """Load, export, compare with the field."""
    import torch

    from sasnet_ns.commands._run_shape import shape_field
    from sasnet_ns.networks import SignedDistanceField
    from sasnet_ns.networks.export import export_field

    # Everything that reads fields goes by the small letters.
    path = arguments.output_path.with_suffix(arguments.output_path.suffix.lower())
    run = arguments.load_config
    own = (run, (run if run.is_dir() else run.parent) / "field.pt")
    if path.exists() and any(file.exists() and path.samefile(file) for file in own):
        raise ValueError(f"'{path}' is the run's own field, which an export must not replace; name another file.")
    field, step = shape_field(run)
    export_field(field, path, arguments.bits, step)
    center = " ".join(f"{value:.9g}" for value in field.center.tolist())
    print(f"{path}: box = (world - [{center}]) * {float(field.scale):.9g}")
    if path.suffix == ".onnx" or (path.suffix != ".pt2" and arguments.bits == 32):
        return
    if path.suffix == ".pt2":
        again: torch.nn.Module = torch.export.load(path).module()
    else:
        again = SignedDistanceField.load(path)
    points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        difference = (again(points) - field(points)).abs()
    size = f"{path.stat().st_size / 1024:,.0f} KB, " if arguments.bits != 32 else ""
    print(
        f"{size}difference from the field at 4,096 points: at most {float(difference.max()):.1e} box units, "
        f"{float(difference.mean()):.1e} on average"
    )


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="export_field", program=program, args=args)
