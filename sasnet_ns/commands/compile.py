"""Compile the CPU's kernels, so that no later command has to: half a minute once, after installing or in an image.

sasnet compile

numba keeps what it compiles beside the package's files (NUMBA_CACHE_DIR: elsewhere), for this processor and these
versions; later commands read it. Without this command the first of each kind compiles what it needs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sasnet_ns.commands._command_line import command_line


@dataclass
class Arguments:
    """Compile the CPU's kernels, so that no later command has to."""


def run(_: Arguments) -> None:
    """Fit a mesh and a cloud for two steps, extract and measure: everything that commands compile for themselves.

    Raises:
        MissingLibraryError: numba is not installed.
    """
    from sdf_tools.errors import needs

    with needs("numba", "compiling kernels"):
        import numba  # noqa: F401
    from rich.console import Console

    from sasnet_ns.fitting import ShapeFit, fit_shape
    from sasnet_ns.shapes.named import resolve_mesh
    from sasnet_ns.training import Recipe
    from sdf_tools import PointCloud, evaluate, sample_surface

    started = time.perf_counter()
    mesh = resolve_mesh("armadillo")
    cloud = PointCloud(sample_surface(mesh, 3_000).points)
    config = ShapeFit(recipe=Recipe(steps=2), pool_size=20_000)
    with Console(stderr=True).status("compiling kernels"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two steps fit nothing
        for shape in (mesh, cloud):
            fit_shape(shape, config, progress=False)
        surface = fit_shape(mesh, ShapeFit(recipe=Recipe(steps=100), pool_size=20_000), progress=False)
        evaluate(surface.extract_mesh(64), mesh, samples=1_000)
    print(f"The kernels are compiled ({time.perf_counter() - started:.0f} s).")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="compile", program=program, args=args)
