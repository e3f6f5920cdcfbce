"""Training steps: recorded ones beside the ordinary loop, a default fit, the paper's presets, benchmarks."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gpu_checks import brute_force
from gpu_checks.context import Context, Row, largest
from sasnet_ns.fitting import Recipe, SDFObjective
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import GridFit, GridLoss
from sasnet_ns.fitting.toy_image import toy_image
from sasnet_ns.networks import Network, SignedDistanceField
from sasnet_ns.shapes.named import resolve_shape
from sasnet_ns.training.device_steps import DeviceSteps, why_no_graph
from sasnet_ns.training.loop import History, seeded, train
from sasnet_ns.training.objective import SDFStep
from sasnet_ns.training.recipe import build_optimizers, learning_rate_factor
from sdf_tools.chunks import in_chunks
from sdf_tools.geometry import Mesh, NormalizedShape, normalize
from sdf_tools.pools import PoolConfig, SDFPool

GOAL = 0.995
"""Intersection over union that a fit is timed to."""
PAPER_SDF = Recipe(
    steps=2_000, optimizer="adam", learning_rate=1e-4, mask_learning_rate=5e-4, warmup_steps=1, schedule="constant"
)
"""Rates of ``configs/sdf_paper_armadillo.yaml`` and ``configs/image_paper.yaml``."""


def ball_pool(context: Context, count: int) -> SDFPool:
    """Points in the box with their distances to a ball."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator) - 0.5
    counts = (count - 2 * (count // 3), count // 3, count // 3)
    kind = torch.repeat_interleave(torch.arange(3, dtype=torch.uint8), torch.tensor(counts))
    return SDFPool(points, points.norm(dim=1) - 0.3, kind, counts).to(context.device)


def run_of(
    field: SignedDistanceField, pool: SDFPool, points: int, recipe: Recipe, objective: SDFObjective, way: str
) -> Callable[[int], list[Tensor]]:
    """A run that goes on by some steps at each call and returns their losses, unread.

    Args:
        field: trained in place.
        pool: its samples.
        points: of a batch.
        recipe: rates.
        objective: loss terms.
        way: ``loop`` (losses and optimisers as the ordinary loop has them), ``step`` (a step at a time by
            :class:`DeviceSteps`), or ``ten``.
    """
    optimizers = build_optimizers(field.network, recipe)
    peaks = [o.param_groups[0]["lr"] for o in optimizers.values()]
    done = 0

    def rates_at(step: int) -> list[float]:
        return [peak * learning_rate_factor(step, recipe) for peak in peaks]

    ordinary = SDFStep(field, objective, recipe.steps)
    alone = None
    if way != "loop":
        graph = why_no_graph(field, objective) is None
        alone = DeviceSteps(field, objective, pool, points, recipe.steps, optimizers.values(), rates_at, graph=graph)

    def one(step: int) -> Tensor:
        for optimizer, rate in zip(optimizers.values(), rates_at(step), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        loss = functools.reduce(torch.add, ordinary.losses(pool.batch(points, step), step)[0].values())
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return loss.detach()

    def go_on(count: int) -> list[Tensor]:
        nonlocal done
        losses: list[Tensor] = []
        until = done + count
        while done < until:
            if alone is None:
                losses.append(one(done))
                done += 1
            else:
                size = 10 if way == "ten" and until - done >= 10 else 1
                losses.extend(alone.run(done, size)[:, 0])
                done += size
        if graph_lost(alone):
            raise RuntimeError("the steps could not be recorded; the warning above says why")
        return losses

    def graph_lost(steps: DeviceSteps | None) -> bool:
        return steps is not None and not steps.graph and why_no_graph(field, objective) is None

    return go_on


def recorded(context: Context) -> Iterator[Row]:
    """Recorded steps beside the ordinary loop: the same losses, and what a step takes, in turns."""
    pool = ball_pool(context, 3_000 if context.tiny else 200_000)
    points, steps = (60, 20) if context.tiny else (2_500, 40)
    small = {"embedding_width": 16, "hidden_widths": (24,), "groups": (4,), "grid_levels": 2}
    networks: dict[str, tuple[str, dict[str, Any]]] = {
        "sasnet, default": ("sasnet", small if context.tiny else {"preset": "sdf_compact"}),
        "sasnet-grid": ("sasnet", small if context.tiny else {"preset": "sdf_grid"}),
        "siren": ("siren", {"width": 16} if context.tiny else {}),
        "ngp": ("ngp", {"levels": 2} if context.tiny else {}),
    }
    objectives = {"": SDFObjective(), ", Eikonal term": SDFObjective(eikonal_weight=0.1, eikonal_points=500)}
    for (label, (name, options)), (term, objective) in (
        (n, o) for n in networks.items() for o in objectives.items() if n[0] == "sasnet, default" or not o[0]
    ):
        recipe = Recipe(steps=20_000, warmup_steps=steps)
        with seeded(0):
            first = SignedDistanceField(name, options).to(context.device)
        runs = {
            way: run_of(copy.deepcopy(first), pool, points, recipe, objective, way) for way in ("loop", "step", "ten")
        }
        losses = {way: [float(x) for x in run(steps)] for way, run in runs.items()}
        row: Row = {"name": label + term, "points": points}
        for way in ("step", "ten"):
            differences = [abs(a - b) / abs(b) for a, b in zip(losses[way], losses["loop"], strict=True)]
            row[f"{way}: largest difference of losses"] = largest(differences)
        times: dict[str, list[float]] = {way: [] for way in runs}
        block = 10 if context.tiny else 100
        for _ in range(2 if context.tiny else 5):
            for way, run in runs.items():
                times[way].append(1e3 * context.seconds(functools.partial(run, block)) / block)
        for way in runs:
            row[f"{way}, ms"] = statistics.median(times[way])
        yield {
            **row,
            "ok": largest(row[f"{way}: largest difference of losses"] for way in ("step", "ten")) < 0.01,
        }


def armadillo(context: Context, config: PoolConfig) -> tuple[NormalizedShape, SDFPool, Tensor, Tensor, str]:
    """The shape in box units, its pool, points of its bounding box and whether they are inside, and how."""
    mesh = resolve_shape("armadillo")
    assert isinstance(mesh, Mesh)
    frame = normalize(mesh)
    shape = frame.shape
    assert isinstance(shape, Mesh)
    low, high = shape.vertices.double().amin(0), shape.vertices.double().amax(0)
    exact = importlib.util.find_spec("numba") is not None
    probes = 50 if context.tiny else 1_000_000 if exact else 200_000
    unit = torch.rand(probes, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probe = low + (high - low) * unit
    if exact:
        from sdf_tools.distance import SignedDistance

        distance = SignedDistance(shape)
        pool = config.build_pool(shape, distance=distance).to(context.device)
        inside = distance.contains(probe).to(context.device)
        how = "numba"
    else:
        config = dataclasses.replace(config, pool_size=min(config.pool_size, 250_000))
        pool = brute_force.build_pool(shape.vertices, shape.faces, config, context.device)
        where = probe.to(context.device)
        inside = (
            brute_force.signed_distance(where, shape.vertices.to(context.device), shape.faces.to(context.device)) < 0
        )
        how = f"torch, every triangle: numba is missing, so the pool has {config.pool_size:,} points"
    return frame, pool, probe.float().to(context.device), inside, how


def fit(context: Context) -> Iterator[Row]:
    """A fit of the bundled Armadillo with everything at its default, and when it passes the goal."""
    tiny = context.tiny
    started = time.perf_counter()
    frame, pool, probe, inside, how = armadillo(context, PoolConfig(pool_size=100 if tiny else 1_000_000))
    prepared = time.perf_counter() - started
    options = {"embedding_width": 16, "hidden_widths": (24,), "groups": (4,)} if tiny else {}
    recipe, points = Recipe(steps=20 if tiny else 5_000), 20 if tiny else 2_500
    every, objective = 10 if tiny else 250, SDFObjective()
    for graph in (True, False) if context.cuda else (False,):
        with seeded(0):
            field = SignedDistanceField("sasnet", {"preset": "sdf_compact", **options}, frame.center, frame.scale)
            field = field.to(context.device)

        @torch.no_grad()
        def iou(field: SignedDistanceField = field) -> float:
            found = in_chunks(field, probe) < 0
            return float((found & inside).sum() / (found | inside).sum().clamp_min(1))

        ordinary = SDFStep(field, objective, recipe.steps)

        def loss_at(step: int, ordinary: SDFStep = ordinary) -> Tensor:
            return functools.reduce(torch.add, ordinary.losses(pool.batch(points, step), step)[0].values())

        def make(optimizers: Any, rates_at: Any, field: SignedDistanceField = field) -> DeviceSteps:
            return DeviceSteps(field, objective, pool, points, recipe.steps, optimizers, rates_at)

        history = train(
            field.network, recipe, loss_at, evaluate=iou, evaluate_every=every, history=History(),
            make_steps=make if graph else None,
        )  # fmt: skip
        seen = [(step, s, v) for step, s, v in zip(history.step, history.seconds, history.psnr, strict=True) if v == v]
        passed = next(((step, seconds) for step, seconds, value in seen if value >= GOAL), None)
        yield {
            "name": "recorded steps" if graph else "ordinary steps",
            "distances": how,
            "samples prepared, s": prepared,
            "steps": recipe.steps,
            "training, s": history.seconds[-1],
            "ms a step": 1e3 * history.seconds[-1] / recipe.steps,
            "IoU": seen[-1][2],
            "points of the IoU": len(probe),
            f"passes {GOAL} at step": "not reached" if passed is None else passed[0],
            f"passes {GOAL} after, s": "not reached" if passed is None else passed[1],
        }


def in_turns(context: Context, runs: dict[str, Callable[[int], object]], steps: int, block: int) -> Iterator[Row]:
    """Rows of runs that take turns: milliseconds a step and the ratio to the first, medians over the turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(block)  # compiles and records
    for _ in range(max(1, steps // block - 1)):
        for name, run in runs.items():
            times[name].append(1e3 * context.seconds(functools.partial(run, block)) / block)
    base = times[next(iter(runs))]
    for name, values in times.items():
        ratios = [own / other for own, other in zip(values, base, strict=True)]
        yield {
            "name": name,
            "steps": block * (len(values) + 1),
            "ms a step": statistics.median(values),
            "over SIREN": statistics.median(ratios),
        }


def paper_sdf(context: Context) -> Iterator[Row]:
    """The paper's SDF networks on 10,000 points a step at its rates: SASNet's step over SIREN's."""
    points, steps, block = (100, 20, 10) if context.tiny else (10_000, PAPER_SDF.steps, 100)
    pool = ball_pool(context, 3_000 if context.tiny else 500_000)
    ways = ("loop", "ten") if context.cuda else ("loop",)
    options: dict[str, dict[str, Any]] = {"siren": {}, "sasnet": {}}
    if context.tiny:
        options = {"siren": {"width": 16}, "sasnet": {"embedding_width": 16, "hidden_widths": (24,), "groups": (4,)}}
    for way in ways:
        runs: dict[str, Callable[[int], object]] = {}
        for name, values in options.items():
            with seeded(0):
                field = SignedDistanceField(name, values).to(context.device)
            label = f"{name}, {'recorded' if way == 'ten' else 'ordinary'} steps"
            runs[label] = run_of(field, pool, points, PAPER_SDF, SDFObjective(loss="coarse_to_fine"), way)
        yield from in_turns(context, runs, steps, block)


def paper_image(context: Context) -> Iterator[Row]:
    """The paper's image networks on all pixels of a picture at its rates: SASNet's step over SIREN's."""
    size, steps, block = (32, 20, 10) if context.tiny else (256, PAPER_SDF.steps, 100)
    signal = toy_image(size)
    runs: dict[str, Callable[[int], object]] = {}
    presets: dict[str, dict[str, Any]] = {"siren": {"preset": "image"}, "sasnet": {"preset": "image"}}
    for name, options in presets.items():
        with seeded(0):
            field = GridField(signal.grid, signal.channels, name, options).to(context.device)
        loss = GridLoss(field, field.target(signal.values).to(context.device), GridFit(network=name))
        runs[f"{name}, {size} x {size} pixels"] = _image_run(field.network, loss)
    yield from in_turns(context, runs, steps, block)


def _image_run(network: Network, loss_at: GridLoss) -> Callable[[int], object]:
    optimizers = list(build_optimizers(network, PAPER_SDF).values())

    def go_on(count: int) -> None:
        for _ in range(count):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss_at(0).backward()
            for optimizer in optimizers:
                optimizer.step()

    return go_on


def step_benchmark(context: Context) -> Iterator[Row]:
    """``scripts/benchmark.py step``."""
    from benchmarks import step

    for points in (200,) if context.tiny else (10_000, 262_144) if context.cuda else (10_000,):
        for row in step.time_networks(points, context.device, 1 if context.tiny else 3):
            yield {"name": f"{row.network} by {row.backend}, {row.work}", **_figures(row)}


def inference(context: Context) -> Iterator[Row]:
    """Evaluation of a field by the kernels and by plain torch."""
    from benchmarks import inference

    from sasnet_ns.networks.export import portable

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4_096 if context.tiny else 1 << 22, 3, generator=generator).to(context.device) - 0.5
    networks = {**inference.NETWORKS, "sasnet, default": ("sasnet", {"preset": "sdf_compact"})}
    for label, (name, values) in networks.items():
        with seeded(0):
            field = SignedDistanceField(name, values).to(context.device).eval().requires_grad_(False)
        for way, function in (("kernels", field), ("torch", portable(field).to(context.device))):
            for chunk in (2_048,) if context.tiny else (262_144, 1 << 20):
                with torch.no_grad():
                    inference.evaluate(function, points, chunk)
                    seconds = [
                        context.seconds(functools.partial(inference.evaluate, function, points, chunk))
                        for _ in range(3)
                    ]
                rate = points.shape[0] / statistics.median(seconds) / 1e6
                yield {"name": f"{label} by {way}", "chunk": chunk, "million points a second": rate}


def kernel_benchmark(context: Context) -> Iterator[Row]:
    """``scripts/benchmark.py kernels --quick``."""
    from benchmarks import kernels

    points = 200 if context.tiny else 10_000 if not context.cuda else 262_144
    for time_one in (kernels.time_masked_sine, kernels.time_loss, kernels.time_decoder, kernels.time_hash_grid):
        for row in time_one(points, context.device, 1.0, True):
            yield {"name": f"{row.kernel} by {row.backend}, {row.work}", "points": row.points, "ms": row.milliseconds}


def registers(context: Context) -> Iterator[Row]:
    """``scripts/benchmark.py registers --quick``, for this device."""
    from benchmarks import registers

    if context.cuda:
        major, minor = torch.cuda.get_device_capability(context.device)
        registers.CAPABILITY = 10 * major + minor
    cases = registers.cases(quick=True)
    for name, case in list(cases.items())[: 2 if context.tiny else None]:
        usage = registers.compile_kernel(name, *case)
        yield {
            "name": name,
            "registers": usage.registers,
            "stack": usage.stack,
            "shared": usage.shared,
            "ok": usage.stack == 0,
        }


def _figures(row: Any) -> Row:
    return {"points": row.points, "ms": row.milliseconds, "over SIREN": row.over_siren, "peak MB": row.peak_mb}
