"""Eight networks trained together (``fit_batch``) against the same eight trained one after the other, on one thread.

Samples are drawn before the clock starts; both ways take the same ones, and turn by turn, twice. Times are those that
the process had the processor for, which other programs disturb less than the wall clock; the smaller of the two counts.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from sasnet_ns.fitting import FittedShape, Recipe, ShapeFit
from sasnet_ns.fitting.batch import train_batch
from sasnet_ns.fitting.shape import fit_prepared, prepare_fit

COUNT = 8
TURNS = 2
SMALL = {
    "preset": "sdf_compact",
    "embedding_width": 64,
    "hidden_widths": (48, 48),
    "groups": (2, 2),
    "grid_levels": 4,
    "grid_log2_entries": 10,
}
CASES = (("small", SMALL, 1_000, 200), ("small", SMALL, 2_500, 200), ("sdf_compact", None, 2_500, 40))
"""Network, its options, points a step, steps."""


@dataclass
class Case:
    """One network and number of points; times are processor seconds of all eight."""

    network: str
    parameters: int
    points: int
    steps: int
    alone_seconds: float
    together_seconds: float
    alone_iou: float
    together_iou: float
    largest_iou_difference: float


def run(json_path: Path | None, quick: bool) -> None:
    """Train by both ways; print the table and write the figures as JSON."""
    from benchmarks.report import print_table, write_rows

    from sasnet_ns.datasets import synthetic_mesh

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    meshes = [synthetic_mesh(seed) for seed in range(COUNT)]
    rows: list[Case] = []
    for name, options, points, steps in CASES[:1] if quick else CASES:
        fit = ShapeFit(network_config=options, pool_size=50_000, points_per_batch=points)
        fit.recipe = Recipe(steps=steps // 10 if quick else steps)
        configs = [fit] * COUNT
        prepared = [prepare_fit(mesh, fit, "cpu") for mesh in meshes]
        short = dataclasses.replace(fit, recipe=Recipe(steps=2))
        train_batch(prepared, [short] * COUNT, progress=False)  # compiles
        fit_prepared(prepared[0], short, progress=False)
        times: list[list[float]] = [[], []]
        fields: list[list[FittedShape]] = [[], []]
        for _ in range(TURNS):
            started = time.process_time()
            fields[0] = [fit_prepared(one, fit, progress=False) for one in prepared]
            between = time.process_time()
            fields[1] = train_batch(prepared, configs, progress=False).fitted
            times[0].append(between - started)
            times[1].append(time.process_time() - between)
        ious = [[one.iou or 0.0 for one in found] for found in fields]
        alone, together = (sum(found) / COUNT for found in ious)
        apart = max(abs(one - other) for one, other in zip(*ious, strict=True))
        size = fields[0][0].field.network.parameter_count()
        rows.append(Case(name, size, points, fit.recipe.steps, min(times[0]), min(times[1]), alone, together, apart))
    torch.set_num_threads(before)
    print_table(
        "",
        ("network",),
        ("weights", "points", "steps", "one by one s", "together s", "ratio", "mean IoU", "together", "apart by"),
        [
            (
                row.network, f"{row.parameters:,}", f"{row.points:,}", str(row.steps), f"{row.alone_seconds:.2f}",
                f"{row.together_seconds:.2f}", f"{row.alone_seconds / row.together_seconds:.2f}",
                f"{row.alone_iou:.4f}", f"{row.together_iou:.4f}", f"{row.largest_iou_difference:.4f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    write_rows(json_path, rows)
