"""Fit a network to an image, or render one that was fitted.

sasnet fit-image --image photo.png --network sasnet --steps 2000 --output outputs/photo

sasnet fit-image --checkpoint outputs/photo/checkpoint.pt --scale 16 --window 100 132 200 232 --output zoom
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasnet_ns.commands._command_line import command_line
from sasnet_ns.commands._training_folder import GOES_ON, training_in

if TYPE_CHECKING:
    from sasnet_ns.fitting.grid_field import GridField
    from sasnet_ns.fitting.grid_fit import FittedGrid, GridFit
    from sasnet_ns.fitting.signal import Signal

BYTES_OF_A_VALUE = 16
"""Memory for each value of a picture: as computed, joined, and converted for its file."""
BYTES_OF_A_COORDINATE = 24
"""Memory for each coordinate along an axis of the whole picture, in float64."""


@dataclass
class Arguments:
    """Fit a network to an image, or render one that was fitted."""

    output: Path
    """Folder for checkpoint, metrics and pictures; created if it is missing."""
    image: Path | None = None
    """Image to fit: .png .jpg .bmp .webp .tif or .npy, 8 or 16 bits or floating point, any number of channels."""
    checkpoint: Path | None = None
    """Render this checkpoint.pt of an earlier run instead of fitting; with --image, also measure it."""
    network: str | None = None
    """Network of the registry (sasnet if neither this nor the configuration says): siren, finer, wire, ngp, ..."""
    config: Path | None = None
    """YAML file with fields of sasnet_ns.fitting.grid_fit.GridFit, see configs/; other options here override it."""
    steps: int | None = None
    """Optimisation steps (2,000 if neither this nor the configuration says)."""
    learning_rate: float | None = None
    """Peak learning rate of all but hash grids and mask decoders, which get five times as much."""
    batch: int | None = None
    """Pixels in a step; 0 for all of them."""
    size: int | None = None
    """Reduce the image to this longest side first."""
    parameters: int | None = None
    """Size the network to about this many parameters."""
    network_config: dict[str, str] = field(default_factory=dict)
    """Options of the network as NAME VALUE pairs, values in YAML: --network-config width 128 omega_0 43."""
    masks: bool = True
    """sasnet: whether it has masks; --no-masks leaves the frozen embedding alone. They help where the network has
    well under half as many parameters as the image has values."""
    scale: int = 1
    """Also render with this many pixels in the place of one, along both sides (super-resolution)."""
    shift: float = 0.0
    """Also render with pixels shifted by this part of a pixel along both sides."""
    window: tuple[int, int, int, int] | None = None
    """Render only this part with --scale and --shift: first and last row, first and last column (last ones not
    included)."""
    evaluate_every: int = 0
    """Steps between PSNRs of the whole image along the way, a multiple of 10; 0 for the end alone."""
    seed: int | None = None
    """Seed of weights and batches."""
    max_memory: str | None = None
    """Memory that one file may ask for, such as 4G or 500M; half of what is free if left out."""
    checkpoint_seconds: float = 60.0
    """Seconds between savings of the run's middle (training.pt in the folder, removed at the end), from which the same
    command goes on after any end, to the same bits; 0 saves after every step."""
    device: str | None = None
    """cpu or cuda; CUDA where there is one if left out."""


def run(arguments: Arguments) -> None:
    """Fit or load, write everything."""
    from sasnet_ns.fitting.grid_field import GridField
    from sasnet_ns.fitting.grid_fit import fit_grid
    from sasnet_ns.fitting.image import write_image_results
    from sasnet_ns.fitting.signal import read_image, shrink
    from sasnet_ns.training.devices import chosen_device

    device = chosen_device(arguments.device)
    if arguments.image is None and arguments.checkpoint is None:
        raise ValueError("give an --image to fit, or a --checkpoint to render.")
    if arguments.checkpoint is not None:
        refuse_fitting(arguments)
    signal = read_image(arguments.image, arguments.size) if arguments.image else None
    if arguments.checkpoint is not None:
        loaded = GridField.load(arguments.checkpoint, device if arguments.device else "cpu")
        if len(loaded.grid) != 2:
            raise ValueError(f"'{arguments.checkpoint}' holds a volume; it is not an image.")
        check_rendering(arguments, loaded.grid, loaded.channels)
        if signal is not None:
            signal = shrink(signal, max(loaded.grid))
            if (signal.grid, signal.channels) != (loaded.grid, loaded.channels):
                raise ValueError(
                    f"'{arguments.image}' has {signal.grid} pixels of {signal.channels} channels, the checkpoint "
                    f"{loaded.grid} of {loaded.channels}; give the image that it was fitted to."
                )
            # The fit's own folder has its pictures already, and one of the network before training.
            own = arguments.output.resolve() == arguments.checkpoint.resolve().parent
            report(write_image_results(fit_of(loaded, signal, arguments.checkpoint), arguments.output, draw=not own))
        render(loaded, arguments)
        return
    assert signal is not None
    check_rendering(arguments, signal.grid, signal.channels)
    config = fit_configuration(arguments, signal.channels)
    with training_in(arguments.output, arguments.checkpoint_seconds) as checkpoint:
        fitted = fit_grid(
            signal, config, device=device, evaluate_every=arguments.evaluate_every, keep_before=True,
            checkpoint=checkpoint,
        )  # fmt: skip
        for picture in arguments.output.glob("rendered_x*"):  # of an earlier fit in the same folder
            picture.unlink()
        report(write_image_results(fitted, arguments.output))
        render(fitted.field, arguments)
        if fitted.interrupted:
            print(GOES_ON)
        else:
            checkpoint.remove()


FITTING = ("network", "config", "steps", "learning_rate", "batch", "parameters", "network_config", "masks",
           "evaluate_every", "seed")  # fmt: skip


def refuse_fitting(arguments: Arguments) -> None:
    """Say that a checkpoint is not fitted any further.

    Raises:
        ValueError: an option of fitting was given.
    """
    usual = Arguments(arguments.output)
    given = [name for name in FITTING if getattr(arguments, name) != getattr(usual, name)]
    if given:
        names = ", ".join("--no-masks" if name == "masks" else f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"--checkpoint renders and measures what was fitted, and {names} would change nothing; leave that out, or "
            "--checkpoint to fit anew."
        )


def fit_of(loaded: GridField, signal: Signal, checkpoint: Path) -> FittedGrid:
    """A fit that was kept, with its history where that still lies beside the checkpoint."""
    from sasnet_ns.fitting.grid_fit import FittedGrid
    from sasnet_ns.training.loop import History

    def beside(name: str) -> dict[str, Any]:
        try:
            content = json.loads((checkpoint.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    names = [item.name for item in dataclasses.fields(History)]
    known = beside("history.json")
    history = History(**{name: known[name] for name in names}) if known.keys() >= set(names) else History()
    history.psnr = [math.nan if value is None else value for value in history.psnr]
    return FittedGrid(loaded, signal, history, interrupted=bool(beside("metrics.json").get("interrupted")))


def fit_configuration(arguments: Arguments, channels: int) -> GridFit:
    """The configuration file with the command line's options over it."""
    from sasnet_ns.fitting.grid_fit import GridFit, adjusted
    from sasnet_ns.training.config import load_config

    config = load_config(arguments.config, GridFit) if arguments.config else GridFit()
    config.network = arguments.network or config.network
    options = dict(arguments.network_config)
    if not arguments.masks:
        if config.network != "sasnet":
            raise ValueError(f"--no-masks is for the network sasnet, not {config.network}.")
        options["masks"] = "false"
    return adjusted(
        config, 2, channels, options=options, parameters=arguments.parameters,
        learning_rate=arguments.learning_rate, steps=arguments.steps, points_per_batch=arguments.batch,
        seed=arguments.seed,
    )  # fmt: skip


def check_rendering(arguments: Arguments, grid: Sequence[int], channels: int) -> None:
    """Refuse a finer or partial picture that cannot be made, before anything is trained for it.

    Raises:
        ValueError: --scale, --shift or --window is out of range.
        ShapeError: the picture does not fit into memory.
    """
    from sdf_tools.errors import ShapeError
    from sdf_tools.io.limits import memory_limit, size_text
    from sdf_tools.ranges import require

    require("--scale", arguments.scale, 1)
    require("--shift", arguments.shift)
    rows, columns = grid
    if arguments.window is not None:
        top, bottom, left, right = arguments.window
        if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
            raise ValueError(
                f"--window {top} {bottom} {left} {right} does not lie in the image, which has {rows} rows and "
                f"{columns} columns."
            )
        rows, columns = bottom - top, right - left
    values = arguments.scale**2 * rows * columns * channels
    needed = BYTES_OF_A_VALUE * values + BYTES_OF_A_COORDINATE * arguments.scale * sum(grid)
    if needed > memory_limit():
        raise ShapeError(
            f"--scale {arguments.scale} makes a picture of {arguments.scale * rows} x {arguments.scale * columns} "
            f"pixels, which needs {size_text(needed)} of memory, more than the {size_text(memory_limit())} it may "
            "take; give a smaller scale or a --window, or allow more (--max-memory)."
        )


def report(metrics: dict[str, Any]) -> None:
    """The metrics in one line."""
    print(
        f"PSNR {metrics['psnr']:.2f} dB, edges {metrics['psnr_edge']:.2f} dB, SSIM {metrics['ssim']:.4f}, "
        f"noisiness {metrics['noisiness']:.3f}; {metrics['parameters']:,} parameters, "
        f"{metrics['parameters_per_target']:.2f} for each value of the image"
    )


def render(loaded: GridField, arguments: Arguments) -> None:
    """The super-resolved or shifted picture, if it was asked for."""
    from sasnet_ns.fitting.image import reconstruction_files
    from sdf_tools.io.writing import write_atomically

    plain = arguments.scale == 1 and arguments.shift == 0 and arguments.window is None
    if plain and not (arguments.checkpoint and arguments.image is None):
        return
    window = None
    if arguments.window is not None:
        top, bottom, left, right = arguments.window
        window = [(top, bottom), (left, right)]
    values = loaded.render(arguments.scale, arguments.shift, window)
    stem = "rendered" if plain else f"rendered_x{arguments.scale}_shift{arguments.shift:g}"
    for name, data in reconstruction_files(loaded.signal(values), values, stem).items():
        write_atomically(arguments.output / name, data)
        print(f"{arguments.output / name}: {values.shape[0]} x {values.shape[1]} pixels")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="fit_image", program=program, args=args)
