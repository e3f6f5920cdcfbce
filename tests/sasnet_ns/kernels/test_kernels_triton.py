"""Triton kernels in Triton's interpreter (values), and compiled for a CUDA target that need not be present."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[3]

VALUES = """
import torch
from sasnet_ns.kernels import HashGridLayout, hash_grid, masked_sine, masked_sine_embedding

def check(name, found, wanted, tolerance=1e-5):
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        error = ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        assert error < tolerance, f"{name}, output {index}: relative error {error:.2e}"

def derivatives(function, variables, dtype):
    variables = [v.to(dtype).requires_grad_() for v in variables]
    value = function(*variables)
    wave = lambda like: torch.sin(1.0 + torch.arange(like.numel(), dtype=dtype)).view_as(like)
    g = wave(value).requires_grad_()
    first = torch.autograd.grad(value, variables, g, create_graph=True)
    mixed = sum((part * wave(part)).sum() for part in first)
    return [value, *first, *torch.autograd.grad(mixed, [*variables, g])]

torch.manual_seed(0)
for in_dim in DIMENSIONS:
    for interpolation in ("linear", "smoothstep"):
        layout = HashGridLayout(in_dim, (3, 9), 6, 2 if in_dim < 3 else 3, interpolation)
        x = torch.cat([torch.rand(40, in_dim) * 2.2 - 1.1, torch.randint(-5, 6, (30, in_dim)) / 4])
        table = torch.randn(layout.total_entries, layout.feature_dim)
        run = lambda backend, dtype: derivatives(lambda x, t: hash_grid(x, t, layout, backend), [x, table], dtype)
        check(f"hash grid {in_dim} {interpolation}", run("triton", torch.float32), run("torch", torch.float64))

layout = HashGridLayout(2, (3, 9), 6, 2, "smoothstep")  # three networks in one launch, more than a block of points each
x, table = torch.rand(3, 140, 2) * 2.2 - 1.1, torch.randn(3, layout.total_entries, 2)
run = lambda backend, dtype: derivatives(lambda x, t: hash_grid(x, t, layout, backend), [x, table], dtype)
check("hash grids", run("triton", torch.float32), run("torch", torch.float64))
z, bias, mask = torch.randn(3, 70, 30), torch.randn(3, 30), torch.rand(3, 70, 5)
run = lambda backend, dtype: derivatives(
    lambda z, b, m: masked_sine(z, b, 3.0, m, (7, 5, 0, 3, 5), backend), [z, bias, mask], dtype)
check("masked sines", run("triton", torch.float32), run("torch", torch.float64))
x, weight = torch.rand(3, 70, 3), 5 * torch.randn(3, 30, 3)
run = lambda backend, dtype: derivatives(
    lambda b, m: masked_sine_embedding(x.to(dtype), weight.to(dtype), b, m, (7, 5, 0, 3, 5), backend), [bias, mask],
    dtype)
check("embeddings", run("triton", torch.float32), run("torch", torch.float64))

z, bias, mask = torch.randn(70, 90), torch.randn(90), torch.rand(70, 5)  # one group is empty
run = lambda backend, dtype: derivatives(
    lambda z, b, m: masked_sine(z, b, 3.0, m, (7, 5, 0, 3, 5), backend), [z, bias, mask], dtype)
check("masked sine", run("triton", torch.float32), run("torch", torch.float64))
run = lambda backend, dtype: derivatives(lambda z, b: masked_sine(z, b, 3.0, None, (), backend), [z, bias], dtype)
check("sine", run("triton", torch.float32), run("torch", torch.float64))
x, weight = torch.rand(70, 3), 5 * torch.randn(90, 3)
run = lambda backend, dtype: derivatives(
    lambda b, m: masked_sine_embedding(x.to(dtype), weight.to(dtype), b, m, (7, 5, 0, 3, 5), backend), [bias, mask],
    dtype)
check("embedding", run("triton", torch.float32), run("torch", torch.float64))

# a group wider than a tile, and others beside it
z, bias, mask = torch.randn(70, 190), torch.randn(190), torch.rand(70, 3)
run = lambda backend, dtype: derivatives(
    lambda z, b, m: masked_sine(z, b, 3.0, m, (130, 5, 40), backend), [z, bias, mask], dtype)
check("wide groups", run("triton", torch.float32), run("torch", torch.float64))

# one table entry is too few for a constant of its own: two entries a level, one point
layout = HashGridLayout(3, (3, 9), 1, 2)
x, table = torch.rand(1, 3), torch.randn(layout.total_entries, 2)
run = lambda backend, dtype: derivatives(lambda x, t: hash_grid(x, t, layout, backend), [x, table], dtype)
check("two entries", run("triton", torch.float32), run("torch", torch.float64))
print("all agree")
"""

HALF = """
import torch
from sasnet_ns.kernels import HashGridLayout, hash_grid, masked_sine

def both(function, variables):
    found = []
    for backend in ("triton", "torch"):
        leaves = [v.clone().requires_grad_() for v in variables]
        value = function(backend, *leaves)
        wave = torch.sin(1.0 + torch.arange(value.numel())).view_as(value)
        first = torch.autograd.grad(value, leaves, wave, create_graph=True)
        mixed = sum((part.float() * torch.cos(torch.arange(part.numel())).view_as(part)).sum() for part in first)
        found.append([value, *first, *torch.autograd.grad(mixed, leaves)])
    for index, (a, b) in enumerate(zip(*found, strict=True)):
        assert a.dtype == b.dtype, (index, a.dtype, b.dtype)
        error = float((a.double() - b.double()).abs().max() / b.double().abs().max())
        assert error < (1e-5 if a.dtype == torch.float32 else 2e-2), (index, error)

torch.manual_seed(0)
for half in (torch.bfloat16, torch.float16):
    z, bias, mask = torch.randn(70, 90).to(half), torch.randn(90), torch.rand(70, 3).to(half)
    both(lambda backend, z, b, m: masked_sine(z, b, 3.0, m, (7, 5, 3), backend), [z, bias, mask])
    stack = [torch.randn(2, 40, 30).to(half), torch.randn(2, 30), torch.rand(2, 40, 3).to(half)]  # two networks
    both(lambda backend, z, b, m: masked_sine(z, b, 3.0, m, (7, 5, 3), backend), stack)
    layout = HashGridLayout(2, (3, 9), 6, 2)
    for networks in ((), (2,)):
        table = torch.randn(*networks, layout.total_entries, 2).to(half)
        both(lambda backend, x, t: hash_grid(x, t, layout, backend), [torch.rand(*networks, 40, 2), table])
print("half agrees")
"""

SINES = """
import torch
from sasnet_ns.kernels import HashGridLayout, hash_grid, masked_sine

def error(limit):
    x = torch.linspace(-limit, limit, 40 * 512).reshape(-1, 512)
    x = torch.cat([x, (torch.arange(512) * torch.pi / 2).float()[None]])  # where one quotient follows another
    z = x.clone().requires_grad_()
    value = masked_sine(z, torch.zeros(512), 1.0, None, (), "triton")
    (slope,) = torch.autograd.grad(value.sum(), z)
    exact = x.double()
    return max(float((value.double() - exact.sin()).abs().max()), float((slope.double() - exact.cos()).abs().max()))

for limit in (1.0, 30.0, 800.0, 25_000.0):
    print(limit, error(limit))
    assert error(limit) < 3e-7, (limit, error(limit))
odd = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e30, 3e7]])
found = masked_sine(odd, torch.zeros(5), 1.0, None, (), "triton")
assert found[0, :3].isnan().all() and (found[0, 3:].abs() <= 1).all(), found

layout = HashGridLayout(3, (3, 9), 6, 2)
x, table = torch.rand(4, 3), torch.randn(layout.total_entries, 2)
x[1, 2] = float("nan")
for interpolation in ("linear", "smoothstep"):
    layout = HashGridLayout(3, (3, 9), 6, 2, interpolation)
    found = hash_grid(x, table, layout, "triton")
    assert found.isnan().all(1).tolist() == [False, True, False, False], found
print("sines agree")
"""

COMPILES = """
from benchmarks import registers

for name, case in registers.cases(quick=True).items():
    usage = registers.compile_kernel(name, *case)
    assert usage.stack == 0, usage  # nothing spills
    assert usage.registers <= 128, usage
print("all compile")
"""


LOSSES = """
import dataclasses, itertools, torch
from sasnet_ns.kernels import PointLoss, point_loss

torch.manual_seed(0)
predicted, target, weight = torch.randn(1500, 2), 0.3 * torch.randn(1500, 2), torch.rand(1500)
predicted[:5], target[5:9] = 0.0, 0.0
for power, near, absolute, w in itertools.product((1, 2), (None, 0.05), (False, True), (None, weight)):
    loss = PointLoss(power=power, near=near, absolute=absolute, far_weight=0.03)
    value, gradient = point_loss(predicted, target, loss, w, "triton")
    changing = dataclasses.replace(loss, far_weight=torch.tensor(0.03))
    assert point_loss(predicted, target, changing, w, "triton")[0] == value
    wanted, slope = point_loss(predicted.double(), target.double(), loss, None if w is None else w.double(), "torch")
    assert abs(float(value - wanted)) < 1e-6 * float(wanted), (loss, value, wanted)
    assert float((gradient - slope).abs().max()) < 1e-6 * float(slope.abs().max()), loss
    variable = predicted.double().requires_grad_()
    exact = loss(variable, target.double(), None if w is None else w.double())
    assert torch.equal(torch.autograd.grad(exact, variable)[0], slope) and exact.detach() == wanted
print("losses agree")
"""


def run(program: str, interpret: bool) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "scripts"), str(ROOT), environment.get("PYTHONPATH", "")])
    # a process of its own: the interpreter is chosen when a kernel is defined
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("dimensions", [(2,), pytest.param((1, 3, 4), marks=pytest.mark.slow)])
def test_interpreted_kernels_match_float64_reference(dimensions: tuple[int, ...]) -> None:
    assert "all agree" in run(f"DIMENSIONS = {dimensions}\n" + VALUES, interpret=True)


def test_interpreted_kernels_take_half_precision() -> None:
    assert "half agrees" in run(HALF, interpret=True)


def test_sines_are_exact_for_the_arguments_that_occur() -> None:
    assert "sines agree" in run(SINES, interpret=True)


def test_interpreted_loss_matches_float64_reference() -> None:
    assert "losses agree" in run(LOSSES, interpret=True)


def test_kernels_compile_for_cuda_without_spilling() -> None:
    pytest.importorskip("triton", "3.2", reason="before 3.2 Triton's compiler is called in another way")
    assert "all compile" in run(COMPILES, interpret=False)


def test_the_number_of_points_compiles_nothing_anew() -> None:
    from sasnet_ns.kernels import _triton_grid, _triton_loss, _triton_sine

    kernels = [
        getattr(m, name)
        for m in (_triton_grid, _triton_loss, _triton_sine)
        for name in dir(m)
        if name.endswith("_kernel")
    ]
    assert len(kernels) == 6
    for kernel in kernels:
        specialised = {p.name for p in kernel.params if not p.is_constexpr and not p.do_not_specialize}
        assert not specialised & {"count", "table_mask", "groups", "free"}, kernel
