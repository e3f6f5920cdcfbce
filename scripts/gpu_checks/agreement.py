"""Every Triton kernel beside its twin in plain torch, in float64: values, first and second derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gpu_checks.context import Context, Row, largest
from sasnet_ns.kernels import HashGridLayout, PointLoss, hash_grid, masked_sine, masked_sine_embedding, point_loss

EXACT = 1e-5
"""Largest difference in float32, as a share of the largest value."""
HALF = 2e-2
"""The same where inputs have half precision."""


def run(context: Context) -> Iterator[Row]:
    """One row a kernel and setting, with the largest differences relative to the largest value."""
    torch.manual_seed(0)
    count = 70 if context.tiny else 10_000
    yield from _grids(context, count)
    yield from _sines(context, count)
    yield from _stacks(context, count)
    yield from _losses(context, count)
    yield from _arguments(context)
    if context.cuda:
        yield from _other_sizes(context)
        yield from _second_device(context)


def _wave(like: Tensor) -> Tensor:
    return torch.sin(1.0 + torch.arange(like.numel(), device=like.device, dtype=torch.float64)).view_as(like)


def derivatives(function: Callable[..., Tensor], variables: list[Tensor]) -> list[list[Tensor]]:
    """The value, its gradients against a wave, and the gradients of a mixture of these."""
    leaves = [v.detach().clone().requires_grad_() for v in variables]
    value = function(*leaves)
    g = _wave(value).to(value.dtype).requires_grad_()
    first = torch.autograd.grad(value, leaves, g, create_graph=True)
    mixed = torch.stack([(part.double() * _wave(part)).sum() for part in first]).sum()
    second = torch.autograd.grad(mixed, [*leaves, g])
    return [[value], list(first), list(second)]


def compare(name: str, function: Callable[..., Tensor], variables: list[Tensor], tolerance: float = EXACT) -> Row:
    """A row for ``function(implementation, *variables)``; the twin computes in float64."""
    found = derivatives(lambda *v: function("triton", *v), variables)
    wanted = derivatives(lambda *v: function("torch", *v), [v.double() for v in variables])
    row: Row = {"name": name}
    for order, ours, twins in zip(("value", "first", "second"), found, wanted, strict=True):
        row[order] = largest(
            float(((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-12)).detach())
            for a, b in zip(ours, twins, strict=True)
        )
    return {**row, "ok": all(row[order] < tolerance for order in ("value", "first", "second"))}


def _grids(context: Context, count: int) -> Iterator[Row]:
    cases = [(d, i, torch.float32) for d in (1, 2, 3, 4) for i in ("linear", "smoothstep")]
    cases += [(3, "smoothstep", torch.bfloat16), (3, "linear", torch.float16)]
    for in_dim, interpolation, dtype in cases[3:5] if context.tiny else cases:
        resolutions = (3, 9) if context.tiny else (8, 17, 64, 120)
        layout = HashGridLayout(in_dim, resolutions, 6 if context.tiny else 12, 2, interpolation)  # type: ignore[arg-type]
        x = _off_borders(torch.rand(count, in_dim, device=context.device) * 2.2 - 1.1, resolutions)
        table = torch.randn(layout.total_entries, 2, device=context.device).to(dtype)
        half = dtype != torch.float32
        yield compare(
            f"hash grid, {in_dim}D, {interpolation}, {str(dtype)[6:]}",
            lambda backend, x, t, layout=layout: hash_grid(x, t, layout, backend),
            [x, table],
            HALF if half else EXACT,
        )
    layout = HashGridLayout(3, (3, 9), 1, 2)
    x, table = torch.rand(1, 3, device=context.device), torch.randn(layout.total_entries, 2, device=context.device)
    yield compare(
        "hash grid, tables of 2 entries, 1 point", lambda backend, x, t: hash_grid(x, t, layout, backend), [x, table]
    )


def _off_borders(x: Tensor, resolutions: tuple[int, ...]) -> Tensor:
    """The points that no rounding puts into another cell, where a linear level has another slope."""
    places = torch.stack([(x.double() + 1) / 2 * (resolution - 1) for resolution in resolutions])
    return x[((places - places.floor() - 0.5).abs() < 0.499).all(dim=(0, 2))]


def _sines(context: Context, count: int) -> Iterator[Row]:
    groups = {"groups": (7, 5, 0, 3, 5), "groups of 28": (28,) * 8, "wide groups": (130, 5, 40), "no mask": ()}
    for name, sizes in itertools.islice(groups.items(), 1 if context.tiny else None):
        width = max(90, sum(sizes) + 10)
        z, bias = torch.randn(count, width, device=context.device), torch.randn(width, device=context.device)
        mask = torch.rand(count, len(sizes), device=context.device)
        for dtype in (torch.float32,) if not sizes or context.tiny else (torch.float32, torch.bfloat16):
            variables = [z.to(dtype), bias] + ([mask.to(dtype)] if sizes else [])
            yield compare(
                f"masked sine, {name}, {str(dtype)[6:]}",
                lambda backend, z, b, m=None, sizes=sizes: masked_sine(z, b, 3.0, m, sizes, backend),
                variables,
                EXACT if dtype == torch.float32 else HALF,
            )
    sizes = (7, 5, 0, 3, 5)
    x, weight = torch.rand(count, 3, device=context.device), 5 * torch.randn(90, 3, device=context.device)
    bias, mask = torch.randn(90, device=context.device), torch.rand(count, 5, device=context.device)
    yield compare(
        "embedding",
        lambda backend, b, m: masked_sine_embedding(x.to(b.dtype), weight.to(b.dtype), b, m, sizes, backend),
        [bias, mask],
    )


def _stacks(context: Context, count: int) -> Iterator[Row]:
    """Three networks in one launch."""
    resolutions, sizes = (3, 9), (7, 5, 0, 3, 5)
    layout = HashGridLayout(2, resolutions, 6, 2, "smoothstep")
    x = _off_borders(torch.rand(count, 2, device=context.device) * 2.2 - 1.1, resolutions).repeat(3, 1, 1)
    table = torch.randn(3, layout.total_entries, 2, device=context.device)
    yield compare("hash grid, 3 networks", lambda backend, x, t: hash_grid(x, t, layout, backend), [x, table])
    z, bias = torch.randn(3, count, 90, device=context.device), torch.randn(3, 90, device=context.device)
    mask = torch.rand(3, count, len(sizes), device=context.device)
    yield compare(
        "masked sine, 3 networks", lambda backend, z, b, m: masked_sine(z, b, 3.0, m, sizes, backend), [z, bias, mask]
    )


def _losses(context: Context, count: int) -> Iterator[Row]:
    predicted, target = torch.randn(2, count, 1, device=context.device)
    weight = torch.rand(count, device=context.device)
    for power, near, absolute in ((1, 2.5e-4, False), (2, None, False), (1, 0.05, True)):
        loss = PointLoss(power=power, near=near, absolute=absolute)
        value, gradient = point_loss(predicted, target, loss, weight, "triton")
        exact, slope = point_loss(predicted.double(), target.double(), loss, weight.double(), "torch")
        row: Row = {"name": f"loss, power {power}, near {near}, absolute {absolute}"}
        row["value"] = abs(float(value - exact)) / float(exact)
        row["first"] = float((gradient - slope).abs().max() / slope.abs().max())
        yield {**row, "ok": largest((row["value"], row["first"])) < EXACT}


def _arguments(context: Context) -> Iterator[Row]:
    """Absolute errors of the kernels' own sine and cosine over the arguments that occur."""
    for limit in (30.0, 800.0, 25_000.0):
        rows = 40 if context.tiny else 20_000
        x = torch.linspace(-limit, limit, rows * 512, device=context.device).reshape(-1, 512).requires_grad_()
        value = masked_sine(x, torch.zeros(512, device=context.device), 1.0, None, (), "triton")
        (slope,) = torch.autograd.grad(value.sum(), x)
        exact = x.detach().double()
        errors = [float((a.detach().double() - b).abs().max()) for a, b in ((value, exact.sin()), (slope, exact.cos()))]
        row: Row = {"name": f"sine and cosine up to {limit:,.0f} rad, absolute", "value": errors[0], "first": errors[1]}
        yield {**row, "ok": largest(errors) < 3e-7}


def _other_sizes(context: Context) -> Iterator[Row]:
    """Whether another number of points compiles a kernel again."""
    from sasnet_ns.kernels import _triton_grid, _triton_sine

    kernels = (_triton_grid._gather_kernel, _triton_sine._forward_kernel)

    def compiled() -> int:
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    layout = HashGridLayout(3, (8, 16), 8, 2)
    table, bias = torch.randn(layout.total_entries, 2, device=context.device), torch.zeros(32, device=context.device)
    counts = []
    for points in (1024, 1023, 1, 2, 16, 4097):
        hash_grid(torch.rand(points, 3, device=context.device), table, layout, "triton")
        masked_sine(torch.rand(points, 32, device=context.device), bias, 1.0, None, (), "triton")
        counts.append(compiled())
    yield {
        "name": "programs added by other numbers of points",
        "value": counts[-1] - counts[0],
        "ok": counts[-1] == counts[0],
    }


def _second_device(context: Context) -> Iterator[Row]:
    """A kernel on a device that is not the current one."""
    if torch.cuda.device_count() < 2:
        yield {"name": "second GPU", "note": "there is one GPU"}
        return
    other = next(i for i in range(torch.cuda.device_count()) if i != torch.cuda.current_device())
    z, bias = torch.randn(1000, 90, device=f"cuda:{other}"), torch.randn(90, device=f"cuda:{other}")
    yield compare("second GPU, sine", lambda backend, z, b: masked_sine(z, b, 3.0, None, (), backend), [z, bias])
