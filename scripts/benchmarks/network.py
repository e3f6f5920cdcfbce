"""What each part of the default network is worth: it, and it without one part, on the same samples for the same time.

All variants see the same batches. "Same time" means that each gets as many steps as take as long as the default's on
this machine, one thread each, timed in turn beforehand. Meshes at 320^3 are measured against the shape in box units;
``spread`` is the standard deviation of the gradient's length on the surface, 0 for a distance.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import print_table, write_rows
from benchmarks.shapes import SHAPES
from torch import Tensor

from sasnet_ns.networks import SASNet, SignedDistanceField
from sasnet_ns.shapes import prepare_shape
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.loop import seeded, train
from sasnet_ns.training.objective import SDFStep
from sdf_tools import evaluate, extract_mesh, sample_surface
from sdf_tools.extraction import drop_specks
from sdf_tools.geometry import Mesh, NormalizedShape
from sdf_tools.pools import PoolConfig, SDFPool

GRID: dict[str, Any] = {
    "grid_levels": 8,
    "grid_log2_entries": 12,
    "grid_min": 8,
    "grid_max": 160,
    "grid_interpolation": "smoothstep",
}
TIMED = 60  # steps of each variant, in turn, before anything is trained


@dataclass
class Row:
    """One fit."""

    shape: str
    variant: str
    seed: int
    parameters: int
    ms_a_step: float
    steps: int
    iou: float
    accuracy: float
    completeness: float
    normal_error_deg: float
    hausdorff: float
    spread: float
    pieces: int


def _without_frequencies(network: SASNet, first: int) -> None:
    with torch.no_grad():
        network.frequencies[first:].zero_()


def variants() -> dict[str, Callable[[], SignedDistanceField]]:
    """The default network, what is left when a part is taken away, and rivals of about its size."""

    def build(name: str, change: Callable[[Any], None] | None = None, **options: Any) -> SignedDistanceField:
        field = SignedDistanceField(name, options)
        if change is not None:
            change(field.network)
        return field

    default = functools.partial(build, "sasnet", preset="sdf_compact")
    return {
        "default": default,
        "no masks": functools.partial(default, masks=False),
        "no high bands": functools.partial(default, lambda n: _without_frequencies(n, n.band_sizes[0])),
        "no frequencies": functools.partial(default, lambda n: _without_frequencies(n, 0)),
        "its grid, ReLU readout": lambda: SignedDistanceField("grid", GRID),
        "the paper's": functools.partial(build, "sasnet-paper"),
        "sasnet-grid": functools.partial(build, "sasnet-grid"),
        "ngp": functools.partial(build, "ngp"),
        "siren": functools.partial(build, "siren"),
    }


def run(json_path: Path | None, quick: bool) -> None:
    """Fit every variant; ``--quick``: a quarter of the steps, two shapes, one seed."""
    torch.set_num_threads(1)
    steps, shapes, seeds = (1250, ["armadillo", "fandisk"], 1) if quick else (5000, list(SHAPES), 3)
    rows: list[Row] = []
    for shape in shapes:
        data = SHAPES[shape]
        if data != shape and not Path(data).is_file():
            print(f"{shape}: skipped, '{data}' is not here")
            continue
        frame = prepare_shape(str(data))
        pool = PoolConfig().build_pool(frame.shape)
        times = step_times(pool)
        for seed in range(seeds):
            for variant, make in variants().items():
                count = round(steps * times["default"] / times[variant])
                rows.append(fit(shape, frame, pool, variant, make, count, seed, times[variant]))
                show(rows)
                write_rows(json_path, rows)


def step_times(pool: SDFPool) -> dict[str, float]:
    """Milliseconds of a step of each variant: the fastest of three rounds in turn."""
    best: dict[str, float] = {}
    for _ in range(3):
        for variant, make in variants().items():
            field = make()
            started = time.perf_counter()
            _train(field, pool, TIMED)
            spent = 1e3 * (time.perf_counter() - started) / TIMED
            best[variant] = min(best.get(variant, spent), spent)
    return best


def _train(field: SignedDistanceField, pool: SDFPool, steps: int) -> None:
    recipe = Recipe(steps=steps)
    losses = SDFStep(field, SDFObjective(), steps)

    def loss_at(step: int) -> Tensor:
        terms, _ = losses.losses(pool.batch(PoolConfig.points_per_batch, step), step)
        return functools.reduce(torch.add, terms.values())

    train(field.network, recipe, loss_at, report_every=steps)


def fit(
    shape: str,
    frame: NormalizedShape,
    pool: SDFPool,
    variant: str,
    make: Callable[[], SignedDistanceField],
    steps: int,
    seed: int,
    step_time: float,
) -> Row:
    """Train one variant and measure its surface."""
    with seeded(seed):
        field = make()
    _train(field, pool, steps)
    mesh, _ = drop_specks(extract_mesh(field, 320))
    truth = frame.shape
    assert isinstance(truth, Mesh)
    result = evaluate(mesh, truth, samples=100_000)
    surface = sample_surface(truth, 20_000, seed=5).points.float()
    slope = field.value_and_gradient(surface)[1].detach().norm(dim=-1)
    return Row(
        shape, variant, seed, field.network.parameter_count(), step_time, steps, result.iou, result.accuracy_mean,
        result.completeness_mean, result.normal_error_mean, result.hausdorff, float(slope.std()),
        result.components_prediction,
    )  # fmt: skip


def show(rows: list[Row]) -> None:
    """The rows so far."""
    numbers = ("seed", "parameters", "ms", "steps", "IoU", "distances, 1e-4", "normals, deg", "Hausdorff", "spread")
    lines = [
        (
            row.shape, row.variant, str(row.seed), f"{row.parameters:,}", f"{row.ms_a_step:.1f}", f"{row.steps:,}",
            f"{row.iou:.4f}", f"{1e4 * row.accuracy:.2f} / {1e4 * row.completeness:.2f}", f"{row.normal_error_deg:.2f}",
            f"{row.hausdorff:.3f}", f"{row.spread:.3f}",
        )
        for row in rows
    ]  # fmt: skip
    print_table("Parts of the default network at equal time", ("shape", "variant"), numbers, lines)
