"""Hash grid, masked sine layer and sum of Gaussians: every backend that loads, beside eager torch and others.

Setting: the SDF preset (3D, 10 levels of 2^10 entries; sine layer of 224 neurons in 8 groups), and as many Gaussians a
pixel as the paper gives GaussianImage, 0.063, as large as that begins with. ``traffic`` is the time
that copying the compulsory bytes (inputs read once, results written once) would take at the copy bandwidth measured in
the same run: no kernel can be faster once its data leave the caches. Times are medians of torch.utils.benchmark.
"""

from __future__ import annotations

import functools
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.report import print_machine, print_table, write_rows
from torch import Tensor
from torch.utils.benchmark import Timer

from sasnet_ns.kernels import (
    HashGridLayout,
    Implementation,
    PointLoss,
    gaussian_sum,
    hash_grid,
    mask_decoder,
    masked_sine,
    point_loss,
    tune,
)
from sasnet_ns.kernels._choose import choose

LAYOUT = HashGridLayout.geometric(3, 10, 16, 256, 10)
WIDTH, GROUPS = 224, (28,) * 8
PASSES = ("forward", "forward+backward", "double backward")


@dataclass
class Row:
    """One kernel on one backend, one number of points, one pass."""

    kernel: str
    backend: str
    points: int
    work: str
    milliseconds: float
    spread: float
    """Interquartile range in ms."""
    traffic_milliseconds: float


def run(json_path: Path | None, quick: bool) -> None:
    """Time every kernel; print tables and write the figures as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = measure_machine(device)
    rows: list[Row] = []
    for points in (10_000,) if quick else (10_000, 262_144):
        rows += time_hash_grid(points, device, machine["copy_gb_per_s"], quick)
        rows += time_masked_sine(points, device, machine["copy_gb_per_s"], quick)
        rows += time_decoder(points, device, machine["copy_gb_per_s"], quick)
        rows += time_loss(points, device, machine["copy_gb_per_s"], quick)
        rows += time_gaussians(points, device, quick)
    show(rows, machine)
    write_rows(json_path, rows, machine)


def median_and_spread(work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Milliseconds of one call, after the first two (which compile)."""
    work()
    work()
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    result = timer.blocked_autorange(min_run_time=seconds)
    return result.median * 1e3, result.iqr * 1e3


def measure_machine(device: torch.device) -> dict[str, float]:
    """Matrix product rate of a SASNet hidden layer and copy bandwidth (bytes read and written) of this device.

    The process is set as every network sets it, here and for what is timed afterwards.
    """
    tune()
    a, w = torch.randn(10_000, 256, device=device), torch.randn(256, WIDTH, device=device)
    big = torch.randn(2**26 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(big)
    with torch.no_grad():
        product, _ = median_and_spread(lambda: torch.mm(a, w), 1.0)
        copy, _ = median_and_spread(lambda: target.copy_(big), 1.0)
    return {
        "threads": float(torch.get_num_threads()),
        "gemm_gflop_per_s": 2e-6 * a.shape[0] * a.shape[1] * WIDTH / product,
        "copy_gb_per_s": 2e-6 * big.numel() * 4 / copy,
    }


def backends(device: torch.device) -> list[str]:
    """Eager torch and whichever fast backend loads here."""
    best = choose("auto", device, True, ("numba", "triton"))
    return ["torch", best] if best != "torch" else ["torch"]


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor] | None:
    """The function by torch.compile, or None where there is no C++ compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return None
    return torch.compile(function, dynamic=False)


def passes(
    function: Callable[..., Tensor], variables: list[Tensor], towards: int, double: bool
) -> dict[str, Callable[[], object]]:
    """Forward, forward and backward to all but variable ``towards``, and an Eikonal-like second derivative."""
    constants = [variable.detach() for variable in variables]
    leaves = [variable.detach().requires_grad_(index != towards) for index, variable in enumerate(variables)]
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    everything = [variable.detach().requires_grad_() for variable in variables]
    g = torch.randn_like(function(*constants))

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*constants)

    def backward() -> None:
        for leaf in trained:
            leaf.grad = None
        function(*leaves).backward(g)

    def twice() -> tuple[Tensor, ...]:
        value = function(*everything)
        (slope,) = torch.autograd.grad(value, everything[towards], g, create_graph=True)
        return torch.autograd.grad((value.sum() + slope.square().sum()), everything)

    works: dict[str, Callable[[], object]] = {"forward": forward, "forward+backward": backward}
    return {**works, "double backward": twice} if double else works


def time_passes(
    kernel: str,
    backend: str,
    points: int,
    works: dict[str, Callable[[], object]],
    traffic: dict[str, float],
    quick: bool,
) -> list[Row]:
    """Rows of one kernel on one backend; a pass that the backend cannot do is left out with a line."""
    rows = []
    for name, work in works.items():
        try:
            median, spread = median_and_spread(work, 0.3 if quick else 1.0)
        except RuntimeError as error:
            print(f"{kernel}, {backend}, {name}: left out, {str(error).splitlines()[0][:120]}")
            continue
        rows.append(Row(kernel, backend, points, name, median, spread, traffic.get(name, float("nan"))))
    return rows


def time_hash_grid(points: int, device: torch.device, bandwidth: float, quick: bool) -> list[Row]:
    """Hash grid: our backends, the compiled reference and nerfstudio's own torch encoding."""
    x = torch.rand(points, 3, device=device) * 2 - 1
    table = torch.randn(LAYOUT.total_entries, LAYOUT.feature_dim, device=device)
    forward_bytes = 4.0 * (x.numel() + points * LAYOUT.out_dim + table.numel())
    traffic = {"forward": forward_bytes * 1e-6 / bandwidth, "forward+backward": 2e-6 * forward_bytes / bandwidth}
    rows = []
    for backend in backends(device):
        function = lambda x, table, backend=backend: hash_grid(x, table, LAYOUT, backend)  # noqa: E731
        # second derivatives by eager torch keep some 2 kB a point and level
        double = backend != "torch" or points < 50_000
        works = passes(function, [x, table], 0, double)
        rows += time_passes("hash grid", backend, points, works, traffic, quick)
    reference = compiled(lambda x, table: hash_grid(x, table, LAYOUT, "torch"))
    if reference is not None:
        works = passes(reference, [x, table], 0, False)
        rows += time_passes("hash grid", "torch.compile", points, works, traffic, quick)
    rows += time_passes("hash grid", "nerfstudio", points, nerfstudio_passes(x), traffic, quick)
    return rows


def nerfstudio_passes(x: Tensor) -> dict[str, Callable[[], object]]:
    """nerfstudio's HashEncoding, implementation 'torch', at the same size; empty where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nerfstudio.field_components.encodings import HashEncoding
    except ImportError:
        return {}
    encoding = HashEncoding(
        num_levels=LAYOUT.levels,
        min_res=16,
        max_res=256,
        log2_hashmap_size=LAYOUT.log2_table_size,
        features_per_level=LAYOUT.feature_dim,
        implementation="torch",
    ).to(x.device)
    unit = (x + 1) / 2
    g = torch.randn(x.shape[0], LAYOUT.out_dim, device=x.device)

    def forward() -> Tensor:
        with torch.no_grad():
            return encoding(unit)

    def backward() -> None:
        encoding.zero_grad(set_to_none=True)
        encoding(unit).backward(g)

    return {"forward": forward, "forward+backward": backward}


def time_masked_sine(points: int, device: torch.device, bandwidth: float, quick: bool) -> list[Row]:
    """Masked sine layer, and torch.sin alone as the least that eager torch could do."""
    z, bias = torch.randn(points, WIDTH, device=device), torch.randn(WIDTH, device=device)
    mask = torch.rand(points, len(GROUPS), device=device)
    layer = 4e-6 * (z.numel() + mask.numel() / 2) / bandwidth
    traffic = {"forward": 2 * layer, "forward+backward": 5 * layer}
    rows = []
    names = [*backends(device), "torch.compile"]
    for name in names:
        if name == "torch.compile":
            chosen = compiled(lambda z, bias, mask: masked_sine(z, bias, 30.0, mask, GROUPS, "torch"))
        else:
            chosen = lambda z, bias, mask, name=name: masked_sine(z, bias, 30.0, mask, GROUPS, name)  # noqa: E731
        if chosen is None:
            continue
        # gradients by pre-activations, bias and mask alike
        works = passes(chosen, [z, bias, mask], -1, False)
        if name != "torch.compile":
            works |= {"double backward": passes(chosen, [z, bias, mask], 0, True)["double backward"]}
        rows += time_passes("masked sine", name, points, works, traffic, quick)

    def plain() -> Tensor:
        return torch.sin(z)

    return rows + time_passes("masked sine", "torch.sin alone", points, {"forward": plain}, traffic, quick)


def time_decoder(points: int, device: torch.device, bandwidth: float, quick: bool) -> list[Row]:
    """The mask decoder 20 -> 48 -> 20."""
    shapes = ((points, 20), (48, 20), (48,), (20, 48), (20,))
    variables = [torch.randn(*shape, device=device) for shape in shapes]
    works = passes(mask_decoder, variables, -1, False)
    layer = 4e-6 * 20 * points / bandwidth
    traffic = {"forward": 2 * layer, "forward+backward": 5 * layer}
    return time_passes("mask decoder", "torch", points, works, traffic, quick)


def time_loss(points: int, device: torch.device, bandwidth: float, quick: bool) -> list[Row]:
    """The default loss of distances and its gradient, in one call."""
    predicted, target = torch.randn(2, points, 1, device=device)
    loss = PointLoss(power=1, near=2.5e-4, far_weight=torch.tensor(0.03, device=device))
    traffic = {"forward+backward": 12e-6 * points / bandwidth}
    names: list[Implementation] = ["torch", "triton"] if device.type == "cuda" else ["torch"]
    return [
        row
        for name in names
        for row in time_passes(
            "loss", name, points,
            {"forward+backward": functools.partial(point_loss, predicted, target, loss, None, name)}, traffic, quick,
        )
    ]  # fmt: skip


def time_gaussians(points: int, device: torch.device, quick: bool) -> list[Row]:
    """The sum of Gaussians on a square of pixels, by their places, factors and colours."""
    side = math.isqrt(points)
    pixels = torch.cartesian_prod(*2 * (torch.arange(side, device=device) + 0.5,))
    count = round(0.063 * len(pixels))
    center, color = side * torch.rand(count, 2, device=device), torch.rand(count, 3, device=device)
    cholesky = torch.rand(count, 3, device=device) + torch.tensor([0.5, 0.0, 0.5], device=device)
    names: list[Implementation] = ["torch", "numba"] if device.type == "cpu" else ["torch"]
    rows = []
    for name in names:
        function = functools.partial(gaussian_sum, pixels, tile=8, implementation=name)
        works = passes(function, [center, cholesky, color], -1, False)
        rows += time_passes("Gaussians", name, points, works, {}, quick)
    return rows


def show(rows: list[Row], machine: dict[str, float]) -> None:
    """Print one table a number of points; the factor is against eager torch doing the same."""
    eager = {(row.kernel, row.points, row.work): row.milliseconds for row in rows if row.backend == "torch"}
    for points in sorted({row.points for row in rows}):
        lines = []
        for row in (row for row in rows if row.points == points):
            base = eager.get((row.kernel, row.points, row.work))
            factor = "-" if base is None else f"{base / row.milliseconds:.1f}"
            traffic = "-" if row.traffic_milliseconds != row.traffic_milliseconds else f"{row.traffic_milliseconds:.2f}"
            times = f"{row.milliseconds:.2f}", f"{row.spread:.2f}", f"{row.points / row.milliseconds / 1e3:.2f}"
            lines.append((row.kernel, row.backend, row.work, *times, factor, traffic))
        columns = ("ms", "± IQR", "Mpoints/s", "x eager torch", "traffic, ms")
        print_table(f"{points:,} points", ("kernel", "backend", "pass"), columns, lines)
    print_machine(machine, f"10,000x256x{WIDTH}")
