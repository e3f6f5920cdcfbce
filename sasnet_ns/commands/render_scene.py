"""Render a mesh into a posed image set in Blender and nerfstudio format, with masks, depth, normals and the truth.

Example: sasnet render-scene --data armadillo --output-dir data/armadillo"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from sasnet_ns.commands._command_line import command_line
from sdf_tools.pictures.scene_files import SceneSettings


@dataclass
class Arguments:
    """Render a mesh into a posed image set."""

    data: str
    """A shape's name (armadillo, ...), or a mesh file."""
    output_dir: Path
    """Folder to write; it must not exist yet and appears when it is complete."""
    scene: Annotated[SceneSettings, tyro.conf.arg(name="")] = field(default_factory=SceneSettings)
    """Cameras, light, texture and picture size."""


def run(arguments: Arguments) -> None:
    """Load, render, write."""
    from rich.console import Console
    from rich.progress import Progress

    from sasnet_ns.shapes.named import resolve_mesh
    from sdf_tools.pictures.scene_files import write_scene
    from sdf_tools.ranges import LARGEST_SEED, require

    require("--seed", arguments.scene.seed, 0, LARGEST_SEED)
    mesh = resolve_mesh(arguments.data)
    started = time.perf_counter()
    settings = arguments.scene
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("rendering", total=None)
        write_scene(
            mesh,
            arguments.output_dir,
            settings,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(
        f"{arguments.output_dir}: {settings.views} training, {settings.val_views} validation and "
        f"{settings.test_views} test views of {mesh.name}, {settings.size[0]} x {settings.size[1]} pixels, "
        f"{time.perf_counter() - started:.0f} s"
    )


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(
        Arguments,
        run,
        description=__doc__,
        name="render_scene",
        program=program,
        args=args,
        interrupted="interrupted; the same command goes on where it stopped.",
    )
