"""What the networks cost: the supplement's Tables 1 and 2."""

from __future__ import annotations

import torch

from reproduction.context import Context
from reproduction.tables import Metric, TableRow, write_table
from sasnet_ns.analysis.step_cost import measure_step_cost
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import GridFit, GridLoss
from sasnet_ns.fitting.toy_image import toy_image
from sasnet_ns.training.recipe import build_optimizers
from sdf_tools.io.writing import write_atomically

PAPER_COUNTS = {"image": 128_865, "volume": 138_181, "sdf": 130_917}
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
    from sasnet_ns.networks.sizes import table_options

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
        optimizers = list(build_optimizers(field.network, config.recipe).values())

        def step(loss_at: GridLoss = loss_at, optimizers: list[torch.optim.Optimizer] = optimizers) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss_at(0).backward()
            for optimizer in optimizers:
                optimizer.step()

        # Parameters, gradients and Adam's two moments, the points and their values.
        held = 4 * sum(p.numel() for p in field.parameters()) * 4 + 4 * (loss_at.points.numel() + target.numel())
        cost = measure_step_cost(step, context.device, held_bytes=held)
        values = {"step_us": [cost.step_us], "peak_mib": [cost.peak_mib]}
        table.append(TableRow(LABELS[name], field.network.parameter_count(), values, PAPER_COSTS[name]))
    notes = [
        f"{size * size:,} points a step (paper: 262,144 on an RTX A6000); means of 5 runs of 3 steps by torch.profiler."
    ]
    title = "Supp. Table 2: average step time and peak memory"
    print(write_table(context, "supp_table2", title, COST_METRICS, table, notes))
