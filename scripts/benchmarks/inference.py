"""Evaluating a field without gradients, as the extractor, the viewer and the metrics do: points per second.

Chunk sizes for the kernels, plain torch, torch.compile (where a C++ compiler is at hand), an exported program, and the
preview that leaves out the highest bands. The error is the largest difference from the kernels' answer, box units.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.kernels import measure_machine
from benchmarks.report import print_machine, print_table, write_rows
from benchmarks.step import clock
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.export import export_field, portable

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sasnet, the paper's": ("sasnet", {}),
    "sasnet, default": ("sasnet", {"preset": "sdf_compact"}),
    "sasnet-grid": ("sasnet-grid", {}),
    "siren": ("siren", {}),
    "ngp": ("ngp", {}),
}


@dataclass
class Row:
    """One network evaluated one way."""

    network: str
    way: str
    chunk: int
    million_points_per_s: float
    error: float


def run(json_path: Path | None, quick: bool) -> None:
    """Time every way; print a table and write the figures as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure_machine(device)
    count = 2**17 if quick else 2**19
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)).to(device) - 0.5
    rows = [row for label in NETWORKS for row in time_network(label, points, 3 if quick else 7)]
    lines = [
        (row.network, row.way, f"{row.chunk:,}", f"{row.million_points_per_s:.2f}", f"{row.error:.0e}") for row in rows
    ]
    columns = ("chunk", "Mpoints/s", "largest difference")
    print_table(f"{count:,} points on {device.type}", ("network", "way"), columns, lines)
    print_machine(machine, "10,000x256x224")
    write_rows(json_path, rows, machine)


def time_network(label: str, points: Tensor, rounds: int) -> list[Row]:
    """Rows of one network."""
    name, options = NETWORKS[label]
    torch.manual_seed(0)
    field = SignedDistanceField(name, options).to(points.device).eval().requires_grad_(False)
    plain = portable(field).to(points.device)
    cpu = points.device.type == "cpu"
    chunk = 8192 if cpu else 262_144
    ways: list[tuple[str, int, Callable[[Tensor], Tensor]]] = [
        ("kernels", size, field) for size in ((2048, 8192, 32_768, 131_072) if cpu else (chunk, points.shape[0]))
    ]
    ways += [("kernels, layer by layer", chunk, lambda x: field.network(2 * x)[..., 0]), ("torch", chunk, plain)]
    if shutil.which("g++") or shutil.which("clang++"):
        ways.append(("torch.compile", chunk, torch.compile(plain, dynamic=False)))
    if cpu:
        with tempfile.TemporaryDirectory() as folder:
            export_field(field, Path(folder) / "field.pt2")
            ways.append(("exported .pt2", chunk, torch.export.load(Path(folder) / "field.pt2").module()))
    if name == "sasnet":
        ways.append(("kernels, no high bands", chunk, lambda x: field(x, bands=0)))
    with torch.no_grad():
        truth = evaluate(field, points, chunk)
        rows = []
        for way, size, function in ways:
            error = float((evaluate(function, points, size) - truth).abs().max())  # compiles as well
            times = [
                clock(lambda function=function, size=size: evaluate(function, points, size), points.device, 1)  # type: ignore[misc]
                for _ in range(rounds)
            ]
            rows.append(Row(label, way, size, points.shape[0] / statistics.median(times) / 1e3, error))
    return rows


def evaluate(function: Callable[[Tensor], Tensor], points: Tensor, chunk: int) -> Tensor:
    """The field at all points, a chunk at a time."""
    return torch.cat([function(part) for part in points.split(chunk)])
