"""What the networks cost: the supplement's Tables 1 and 2, and Section 4 on signed distances."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from reproduction.context import Context
from reproduction.runs import sized
from reproduction.tables import Metric, TableRow, write_table
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


def shape_step_seconds(context: Context, fits: dict[str, dict[str, Any]], rounds: int = 5) -> dict[str, float]:
    """Processor seconds of a training step of each fit, the least of some rounds in which all take their turns.

    Other work on the machine makes a wall clock useless for comparing runs of different hours; this it hardly touches.
    """
    steps = {}
    for name, fit in fits.items():
        config = config_from(ShapeFit, sized(fit, 3, 1), name)
        field = SignedDistanceField(config.network, config.network_config).to(context.device)
        losses = SDFStep(field, config.objective, config.recipe.steps)
        batch = _batch(config.points_per_batch, context.device)
        steps[name] = _step(field.network, config.recipe, partial(_shape_loss, losses, batch))
    seconds = dict.fromkeys(steps, math.inf)
    for _ in range(rounds + 1):  # the first round compiles
        for name, step in steps.items():
            before = time.process_time()
            step()
            seconds[name] = min(seconds[name], time.process_time() - before)
    return seconds


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
