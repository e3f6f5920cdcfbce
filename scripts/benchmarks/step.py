"""One training step of every SDF network at equal parameter counts: forward, whole step, step with the Eikonal term.

A step is the default loss on a batch from a pool, its backward pass and the optimizers of the default recipe. The
Eikonal term is taken at every point of the batch. ``sasnet`` is the paper's network, ``sasnet sdf_grid`` what
``ns-train sasnet-sdf`` trains; all have their presets' sizes, 128,193 to 148,225 parameters. Networks take turns, a few
steps each, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.kernels import measure_machine
from benchmarks.report import print_machine, print_table, write_rows
from torch import Tensor

from sasnet_ns.fitting import Recipe, SDFObjective
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.objective import sdf_losses
from sasnet_ns.training.recipe import build_optimizers
from sdf_tools.pools import SDFBatch

PASSES = ("forward", "step", "step, Eikonal")


@dataclass
class Row:
    """One network, one backend, one number of points, one pass."""

    network: str
    backend: str
    parameters: int
    points: int
    work: str
    milliseconds: float
    best: float
    """Fastest round, in ms."""
    over_siren: float
    """Median over the rounds of this network's time divided by SIREN's (its fastest backend) in the same round."""
    peak_mb: float
    """Memory of a step beyond the network's own: on CUDA as the allocator counts it, on a CPU what autograd saves."""


def run(json_path: Path | None, quick: bool) -> None:
    """Time every network; print a table a number of points and write the figures as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure_machine(device)
    sizes = (10_000, 262_144) if device.type == "cuda" else (10_000,)
    rows = [row for points in sizes for row in time_networks(points, device, 3 if quick else 9, show=True)]
    show(rows, machine, device)
    write_rows(json_path, rows, machine)


def candidates() -> list[tuple[str, str, str, dict[str, Any]]]:
    """Label, backend, registry name and options of each network; nothing of ours is used in the torch backend."""
    found = [
        ("siren", "kernels", "siren", {}),
        ("siren", "torch", "siren", {"implementation": "torch"}),
        ("sasnet", "kernels", "sasnet", {}),
        ("sasnet", "torch", "sasnet", {"implementation": "torch"}),
        ("sasnet sdf_grid", "kernels", "sasnet", {"preset": "sdf_grid"}),
        ("ngp", "kernels", "ngp", {}),
        ("ngp", "torch", "ngp", {"implementation": "torch"}),
    ]
    return found + [(name, "torch", name, {"preset": "sdf"}) for name in ("finer", "pemlp", "gauss", "wire")]


def time_networks(points: int, device: torch.device, rounds: int, show: bool = False) -> list[Row]:
    """Rows of every network, measured in turns, with a progress bar if ``show``; none where memory ends."""
    torch.manual_seed(0)
    kind = torch.zeros(points, dtype=torch.uint8, device=device)
    x = torch.rand(points, 3, device=device) - 0.5
    batch = SDFBatch(x, x.norm(dim=-1) - 0.3, kind, (points, 0, 0))
    works: dict[tuple[str, str], dict[str, Callable[[], object]]] = {}
    parameters: dict[tuple[str, str], int] = {}
    for label, backend, name, options in candidates():
        field = SignedDistanceField(name, options).to(device)
        if backend == "torch":
            field.network.implementation = "torch"  # type: ignore[assignment]
        works[label, backend] = passes(field, batch)
        parameters[label, backend] = field.network.parameter_count()
    times: dict[tuple[str, str, str], list[float]] = {}
    too_large: set[tuple[str, str, str]] = set()
    counts: Iterable[int] = range(rounds + 1)
    if show:
        from rich.progress import track

        counts = track(counts, description=f"{points:,} points")
    for count in counts:
        for (label, backend), passes_ in works.items():
            for work in PASSES:
                if (label, backend, work) in too_large:
                    continue
                try:
                    elapsed = clock(passes_[work], device, 3)
                except torch.OutOfMemoryError:
                    too_large.add((label, backend, work))
                    times.pop((label, backend, work), None)
                    torch.cuda.empty_cache()
                    continue
                if count:  # the first round compiles
                    times.setdefault((label, backend, work), []).append(elapsed)
    rows = []
    for (label, backend, work), values in times.items():
        sirens = [times[key] for key in (("siren", kind, work) for kind in ("kernels", "torch")) if key in times]
        siren = min(sirens, key=statistics.median, default=[math.nan] * len(values))
        ratio = statistics.median(own / other for own, other in zip(values, siren, strict=True))
        rows.append(
            Row(
                label,
                backend,
                parameters[label, backend],
                points,
                work,
                statistics.median(values),
                min(values),
                ratio,
                peak_memory(works[label, backend][work], device),
            )
        )
    return rows


def passes(field: SignedDistanceField, batch: SDFBatch) -> dict[str, Callable[[], object]]:
    """The three things to time."""
    optimizers = build_optimizers(field.network, Recipe())

    def forward() -> Tensor:
        with torch.no_grad():
            return field(batch.points)

    def step(objective: SDFObjective) -> None:
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses, _ = sdf_losses(field, batch, objective)
        torch.stack(list(losses.values())).sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()

    plain = SDFObjective()
    eikonal = SDFObjective(eikonal_weight=0.1, eikonal_points=batch.points.shape[0])
    return {"forward": forward, "step": lambda: step(plain), "step, Eikonal": lambda: step(eikonal)}


def clock(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds of one call, the fastest of a few."""
    best = float("inf")
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 1e3 * best


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Megabytes that a call needs beyond what is there already."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(saved.values()) / 2**20


def show(rows: list[Row], machine: dict[str, float], device: torch.device) -> None:
    """Print one table a number of points."""
    for points in sorted({row.points for row in rows}):
        lines = []
        for row in sorted((row for row in rows if row.points == points), key=lambda row: PASSES.index(row.work)):
            times = f"{row.milliseconds:.1f}", f"{row.best:.1f}", f"{row.over_siren:.2f}"
            lines.append((row.network, row.backend, row.work, f"{row.parameters:,}", *times, f"{row.peak_mb:.0f}"))
        columns = ("parameters", "ms", "best ms", "x SIREN", "memory, MB")
        print_table(f"{points:,} points on {device.type}", ("network", "backend", "pass"), columns, lines)
    print_machine(machine, "10,000x256x224")
