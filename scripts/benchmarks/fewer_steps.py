"""What makes the default network better in the same processor time: where points go, how many, losses and schedules.

One thread. Each way of training gets as many steps as cost what the default's 2,000 do, timed in turn beforehand.
Meshes at 320^3 are measured against the shape in box units, distances both ways at 100,000 points.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.network import MORE_SHAPES, prepared, scanned
from benchmarks.report import print_table, write_rows
from benchmarks.shapes import SHAPES
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.loop import seeded, train
from sasnet_ns.training.objective import SDFStep
from sdf_tools import evaluate, extract_mesh, sample_surface
from sdf_tools.extraction import drop_specks
from sdf_tools.geometry import Mesh, Shape
from sdf_tools.pools import PoolConfig, SDFPool

STEPS, TIMED, WARM = 2000, 90, 3
REDRAWN = 4  # times, where points are drawn by their error
POINTS = PoolConfig.points_per_batch


def growing(done: float) -> int:
    """Half the points of a step, as many, and twice as many, a third of the steps each."""
    return (POINTS // 2, POINTS, 2 * POINTS)[min(2, int(3 * done))]


@dataclass(frozen=True)
class Way:
    """How the default network is trained.

    Attributes:
        points: of a step, by the share of training that is done.
        recipe: changes of :class:`Recipe`.
        objective: changes of :class:`SDFObjective`.
        average: decay of a running mean of the weights, which is what is measured; 0 for the last weights.
        by_error: power of a sample's weighted error by which 80 % of the pool are drawn anew, REDRAWN times; 0: never.
        normals: weight of |grad f - n|^2 at 500 surface points with their normals; 0 leaves it out.
        seed: of the weights and batches.
    """

    points: Callable[[float], int] = lambda _: POINTS
    recipe: tuple[tuple[str, object], ...] = ()
    objective: tuple[tuple[str, object], ...] = ()
    average: float = 0.0
    by_error: float = 0.0
    normals: float = 0.0
    seed: int = 0


WAYS = {
    "default": Way(),
    "default, another seed": Way(seed=1),
    "1,250 points a step": Way(points=lambda _: 1_250),
    "5,000 points a step": Way(points=lambda _: 5_000),
    "1,250, 2,500, then 5,000 points": Way(points=growing),
    "rates end at a tenth, weights averaged": Way(recipe=(("final_factor", 0.1),), average=0.99),
    "the two before together": Way(points=growing, recipe=(("final_factor", 0.1),), average=0.99),
    "points by their error": Way(by_error=1.0),
    "gradients beside distances": Way(normals=0.01),
    "Adam on the hidden matrices": Way(recipe=(("optimizer", "adam"), ("hidden_learning_rate", 2e-3))),
}


@dataclass
class Row:
    """One fit; distances in box units."""

    shape: str
    way: str
    ms_a_step: float
    steps: int
    iou: float = float("nan")
    accuracy: float = float("nan")
    completeness: float = float("nan")
    normal_error_deg: float = float("nan")


def run(json_path: Path | None, quick: bool) -> None:
    """Train every shape in every way; ``--quick``: two shapes, a quarter of the steps."""
    torch.set_num_threads(1)
    shapes = {name: str(data) for name, data in {**SHAPES, **MORE_SHAPES}.items()}
    shapes = {name: data for name, data in shapes.items() if data == name or Path(data).is_file()}
    if quick:
        shapes = {name: data for name, data in shapes.items() if name in ("armadillo", "fandisk")}
    rows = [Row(**row) for row in json.loads(json_path.read_text())] if json_path and json_path.is_file() else []
    times = {row.way: row.ms_a_step for row in rows}
    if times.keys() != WAYS.keys():
        times = step_times(shapes["armadillo"])
    steps = STEPS // 4 if quick else STEPS
    counts = {way: round(steps * times["default"] / times[way]) for way in WAYS}
    known = {(row.shape, row.way) for row in rows}
    for shape, data in shapes.items():
        for way in WAYS:
            if (shape, way) not in known:
                rows.append(fit(shape, data, way, counts[way], times[way]))
                write_rows(json_path, rows)
    show(rows)


def step_times(data: str) -> dict[str, float]:
    """Milliseconds of a step of each way, processor time: the least of three rounds in turn, over a whole schedule."""
    best = dict.fromkeys(WAYS, float("inf"))
    frame, pool = prepared(data)
    for _ in range(3):
        for name, way in WAYS.items():
            clock: list[float] = []
            field = train_way(dataclasses.replace(way, by_error=0.0), frame.shape, pool, TIMED, clock)
            spent = (clock[-1] - clock[WARM]) / (TIMED - 1 - WARM)
            if way.by_error:
                started = time.process_time()
                drawn_by_error(pool, field, way.by_error, torch.Generator())
                spent += REDRAWN * (time.process_time() - started) / STEPS
            best[name] = min(best[name], 1e3 * spent)
    return best


def train_way(
    way: Way, shape: Shape, pool: SDFPool, steps: int, clock: list[float] | None = None
) -> SignedDistanceField:
    """The trained field, or the mean of what it was; ``clock`` takes the processor time after each step."""
    with seeded(way.seed):
        field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    losses = SDFStep(field, SDFObjective(**dict(way.objective)), steps)  # type: ignore[arg-type]
    surface = None
    if way.normals:
        surface = sample_surface(shape, 200_000, seed=way.seed) if isinstance(shape, Mesh) else shape
    mean = AveragedModel(field, multi_avg_fn=get_ema_multi_avg_fn(way.average)) if way.average else None
    generator, dealt = torch.Generator().manual_seed(way.seed), pool

    def loss_at(step: int) -> Tensor:
        nonlocal dealt
        if way.by_error and step and step % max(1, steps // (REDRAWN + 1)) == 0:
            dealt = drawn_by_error(pool, field, way.by_error, generator)
        batch = dealt.batch(way.points(step / steps), step + 100_000 * way.seed)
        terms, _ = losses.losses(batch, step)
        if surface is not None and surface.normals is not None:
            rows = torch.randint(len(surface.points), (500,), generator=generator)
            gradient = field.value_and_gradient(surface.points[rows].float())[1]
            terms["normals"] = way.normals * (gradient - surface.normals[rows].float()).square().sum(-1).mean()
        return functools.reduce(torch.add, terms.values())

    def after_step(done: int) -> None:
        if clock is not None:
            clock.append(time.process_time())
        if mean is not None and done > steps // 2:
            mean.update_parameters(field)

    recipe = dataclasses.replace(Recipe(steps=steps), **dict(way.recipe))  # type: ignore[arg-type]
    train(field.network, recipe, loss_at, after_step=after_step, report_every=steps)
    if mean is not None:
        field.load_state_dict(mean.module.state_dict())
    return field


@torch.no_grad()
def drawn_by_error(pool: SDFPool, field: SignedDistanceField, power: float, generator: torch.Generator) -> SDFPool:
    """A pool of the same size and kinds: a fifth as it comes, the rest by the error of the field at its points."""
    parts = zip(pool.points.split(1 << 16), pool.sdf.split(1 << 16), strict=True)
    error = torch.cat([(field(points) - sdf).abs() for points, sdf in parts])
    weight = (error * (SDFObjective.near / (pool.sdf.abs() + SDFObjective.near)).clamp_min(0.003)).pow(power)
    chosen, begin = [], 0
    for held in pool.counts:
        part = weight[begin : begin + held]
        if held:
            chosen.append(begin + torch.multinomial(0.2 + 0.8 * part / part.mean(), held, True, generator=generator))
        begin += held
    rows = torch.cat(chosen)
    return SDFPool(pool.points[rows], pool.sdf[rows], pool.kind[rows], pool.counts)


def fit(shape: str, data: str, way: str, steps: int, step_time: float) -> Row:
    """Train and measure; numbers are NaN where there is no surface."""
    frame, pool = prepared(data)
    truth = frame.shape if isinstance(frame.shape, Mesh) else scanned(frame)
    row = Row(shape, way, step_time, steps)
    try:
        mesh, _ = drop_specks(extract_mesh(train_way(WAYS[way], frame.shape, pool, steps), 320))
    except ValueError as error:
        print(f"{shape}, {way}: {error}")
        return row
    result = evaluate(mesh, truth, samples=100_000)
    print(f"{shape:<12} {way:<40} {result.iou:.4f} {1e4 * result.accuracy_mean:.2f}", flush=True)
    return dataclasses.replace(
        row, iou=result.iou, accuracy=result.accuracy_mean, completeness=result.completeness_mean,
        normal_error_deg=result.normal_error_mean,
    )  # fmt: skip


def show(rows: list[Row]) -> None:
    """Each way against the default: geometric means of ratios over the shapes, and on how many it is closer."""
    found = {(row.way, row.shape): row for row in rows}
    shapes = sorted({row.shape for row in rows})
    shapes = [shape for shape in shapes if all((way, shape) in found for way in WAYS)]
    lines = []
    for way in WAYS:
        pairs = [(found[(way, shape)], found[("default", shape)]) for shape in shapes]
        distances = [(a.accuracy + a.completeness) / (b.accuracy + b.completeness) for a, b in pairs]
        normals = [a.normal_error_deg / b.normal_error_deg for a, b in pairs]
        outside = [(1 - a.iou) / (1 - b.iou) for a, b in pairs]
        lines.append((
            way, f"{pairs[0][0].ms_a_step:.1f}", f"{pairs[0][0].steps:,}", f"{statistics.geometric_mean(outside):.3f}",
            f"{statistics.geometric_mean(distances):.3f}", f"{statistics.geometric_mean(normals):.3f}",
            f"{sum(ratio < 1 for ratio in distances)} of {len(shapes)}",
        ))  # fmt: skip
    print_table(
        f"Over the default's, {len(shapes)} shapes, geometric means", ("way",),
        ("ms", "steps", "1 - IoU", "distances", "normals", "closer on"), lines,
    )  # fmt: skip
