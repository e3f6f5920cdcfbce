"""What the networks cost: the supplement's Tables 1 and 2, Section 4 on signed distances, and every row's steps."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from reproduction import images, shapes
from reproduction.context import Context
from reproduction.rows import load_row
from reproduction.runs import Job, load_signal, sized
from reproduction.tables import Metric, TableRow, where_and_when, write_table
from sasnet_ns.analysis.step_cost import measure_step_cost
from sasnet_ns.fitting import ShapeFit
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import GridFit, GridLoss
from sasnet_ns.fitting.toy_image import toy_image
from sasnet_ns.networks import Network, SignedDistanceField
from sasnet_ns.networks.sizes import table_options
from sasnet_ns.training.config import config_from
from sasnet_ns.training.objective import SDFObjective, SDFStep
from sasnet_ns.training.recipe import Recipe, build_optimizers
from sdf_tools.io.writing import write_atomically
from sdf_tools.pools import COARSE, FINE, SDFBatch

PAPER_COUNTS = {"image": 128_865, "volume": 138_181, "sdf": 130_917}
PAPER_SHAPE_COSTS = {
    "siren": {"step_us": 17_557.0, "peak_mib": 98.0},
    "sasnet": {"step_us": 22_175.0, "peak_mib": 118.2},
}
PAPER_COSTS = {
    "siren": {"step_us": 29_224.0, "peak_mib": 2075.50},
    "msiren": {"step_us": 95_438.0, "peak_mib": 6077.07},
    "incode": {"step_us": 59_907.0, "peak_mib": 3642.59},
    "sasnet": {"step_us": 43_107.0, "peak_mib": 3031.60},
}
LABELS = {"siren": "SIREN", "msiren": "MSIREN", "incode": "INCODE", "sasnet": "SASNet"}
COST_METRICS = (
    Metric("step_us", "AST (us)", ".0f", largest=False),
    Metric("peak_mib", "PMem (MiB)", ".1f", largest=False),
)


def parameter_counts(context: Context) -> None:
    """Supp. Table 1: trainable parameters of SASNet's three configurations, and of the rows of every table."""
    from sasnet_ns.networks.sizes import ROWS, parameter_count
    from sasnet_ns.networks.sizes import parameter_counts as table_counts

    lines = ["### Supp. Table 1: trainable parameters", "", "| SASNet for | here | paper | difference |",
             "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for task, paper in PAPER_COUNTS.items():
        in_dim, out_dim = (2, 3) if task == "image" else (3, 1)
        count = parameter_count("sasnet", in_dim, out_dim, preset=task)
        lines.append(f"| {task} | {count:,} | {paper:,} | {count - paper:+,} |")
    lines += ["", "| table | network | at the paper's setting | as compared here |", "| --- | --- | ---: | ---: |"]
    for table in ROWS:
        for row in table_counts(table):
            lines.append(f"| {table} | {row.network} | {row.paper:,} | {row.table:,} |")
    text = "\n".join(lines) + "\n"
    write_atomically(context.output / "supp_table1.md", text.encode())
    context.done.append(context.output / "supp_table1.md")
    print(text)


def step_costs(context: Context) -> None:
    """Supp. Table 2: average step time and peak memory of four networks of equal size, full batch."""
    size = 64 if context.quick else 512
    signal = toy_image(size)
    table = []
    for name in context.pick(tuple(PAPER_COSTS)):
        options = table_options(name, "step")
        torch.manual_seed(0)
        field = GridField(signal.grid, signal.channels, name, options).to(context.device)
        target = field.target(signal.values).to(context.device)
        field.network.initialize_from(target)
        config = GridFit(network=name, network_config=options)
        loss_at = GridLoss(field, target, config)
        step = _step(field.network, config.recipe, partial(loss_at, 0))
        table.append(_row(name, field.network, step, context, loss_at.points.numel() + target.numel(), PAPER_COSTS))
    notes = [
        f"{size * size:,} points a step (paper: 262,144 on an RTX A6000); means of 5 runs of 3 steps by torch.profiler."
    ]
    title = "Supp. Table 2: average step time and peak memory"
    print(write_table(context, "supp_table2", title, COST_METRICS, table, notes))


def shape_step_costs(context: Context) -> None:
    """Supp. Sec. 4: average step time and peak memory of SASNet and SIREN on signed distances."""
    points = context.choose(2_500, 10_000, 10_000)
    batch = _batch(points, context.device)
    table = []
    for name in context.pick(tuple(PAPER_SHAPE_COSTS)):
        torch.manual_seed(0)
        field = SignedDistanceField(name, table_options(name, "sdf")).to(context.device)
        losses = SDFStep(field, SDFObjective(loss="coarse_to_fine"), steps=100)
        step = _step(field.network, GridFit().recipe, partial(_shape_loss, losses, batch))
        table.append(_row(name, field.network, step, context, 4 * points, PAPER_SHAPE_COSTS))
    notes = [f"{points:,} points a step (paper: 10,000 on an RTX A6000); means of 5 runs of 3 steps by torch.profiler."]
    title = "Supp. Section 4: step time and memory on signed distances"
    print(write_table(context, "supp_sec4", title, COST_METRICS, table, notes))


def row_costs(context: Context) -> None:
    """The time of a step of every row on an image and on a shape, and of all its steps.

    SAPE's is that of a step in the first half of a run, while its masks open; the others are cheaper.
    """
    rows = {"images": images.ROWS, "shapes": shapes.ROWS}
    loaded = {group: [load_row(group, name) for name in names] for group, names in rows.items()}
    path = context.files("images/div2k512", 1)[0]
    for name in context.rows:
        if name not in {row.name for group in loaded.values() for row in group}:
            raise ValueError(f"there is no row '{name}' here.")
    loaded = {g: [r for r in group if not context.rows or r.name in context.rows] for g, group in loaded.items()}
    jobs = {row.name: images.image_job(context, row, path, 0) for row in loaded["images"]}
    fits = {row.name: shapes.shape_job(context, row, "armadillo", 0).fit for row in loaded["shapes"]}
    seconds = {"images": _image_step_seconds(context, jobs), "shapes": shape_step_seconds(context, fits)}
    steps = {"images": {name: job.fit["recipe"]["steps"] for name, job in jobs.items()},
             "shapes": {name: fit["recipe"]["steps"] for name, fit in fits.items()}}  # fmt: skip
    kind = kind_of_seconds(context.device).capitalize()
    labels = {row.name: row.label for group in loaded.values() for row in group}
    lines = [
        f"### What a row costs{context.mark}",
        "",
        "| method | image, ms a step | minutes a row | shape, ms a step | minutes a row |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, label in labels.items():
        cells = [label]
        for group, found in seconds.items():
            second = found.get(name)
            cells += ["", ""] if second is None else [f"{1e3 * second:.3g}", f"{second * steps[group][name] / 60:.3g}"]
        lines.append(f"| {' | '.join(cells)} |")
    pixels = [f"{math.prod(load_signal(job).grid):,} pixels" for job in jobs.values()][:1]
    points = [f"{fit['points_per_batch']:,} points" for fit in fits.values()][:1]
    lines += ["", f"- {' and '.join(pixels + points)} a step.",
              f"- {kind} without drawing points, the least of 5 rounds in which all take turns.",
              f"- {where_and_when(context, [])}; {torch.get_num_threads()} threads."]  # fmt: skip
    context.save("row_costs.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _image_step_seconds(context: Context, jobs: dict[str, Job]) -> dict[str, float]:
    """As :func:`shape_step_seconds`, of fits of images, with what a network does after a step."""
    steps = {}
    for name, job in jobs.items():
        signal = load_signal(job)
        config = config_from(GridFit, sized(job.fit, len(signal.grid), signal.channels), name)
        field = GridField(signal.grid, signal.channels, config.network, config.network_config).to(context.device)
        target = field.target(signal.values).to(context.device)
        field.network.initialize_from(target)
        loss = GridLoss(field, target, config)
        step = _step(field.network, config.recipe, partial(loss, 0))
        steps[name] = partial(_finished, step, loss, itertools.count(1))
    return _seconds(steps, context.device)


def _finished(step: Callable[[], None], loss: GridLoss, number: Iterator[int]) -> None:
    step()
    loss.finish(next(number))


def shape_step_seconds(context: Context, fits: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds of a training step of each fit: the processor's, or a GPU's by the clock.

    Other work on the machine makes a wall clock useless for comparing runs of different hours; this it hardly touches.
    """
    steps: dict[str, Callable[[], None]] = {}
    for name, fit in fits.items():
        config = config_from(ShapeFit, sized(fit, 3, 1), name)
        field = SignedDistanceField(config.network, config.network_config).to(context.device)
        losses = SDFStep(field, config.objective, config.recipe.steps)
        batch = _batch(config.points_per_batch, context.device)
        steps[name] = _step(field.network, config.recipe, partial(_shape_loss, losses, batch))
    return _seconds(steps, context.device)


def kind_of_seconds(device: str) -> str:
    """What :func:`shape_step_seconds` counts."""
    return "seconds on the GPU" if device.startswith("cuda") else "processor seconds"


def _seconds(steps: Mapping[str, Callable[[], None]], device: str, rounds: int = 5) -> dict[str, float]:
    """Seconds of each, the least of some rounds in which all take their turns."""
    seconds = dict.fromkeys(steps, math.inf)
    for _ in range(rounds + 1):  # the first round compiles
        for name, step in steps.items():
            before = _now(device)
            step()
            seconds[name] = min(seconds[name], _now(device) - before)
    return seconds


def _now(device: str) -> float:
    """The processor's time; on a GPU, which works on after a launch, the clock when it is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _batch(points: int, device: str) -> SDFBatch:
    """Random points in the box, half of them fine and half coarse."""
    half = points // 2
    where = torch.rand(2 * half, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    kind = torch.tensor([FINE, COARSE], dtype=torch.uint8).repeat_interleave(half)
    return SDFBatch(where.to(device), torch.zeros(2 * half, device=device), kind.to(device), (half, half, 0))


def _shape_loss(losses: SDFStep, batch: SDFBatch) -> torch.Tensor:
    return losses.losses(batch, 0)[0]["sdf"]


def _step(network: Network, recipe: Recipe, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One optimisation step."""
    optimizers = list(build_optimizers(network, recipe).values())

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _row(
    name: str,
    network: Network,
    step: Callable[[], None],
    context: Context,
    numbers: int,
    paper: dict[str, dict[str, float]],
) -> TableRow:
    """A step's cost; ``numbers`` are the points' and their values'."""
    held = 4 * sum(p.numel() for p in network.parameters()) * 4 + 4 * numbers  # and gradients and Adam's two moments
    cost = measure_step_cost(step, context.device, held_bytes=held)
    values = {"step_us": [cost.step_us], "peak_mib": [cost.peak_mib]}
    return TableRow(LABELS[name], network.parameter_count(), values, paper[name])
