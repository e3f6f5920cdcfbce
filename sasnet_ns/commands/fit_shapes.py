"""Fit thousands of shapes: a folder or a list in, a field each and one table of all of them out.

sasnet fit-shapes --source meshes/ --output-dir outputs/set --steps 1000 --workers 4

sasnet fit-shapes --source shapes.csv --output-dir outputs/set --shard 3/8

Stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sasnet_ns.commands._command_line import command_line

if TYPE_CHECKING:
    from sasnet_ns.datasets import Counts, Result, Row
    from sasnet_ns.datasets.one import FitOptions

_LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal


@dataclass
class Arguments:
    """Fit thousands of shapes, kept with a table of them."""

    source: Path
    """A folder, walked for every format that loads; or a list of paths: .txt, or .csv or .parquet with a column path
    and, if rows differ, columns named as options (steps, seed, network, objective.loss, ...)."""
    output_dir: Path
    """Folder of the data set: fields/, rows.jsonl, shapes.parquet (or .csv), summary.json, worst.png."""
    config: Path | None = None
    """YAML file with fields of sasnet_ns.fitting.ShapeFit, see configs/."""
    steps: int | None = None
    """Optimisation steps a shape, instead of the configuration's."""
    seconds: float | None = None
    """Seconds of optimisation a shape, instead of steps; such fits differ from run to run."""
    workers: int = 1
    """Processes, which share the cores; a good number is that of cores, if memory is enough (1 GB each and more)."""
    batch: int = 1
    """Fields that a worker trains together, in the same steps: less time on a CPU, far fewer launches on a GPU. 1 for
    one after the other."""
    shard: str | None = None
    """Do part i of n, as i/n from 0/n on; in a SLURM array job the task's own part if left out."""
    time_limit: float = 3600.0
    """Seconds that a shape may take in all; 0 for no limit."""
    memory_limit: float | None = None
    """GB that a worker may take, 0.5 of which are libraries; four fifths of this machine's memory, shared among the
    workers (on Ray: among its cores), if left out; 0 for no limit."""
    retry_failed: bool = False
    """Do shapes again that have a row without a field."""
    seed: int | None = None
    """Seed of the data set, instead of the configuration's."""
    shared_init: bool = False
    """Start all fields from the same weights, which are kept as initial-HASH.pt."""
    mend: Literal["none", "clean", "repair"] = "clean"
    """Before the fit: nothing; drop duplicates and turn triangles outward; fill holes as well."""
    min_iou: float | None = None
    """Mark fields below this overlap in the table."""
    resolution: int = 128
    """Cells along the box of the mesh that each field is measured by; 0 measures nothing."""
    mesh: bool = False
    """Keep that mesh, in the shape's own units; of fields from an earlier run as well."""
    thumbnail: int = 0
    """Side in pixels of a picture of each field; 0 for none."""
    device: str | None = None
    """cpu or cuda; CUDA where there is one if left out."""
    ray: str | None = None
    """Send the shapes to a Ray cluster: its address, or local to start one here. Workers are Ray's then."""
    ray_gpus: float = 0.0
    """Share of a GPU that a task on Ray takes."""


def run(arguments: Arguments) -> None:
    """Fit, write the table, say how it went."""
    from sasnet_ns.datasets import Limits, fit_shapes, shard_of
    from sasnet_ns.datasets.pictures import contact_sheet

    options = _options(arguments)
    limits = Limits(arguments.time_limit, _memory_limit(arguments))
    engine = None
    if arguments.ray is not None:
        from sasnet_ns.datasets.ray_cluster import ray_engine

        engine = ray_engine(arguments.ray, limits, gpus=arguments.ray_gpus, batch=arguments.batch)
    with _progress() as report:
        try:
            result = fit_shapes(
                arguments.source, options, workers=arguments.workers, limits=limits,
                shard=shard_of(arguments.shard), retry_failed=arguments.retry_failed, min_iou=arguments.min_iou,
                batch=arguments.batch, engine=engine, report=report,
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    _say(result, arguments)
    if result.interrupted:
        raise KeyboardInterrupt
    picture = contact_sheet(result.worst, arguments.output_dir, arguments.source)
    if picture is not None:
        print(f"{picture}: the {len(result.worst)} worst, shape on the left and field on the right")


def _options(arguments: Arguments) -> FitOptions:
    from sasnet_ns.datasets.one import FitOptions, initial_weights
    from sasnet_ns.fitting import ShapeFit
    from sasnet_ns.fitting.batch import check_batch
    from sasnet_ns.training.config import load_config
    from sasnet_ns.training.devices import chosen_device

    if arguments.workers < 1:
        raise ValueError(f"--workers must be at least 1, not {arguments.workers}.")
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}.")
    if arguments.batch > 1 and arguments.seconds is not None:
        raise ValueError("fields that are trained together (--batch) need --steps, not --seconds.")
    if arguments.min_iou is not None and not 0 <= arguments.min_iou <= 1:
        raise ValueError(f"--min-iou is an overlap from 0 to 1, not {arguments.min_iou:g}.")
    if arguments.min_iou is not None and not arguments.resolution:
        raise ValueError("--min-iou needs an IoU, and --resolution 0 measures none.")
    if arguments.ray_gpus < 0 or (arguments.ray_gpus and arguments.ray is None):
        raise ValueError("--ray-gpus is the share of a GPU that a worker on Ray takes: give --ray, and 0 or more.")
    if arguments.steps is not None and arguments.seconds is not None:
        raise ValueError("--steps and --seconds are two ways to say the same; give one of them.")
    fit = load_config(arguments.config, ShapeFit) if arguments.config else ShapeFit()
    if arguments.steps is not None:
        fit.recipe.steps, fit.seconds = arguments.steps, None
    if arguments.seed is not None:
        fit.seed = arguments.seed
    fit.check()
    if arguments.batch > 1:
        check_batch(fit)
    options = FitOptions(
        arguments.output_dir, fit, seconds=arguments.seconds, mend=arguments.mend, shared_init=arguments.shared_init,
        resolution=arguments.resolution, mesh=arguments.mesh, thumbnail=arguments.thumbnail, device=arguments.device,
    )  # fmt: skip
    if arguments.ray is None:
        chosen_device(arguments.device)
    initial_weights(options)  # a network that cannot be built is said once, not by every shape
    return options


def _memory_limit(arguments: Arguments) -> float:
    """Bytes for each worker."""
    if arguments.memory_limit is not None:
        if 0 < arguments.memory_limit < 1:
            raise ValueError(
                f"--memory-limit {arguments.memory_limit:g} leaves no room: libraries take 0.5 GB; give 1 or more."
            )
        return arguments.memory_limit * 1e9
    try:
        workers = arguments.workers if arguments.ray is None else os.cpu_count() or 1
        return 0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / workers
    except (ValueError, OSError, AttributeError):
        return 0.0


class _progress:
    """Progress as a bar on a terminal, and as a line now and then where there is none."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("fitting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, disable=not sys.stdout.isatty())
        self.last = time.monotonic()

    def __enter__(self) -> Callable[[Counts, Row], None]:
        self.bar.start()
        self.task = self.bar.add_task("", total=None)
        return self.report

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def report(self, counts: Counts, row: Row) -> None:
        left = time.strftime("%H:%M:%S", time.gmtime(counts.seconds_left % 86_400))
        days = f"{int(counts.seconds_left // 86_400)} d " if counts.seconds_left >= 86_400 else ""
        text = f"{counts.rate * 60:.1f} a minute, {counts.failed} failed, {days}{left} left"
        if counts.drawn:
            text = f"surfaces of {counts.drawn} fields that were there"
        self.bar.update(self.task, total=counts.total, completed=counts.done, description=text)
        if row.error is not None:
            self.bar.console.print(f"{row.path}: {row.error}", markup=False, highlight=False, soft_wrap=True)
        if self.bar.disable and (time.monotonic() - self.last > _LINE_EVERY):
            self.last = time.monotonic()
            print(f"{counts.done} of {counts.total}, {text}", flush=True)


def _say(result: Result, arguments: Arguments) -> None:
    counts = result.counts
    part = "" if result.shard == (0, 1) else "shard {}/{}: ".format(*result.shard)
    print(f"{part}{counts.done} of {counts.total} shapes have a row, {counts.failed} of them no field")
    if counts.drawn:
        print(f"made the mesh or thumbnail of {counts.drawn} fields that were there")
    print(f"{result.table}: {result.rows} rows in all, {result.failed} of them no field")
    if arguments.min_iou is not None:
        print(f"{result.below} fields of all are below an IoU of {arguments.min_iou:g}")
    for row in result.worst:
        print(f"  IoU {row.iou:.4f}  {row.path}")


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(
        Arguments, run, description=__doc__, name="fit_shapes", program=program, args=args,
        interrupted="interrupted; the same command goes on where it was.",
    )  # fmt: skip
