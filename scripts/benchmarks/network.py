"""What each part of the default network is worth: it, and it without one part, on the same samples for the same time.

One thread a fit, as many fits at once as there are cores. "Same time" means that each variant gets as many steps as
take as long as the default's, timed in turn beforehand. Every variant first tries its learning rates divided by 3, as
they are and times 3 on the Armadillo, and keeps what comes closest to the shape. The rows of one seed see the same
batches; another seed others. Meshes at 320^3 are measured against the shape in box units; ``spread`` is the standard
deviation of the gradient's length on the surface, 0 for a distance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import print_table, write_rows
from benchmarks.shapes import SHAPES, SHARED
from torch import Tensor

from sasnet_ns.networks import SASNet, SASNetConfig, SignedDistanceField
from sasnet_ns.networks.layers import linears
from sasnet_ns.shapes import prepare_shape
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.loop import seeded, train
from sasnet_ns.training.objective import SDFStep
from sdf_tools import evaluate, extract_mesh, sample_surface
from sdf_tools.extraction import drop_specks
from sdf_tools.geometry import Mesh, NormalizedShape
from sdf_tools.io.loading import load
from sdf_tools.pools import PoolConfig, SDFPool

MORE_SHAPES = {
    "spot": SHARED / "meshes" / "spot.obj",
    "ADIS16480": SHARED / "meshes" / "ADIS16480.stl",
    "bunny scans": SHARED / "meshes" / "bunny_raw_scans_362k.npz",
}
SCANNED = SHARED / "meshes" / "bunny_zippered.ply"  # what the scans are measured against; its base is open
GRID: dict[str, Any] = {
    "grid_levels": 8,
    "grid_log2_entries": 12,
    "grid_min": 8,
    "grid_max": 160,
    "grid_interpolation": "smoothstep",
}
STEPS = 3000  # of the default network
TIMED = 60  # steps of each variant, in turn, before anything is trained
RATES = (1 / 3, 1.0, 3.0)
ONE_SEED = (
    "ReLU for hidden sines",
    "no frequencies",
    "sasnet-grid",
    "ngp",
    "siren",
)  # the others have three


@dataclass
class Row:
    """One fit."""

    shape: str
    variant: str
    seed: int
    rate: float
    parameters: int
    ms_a_step: float
    steps: int
    iou: float = float("nan")
    accuracy: float = float("nan")
    completeness: float = float("nan")
    normal_error_deg: float = float("nan")
    hausdorff: float = float("nan")
    spread: float = float("nan")
    pieces: int = 0


class ReLUNetwork(SASNet):
    """The network with ReLU in place of the hidden sines; embedding, masks and widths as they are."""

    def __init__(self, config: SASNetConfig) -> None:
        super().__init__(config)
        for layer in linears(self.hidden):
            torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor, bands: int | None = None) -> Tensor:
        """See :meth:`SASNet.forward`; ``bands`` is not looked at."""
        points = x.reshape(-1, self.in_dim)
        masks = self.masks(points)
        h = self._embed(points, masks[0], list(self.band_sizes[1:]), sum(self.band_sizes))
        for layer, mask in zip(linears(self.hidden), masks[1:], strict=True):
            h = layer(h).relu()
            if mask is not None:
                h = h * mask.repeat_interleave(layer.out_features // mask.shape[-1], dim=-1)
        return self.output(h).reshape(*x.shape[:-1], self.out_dim)


def _default(change: Callable[[Any], None] | None = None, **options: Any) -> SignedDistanceField:
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact", **options})
    if change is not None:
        change(field.network)
    return field


def _relu() -> SignedDistanceField:
    field = _default()
    assert isinstance(field.network, SASNet)
    field.network = ReLUNetwork(field.network.config)
    return field


def _without_frequencies(network: SASNet, first: int) -> None:
    with torch.no_grad():
        network.frequencies[first:].zero_()


VARIANTS: dict[str, Callable[[], SignedDistanceField]] = {
    "default": _default,
    "no masks": functools.partial(_default, masks=False),
    "ReLU for hidden sines": _relu,
    "no high bands": functools.partial(_default, lambda n: _without_frequencies(n, n.band_sizes[0])),
    "no frequencies": functools.partial(_default, lambda n: _without_frequencies(n, 0)),
    "its grid, ReLU readout": lambda: SignedDistanceField("grid", GRID),
    "the paper's": lambda: SignedDistanceField("sasnet-paper", {}),
    "sasnet-grid": lambda: SignedDistanceField("sasnet-grid", {}),
    "ngp": lambda: SignedDistanceField("ngp", {}),
    "siren": lambda: SignedDistanceField("siren", {}),
}


def run(json_path: Path | None, quick: bool) -> None:
    """Fit every variant; ``--quick``: a quarter of the steps, two shapes, one seed, rates as they are."""
    shapes = {name: str(data) for name, data in {**SHAPES, **MORE_SHAPES}.items()}
    shapes = {name: data for name, data in shapes.items() if data == name or Path(data).is_file()}
    steps, seeds = STEPS, 3
    if quick:
        shapes = {name: data for name, data in shapes.items() if name in ("armadillo", "fandisk")}
        steps, seeds = STEPS // 4, 1
    for name in ({*SHAPES, *MORE_SHAPES} - shapes.keys()) if not quick else ():
        print(f"{name}: skipped, its file is not here")
    workers = os.cpu_count() or 1
    # Spawned: a fork would share the parent's thread pools, which do not survive it.
    context = multiprocessing.get_context("spawn")
    rates_path = None if json_path is None else json_path.with_suffix(".rates.json")
    tried, rows = _written(rates_path), _written(json_path)  # what an earlier call has done is kept
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as executor:
        times = {row.variant: row.ms_a_step for row in [*tried, *rows]}
        if times.keys() != VARIANTS.keys():
            timed = list(executor.map(step_times, [shapes["armadillo"]] * workers))
            times = {variant: statistics.mean(each[variant] for each in timed) for variant in VARIANTS}
            # What the machine would need for ReLU in one pass is not known; autograd's time would be unfair to it.
            times["ReLU for hidden sines"] = 0.8 * times["default"]
        counts = {variant: round(steps * times["default"] / spent) for variant, spent in times.items()}

        def fits(jobs: list[tuple[str, str, int, float]], done: list[Row], path: Path | None) -> None:
            known = {(row.shape, row.variant, row.seed, row.rate) for row in done}
            futures = [
                executor.submit(fit, shape, shapes[shape], variant, counts[variant], seed, rate, times[variant])
                for shape, variant, seed, rate in jobs
                if (shape, variant, seed, rate) not in known
            ]
            for future in as_completed(futures):
                done.append(future.result())
                write_rows(path, done)

        rates = dict.fromkeys(VARIANTS, 1.0)
        if not quick:
            fits([("armadillo", variant, 0, rate) for variant in VARIANTS for rate in RATES], tried, rates_path)
            for variant in VARIANTS:
                rates[variant] = min((row for row in tried if row.variant == variant), key=_distance).rate
            show("Learning rates", tried)
        jobs = [
            (shape, variant, seed, rates[variant])
            for shape in shapes
            for variant in VARIANTS
            for seed in range(1 if variant in ONE_SEED else seeds)
        ]
        fits(jobs, rows, json_path)
    show("Parts of the default network at equal time, every fit", rows)
    summarize(rows)


def _written(path: Path | None) -> list[Row]:
    return [] if path is None or not path.is_file() else [Row(**row) for row in json.loads(path.read_text())]


def _distance(row: Row) -> float:
    mean = row.accuracy + row.completeness
    return mean if mean == mean else float("inf")


@functools.lru_cache(2)
def prepared(data: str) -> tuple[NormalizedShape, SDFPool]:
    frame = prepare_shape(data)
    return frame, PoolConfig().build_pool(frame.shape)


def scanned(frame: NormalizedShape) -> Mesh:
    """The mesh that the scans' authors made of them, in box units."""
    mesh = load(SCANNED)
    assert isinstance(mesh, Mesh)
    return dataclasses.replace(mesh, vertices=frame.to_box(mesh.vertices))


def step_times(data: str) -> dict[str, float]:
    """Milliseconds of a step of each variant: the fastest of three rounds in turn."""
    best: dict[str, float] = {}
    for _ in range(3):
        for variant, make in VARIANTS.items():
            field = make()
            started = time.perf_counter()
            train_variant(field, prepared(data)[1], TIMED, 0, 1.0)
            spent = 1e3 * (time.perf_counter() - started) / TIMED
            best[variant] = min(best.get(variant, spent), spent)
    return best


def train_variant(field: SignedDistanceField, pool: SDFPool, steps: int, seed: int, rate: float) -> None:
    recipe = Recipe(steps=steps)
    for name in ("learning_rate", "hidden_learning_rate", "mask_learning_rate"):
        setattr(recipe, name, rate * getattr(recipe, name))
    losses = SDFStep(field, SDFObjective(), steps)

    def loss_at(step: int) -> Tensor:
        terms, _ = losses.losses(pool.batch(PoolConfig.points_per_batch, step + 100_000 * seed), step)
        return functools.reduce(torch.add, terms.values())

    train(field.network, recipe, loss_at, report_every=steps)


def fit(shape: str, data: str, variant: str, steps: int, seed: int, rate: float, step_time: float) -> Row:
    """Train one variant and measure its surface; numbers are NaN for one without any."""
    frame, pool = prepared(data)
    with seeded(seed):
        field = VARIANTS[variant]()
    truth = frame.shape if isinstance(frame.shape, Mesh) else scanned(frame)
    row = Row(shape, variant, seed, rate, field.network.parameter_count(), step_time, steps)
    try:
        train_variant(field, pool, steps, seed, rate)
        mesh, _ = drop_specks(extract_mesh(field, 320))
    except ValueError as error:  # it diverged, or has no surface
        print(f"{shape}, {variant}, rates times {rate:.2f}: {error}")
        return row
    result = evaluate(mesh, truth, samples=100_000)
    surface = sample_surface(truth, 20_000, seed=5).points.float()
    slope = field.value_and_gradient(surface)[1].detach().norm(dim=-1)
    return dataclasses.replace(
        row, iou=result.iou, accuracy=result.accuracy_mean, completeness=result.completeness_mean,
        normal_error_deg=result.normal_error_mean, hausdorff=result.hausdorff, spread=float(slope.std()),
        pieces=result.components_prediction,
    )  # fmt: skip


def show(title: str, rows: list[Row]) -> None:
    """One line a fit."""
    numbers = (
        "seed",
        "rates",
        "parameters",
        "ms",
        "steps",
        "IoU",
        "distances, 1e-4",
        "normals, deg",
        "Hausdorff",
        "spread",
    )
    lines = [
        (
            row.shape, row.variant, str(row.seed), f"{row.rate:.2g}", f"{row.parameters:,}", f"{row.ms_a_step:.1f}",
            f"{row.steps:,}", f"{row.iou:.4f}", f"{1e4 * row.accuracy:.2f} / {1e4 * row.completeness:.2f}",
            f"{row.normal_error_deg:.2f}", f"{row.hausdorff:.3f}", f"{row.spread:.3f}",
        )
        for row in sorted(rows, key=lambda row: (row.shape, list(VARIANTS).index(row.variant), row.seed, row.rate))
    ]  # fmt: skip
    print_table(title, ("shape", "variant"), numbers, lines)


def summarize(rows: list[Row]) -> None:
    """Each variant against the default: mean over shapes of the ratios, and on how many shapes it is clearly worse.

    Clearly: by more than the spread (largest less smallest) of either's seeds.
    """
    by_shape: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_shape.setdefault((row.variant, row.shape), []).append(row)
    shapes = sorted({row.shape for row in rows})
    lines = []
    for variant in VARIANTS:
        cells = []
        for value in (_distance, lambda row: row.normal_error_deg, lambda row: row.spread):
            ratios, worse, better = [], 0, 0
            for shape in shapes:
                own = [value(row) for row in by_shape[("default", shape)]]
                other = [value(row) for row in by_shape[(variant, shape)]]
                difference = statistics.mean(other) - statistics.mean(own)
                noise = max(max(own) - min(own), max(other) - min(other))
                ratios.append(statistics.mean(other) / statistics.mean(own))
                worse, better = worse + (difference > noise), better + (-difference > noise)
            cells.append(f"{statistics.geometric_mean(ratios):.2f} ({worse} worse, {better} better)")
        fits = [row for row in rows if row.variant == variant]
        farthest = max(fits, key=lambda row: row.hausdorff)
        cells.append(f"{farthest.hausdorff:.3f} ({farthest.shape}; {len(fits)} fits)")
        first = fits[0]
        lines.append((variant, f"{first.parameters:,}", f"{first.ms_a_step:.1f}", f"{first.steps:,}", *cells))
    print_table(
        f"Against the default, {len(shapes)} shapes, geometric mean (shapes beyond the seeds' spread)", ("variant",),
        ("parameters", "ms", "steps", "distances", "normals", "spread of |grad f|", "largest Hausdorff"), lines,
    )  # fmt: skip
