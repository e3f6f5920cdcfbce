"""Fit a network to a volume.

sasnet fit-volume --volume head.npz --network sasnet --steps 2000 --batch 65536 --output outputs/head

sasnet fit-volume --volume engine.raw --raw-shape 128 256 256 --raw-dtype u1 --output outputs/engine
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sasnet_ns.commands._command_line import command_line
from sasnet_ns.commands._training_folder import GOES_ON, training_in

if TYPE_CHECKING:
    from sasnet_ns.fitting.grid_fit import GridFit


@dataclass
class Arguments:
    """Fit a network to a volume."""

    volume: Path
    """Volume: .npy .npz .nii .nii.gz .nrrd .tif, a folder of .tif slices, or .raw with --raw-shape and --raw-dtype."""
    output: Path
    """Folder for checkpoint, metrics and pictures; created if it is missing."""
    network: str | None = None
    """Network of the registry (sasnet if neither this nor the configuration says): siren, finer, wire, gauss, ..."""
    config: Path | None = None
    """YAML file with fields of sasnet_ns.fitting.grid_fit.GridFit, see configs/; other options here override it."""
    steps: int | None = None
    """Optimisation steps (2,000 if neither this nor the configuration says)."""
    learning_rate: float | None = None
    """Peak learning rate of all but hash grids and mask decoders, which get five times as much."""
    batch: int | None = None
    """Voxels in a step; 0 for all of them, as in the paper. Left out: all up to 65,536, else so many."""
    size: int | None = None
    """Reduce the volume to this longest side first."""
    window: tuple[float, float] | None = None
    """Own values that become 0 and 1, everything outside is clamped (for CT: -1000 2000)."""
    parameters: int | None = None
    """Size the network to about this many parameters."""
    network_config: dict[str, str] = field(default_factory=dict)
    """Options of the network as NAME VALUE pairs, values in YAML: --network-config width 128 omega_0 30."""
    key: str | None = None
    """Name of the array in an .npz with several."""
    spacing: tuple[float, float, float] | None = None
    """Size of a cell along slices, rows and columns, for the rendering; the file's, or 1, if left out."""
    threshold: float | None = None
    """Own values up to it are transparent in the rendering (for CT: 300 shows bones)."""
    raw_shape: tuple[int, ...] | None = None
    """Slices, rows and columns (and channels) of a .raw file."""
    raw_dtype: str | None = None
    """Type of a .raw file's values in numpy's notation: u1, <i2, >u2, <f4."""
    evaluate_every: int = 0
    """Steps between PSNRs of the whole volume along the way, a multiple of 10; 0 for the end alone."""
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
    """Read, fit, write everything."""
    from sasnet_ns.fitting.grid_fit import fit_grid
    from sasnet_ns.fitting.volume import read_volume, write_volume_results
    from sasnet_ns.training.devices import chosen_device
    from sdf_tools.ranges import require

    device = chosen_device(arguments.device)
    signal = read_volume(
        arguments.volume,
        size=arguments.size,
        key=arguments.key,
        spacing=arguments.spacing,
        window=arguments.window,
        shape=arguments.raw_shape,
        dtype=arguments.raw_dtype,
    )
    config = fit_configuration(arguments, signal.channels)
    threshold = 0.0
    if arguments.threshold is not None:
        require("--threshold", arguments.threshold)
        threshold = (arguments.threshold - signal.low) / (signal.high - signal.low)
    with training_in(arguments.output, arguments.checkpoint_seconds) as checkpoint:
        fitted = fit_grid(signal, config, device=device, evaluate_every=arguments.evaluate_every, checkpoint=checkpoint)
        metrics = write_volume_results(fitted, arguments.output, threshold=threshold)
        if fitted.interrupted:
            print(GOES_ON)
        else:
            checkpoint.remove()
    print(
        f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}; {metrics['parameters']:,} parameters, "
        f"{metrics['parameters_per_target']:.3f} for each value of the volume; results in {arguments.output}"
    )


def fit_configuration(arguments: Arguments, channels: int) -> GridFit:
    """The configuration file with the command line's options over it."""
    from sasnet_ns.fitting.grid_fit import GridFit, adjusted
    from sasnet_ns.training.config import load_config

    config = load_config(arguments.config, GridFit) if arguments.config else GridFit()
    config.network = arguments.network or config.network
    batch = arguments.batch
    if batch is None and arguments.config is None:
        batch = 65_536
    return adjusted(
        config, 3, channels, options=arguments.network_config, parameters=arguments.parameters,
        learning_rate=arguments.learning_rate, steps=arguments.steps, points_per_batch=batch,
        seed=arguments.seed,
    )  # fmt: skip


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="fit_volume", program=program, args=args)
