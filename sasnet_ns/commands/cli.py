"""Signed distance fields on SASNet: fit shapes, images and volumes, extract, export, draw and measure.

Methods for nerfstudio are trained by ns-train: sasnet-sdf, sasnet-neus, sasnet-neus-facto, sasnet-nerfacto. Shapes
without a network (distances, samples, normals) are the work of sdf-tools.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

COMMANDS: dict[str, tuple[str, str]] = {
    "extract": ("extract", "Extract a mesh from a trained run."),
    "export": ("export", "Write a trained field as one file that runs without this package."),
    "fit-shape": ("fit_shape", "Fit a signed distance field without nerfstudio."),
    "fit-shapes": ("fit_shapes", "Fit thousands of shapes, kept with a table of them."),
    "fit-image": ("fit_image", "Fit a network to an image, or render one that was fitted."),
    "fit-volume": ("fit_volume", "Fit a network to a volume."),
    "render-scene": ("render_scene", "Render a mesh into a posed image set."),
    "repeat": ("repeat", "Repeat a run from its description."),
    "picture": ("picture", "Draw trained fields: surfaces, errors, slices, masks, comparisons, curves."),
    "page": ("page", "Write a trained field as one HTML page that opens from disk, offline."),
    "evaluate": ("evaluate", "Measure a mesh against a reference."),
    "compile": ("compile", "Compile the CPU's kernels, so that no later command has to."),
}
"""Sub-command to its module and what it does."""


def main(args: Sequence[str] | None = None) -> None:
    """The command ``sasnet``.

    Args:
        args: what follows the command's name; the process's own arguments if None.
    """
    import tyro

    given = list(sys.argv[1:] if args is None else args)
    name = given[0].replace("_", "-") if given else ""
    if name in COMMANDS:
        _module(name).main(given[1:], program=f"sasnet {name}")
        return
    if given == ["--version"]:
        from sasnet_ns import __version__

        print(f"sasnet {__version__}")
        return
    # Only a shell's completion has to know the options of all commands; help and misspelt names need no imports.
    whole = any(argument.startswith("--tyro-") for argument in given)
    commands = {name: _module(name).Arguments if whole else _described(text) for name, (_, text) in COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(commands, prog="sasnet", description=__doc__, args=given)


def _module(name: str) -> Any:
    return importlib.import_module(f"sasnet_ns.commands.{COMMANDS[name][0]}")


def _described(text: str) -> Callable[[], None]:
    """Stands for a command in the list that ``sasnet --help`` prints."""

    def command() -> None: ...

    command.__doc__ = text
    return command
