"""A training step by autograd and in one pass, beside the least that its arithmetic takes here.

A step is values, loss and every gradient on a batch, without the optimizer. Its products are timed with ``torch.mm`` on
preallocated matrices of the same shapes (three a layer), its sines with the polynomials of the kernels on numbers that
stay in the first-level cache. All take turns, so that what else the machine does hits all alike: times are those of the
fastest round, ratios are medians over the rounds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from sasnet_ns.kernels import PointLoss, StepForm
from sasnet_ns.kernels._numba_sine import _sincos
from sasnet_ns.networks import Network, build_network, fused_step, sized_options
from sdf_tools.losses import distance_weighted_loss

SASNET_128 = {
    "embedding_width": 128,
    "hidden_widths": (128, 128),
    "groups": (8, 8),
    "grid_levels": 8,
    "grid_log2_entries": 12,
}
SASNET_96 = {**SASNET_128, "embedding_width": 96, "hidden_widths": (96, 96), "groups": (12, 12)}
LOSS = {"near": 2.5e-4, "far_weight": 0.03}


@dataclass
class Row:
    """One network at one number of points and threads; milliseconds are those of the fastest round."""

    network: str
    parameters: int
    points: int
    threads: int
    autograd: float
    """Milliseconds."""
    fused: float
    products: float
    sines: float
    over_limit: float
    """Median over the rounds of the fused step divided by products and sines of the same round."""
    gain: float
    """The same of autograd's step divided by the fused one."""
    over_siren: float
    """The same of the fused step divided by that of a SIREN with as many parameters as the first network."""


def run(json_path: Path | None, quick: bool) -> None:
    """Time every network; print a table for each number of threads and points, and write the figures as JSON."""
    sizes = (2_500,) if quick else (2_500, 10_000)
    before, rows = torch.get_num_threads(), []
    for threads in sorted({1, min(2, before), before}):
        torch.set_num_threads(threads)
        for points in sizes:
            rows += time_networks(points, 9 if quick else 25)
    torch.set_num_threads(before)
    show(rows)
    if json_path is not None:
        partial = json_path.with_suffix(".part")
        partial.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        partial.replace(json_path)


def candidates() -> dict[str, Network]:
    """Networks by label; the second has the first one's number of parameters."""
    torch.manual_seed(0)
    first = build_network("sasnet", 3, 1, **SASNET_128)
    return {
        "sasnet 128, 128+128": first,
        "siren, as many": build_network("siren", 3, 1, **sized_options("siren", 3, 1, first.parameter_count())),
        "sasnet 96, 96+96": build_network("sasnet", 3, 1, **SASNET_96),
        "sasnet sdf": build_network("sasnet", 3, 1, preset="sdf"),
        "sasnet sdf_grid": build_network("sasnet", 3, 1, preset="sdf_grid"),
        "siren 256": build_network("siren", 3, 1),
        "ngp": build_network("ngp", 3, 1),
        "finer 256": build_network("finer", 3, 1),
        "gauss 256": build_network("gauss", 3, 1),
        "wire 181": build_network("wire", 3, 1),
    }


def time_networks(points: int, rounds: int) -> list[Row]:
    """Rows of every network, measured in turns."""
    networks = candidates()
    works = {label: passes(network, points) for label, network in networks.items()}
    times: dict[tuple[str, str], list[float]] = {}
    threads = torch.get_num_threads()
    for count in track(range(rounds + 2), description=f"{points:,} points, {threads} threads"):
        for label, kinds in works.items():
            for kind, work in kinds.items():
                started = time.perf_counter()
                work()
                if count > 1:  # the first rounds compile and allocate
                    times.setdefault((label, kind), []).append(1e3 * (time.perf_counter() - started))
    siren = times["siren, as many", "fused"]
    rows = []
    for label, network in networks.items():
        autograd, fused, products = (times[label, kind] for kind in ("autograd", "fused", "products"))
        sines = [value / threads for value in times[label, "sines"]]
        limits = [a + b for a, b in zip(products, sines, strict=True)]
        best = [min(values) for values in (autograd, fused, products, sines)]
        ratios = [median_ratio(a, b) for a, b in ((fused, limits), (autograd, fused), (fused, siren))]
        rows.append(Row(label, network.parameter_count(), points, threads, *best, *ratios))
    return rows


def median_ratio(values: list[float], others: list[float]) -> float:
    """Median over the rounds."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def passes(network: Network, points: int) -> dict[str, Callable[[], object]]:
    """The step both ways, and its arithmetic alone."""
    x = torch.rand(points, 3) - 0.5
    target = x.norm(dim=-1, keepdim=True) - 0.3
    step = fused_step(network)
    if step is None:
        raise ValueError("the fused step needs numba on a CPU.")
    loss = PointLoss(1, near=LOSS["near"], far_weight=LOSS["far_weight"])

    def autograd() -> None:
        network.zero_grad(set_to_none=True)
        distance_weighted_loss(network(2 * x), target, **LOSS).backward()

    return {
        "autograd": autograd,
        "fused": lambda: step(x, target, loss, scale=2.0),
        "products": products(step.form, points),
        "sines": sines(step.form, points),
    }


def products(form: StepForm, points: int) -> Callable[[], None]:
    """Forward, by the input and by the weights, of every layer that does not read the coordinates."""
    jobs: list[tuple[Tensor, ...]] = []
    for layer in (*form.decoder, *form.layers):
        outputs, inputs = layer.weight.shape
        if inputs > form.in_dim:
            h, g = torch.rand(points, inputs), torch.rand(points, outputs)
            results = (torch.empty(points, outputs), torch.empty(points, inputs), torch.empty(outputs, inputs))
            jobs.append((layer.weight.detach(), h, g, *results))

    def work() -> None:
        for weight, h, g, z, by_input, by_weight in jobs:
            torch.mm(h, weight.t(), out=z)
            torch.mm(g, weight, out=by_input)
            torch.mm(g.t(), h, out=by_weight)

    return work


def sines(form: StepForm, points: int) -> Callable[[], None]:
    """Sine and cosine of every neuron at every point, on one thread; they stand for other waves, too."""
    waves = [layer for layer in form.layers if layer.activation not in ("affine", "relu", "sigmoid")]
    count = points * sum(layer.bias.shape[0] for layer in waves)
    arrays: list[Any] = [np.linspace(-9, 9, 2_048, dtype=np.float32) for _ in range(3)]

    def work() -> None:
        for _ in range(count // 2_048):
            _sincos(arrays[0], 2_048, arrays[1], arrays[2])

    return work


def show(rows: list[Row]) -> None:
    """Print one table for each number of threads and points."""
    console = Console(width=120)
    for threads, points in sorted({(row.threads, row.points) for row in rows}):
        table = Table(title=f"{points:,} points, {threads} threads", title_justify="left")
        table.add_column("network")
        for column in ("parameters", "autograd, ms", "fused, ms", "products", "sines", "x limit", "gain", "x SIREN"):
            table.add_column(column, justify="right")
        for row in rows:
            if (row.threads, row.points) == (threads, points):
                figures = (row.autograd, row.fused, row.products, row.sines, row.over_limit, row.gain, row.over_siren)
                table.add_row(row.network, f"{row.parameters:,}", *(f"{value:.2f}" for value in figures))
        console.print(table)
