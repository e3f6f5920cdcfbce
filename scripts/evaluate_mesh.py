"""Measure a mesh against a reference mesh.

    python scripts/evaluate_mesh.py --prediction mesh.ply --reference scan.ply --json evaluation.json

Distances are in box units: the reference's longest side is 0.9. The names are explained in sdf_tools.metrics.evaluate.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Arguments:
    """Measure a mesh against a reference mesh."""

    prediction: Path
    """The mesh to judge, in the same units and position as the reference."""
    reference: Path
    """The true mesh."""
    json: Path | None = None
    """Also write the figures to this file."""
    samples: int = 300_000
    """Points on each mesh; the paper's Chamfer distance wants 300,000."""
    iou_points: int = 1_000_000
    """Points for the intersection over union."""
    seed: int = 0
    """Seed of all samples."""


def run(arguments: Arguments) -> None:
    """Load, measure, print, write."""
    from rich.console import Console
    from rich.table import Table

    from sdf_tools.io import load
    from sdf_tools.metrics import evaluate
    from sdf_tools.shapes import Mesh
    from sdf_tools.writing import write_atomically

    if arguments.json is not None and not arguments.json.resolve().parent.is_dir():
        raise ValueError(f"the folder of '{arguments.json}' does not exist; create it first.")
    meshes = []
    for path in (arguments.prediction, arguments.reference):
        shape = load(path)
        if not isinstance(shape, Mesh):
            raise ValueError(f"'{path}' is a point cloud; both files must be meshes with faces.")
        meshes.append(shape)
    with Console(stderr=True).status("measuring"):
        metrics = evaluate(*meshes, samples=arguments.samples, iou_points=arguments.iou_points, seed=arguments.seed)
    table = Table("metric", "value", title=f"{arguments.prediction} against {arguments.reference} (longest side 0.9)")
    for name, value in metrics.items():
        table.add_row(name, _text(value))
    Console().print(table)
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(metrics, indent=1).encode())


def _text(value: float | int | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3e}" if abs(value) < 0.01 else f"{value:.4f}"


def main() -> None:
    """The command line; one sentence and exit code 1 where the input is at fault."""
    import tyro

    from sdf_tools.errors import MissingLibraryError

    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        run(arguments)
    except (ValueError, MissingLibraryError) as error:
        sys.exit(f"evaluate_mesh: {error}")


if __name__ == "__main__":
    main()
