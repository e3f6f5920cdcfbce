"""Compare a mesh with a reference: overlap, exact distances, normals, and the paper's numbers beside their floor.

sasnet evaluate --prediction mesh.ply --reference armadillo.obj --json metrics.json

The same as ``sdf-tools evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sasnet_ns.commands._command_line import command_line
from sdf_tools.cli import Evaluate as Arguments

__all__ = ["Arguments", "main", "run"]


def run(arguments: Arguments) -> None:
    """Measure, print, write."""
    import torch

    with torch.no_grad():
        arguments.run()


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="evaluate_mesh", program=program, args=args)
