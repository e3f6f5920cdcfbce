"""Triton kernels in Triton's interpreter (values), and compiled for a CUDA target that need not be present."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

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
print("all agree")
"""

COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sasnet_ns.kernels import _triton_grid as grid, _triton_sine as sine

def build(kernel, constants, types):
    names = [p.name for p in kernel.params if not p.is_constexpr]
    signature = {n: types.get(n, "*fp32" if n.endswith("_ptr") else "i32") for n in names}
    signature.update({n: "constexpr" for n in constants})
    constexprs = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

levels = {"levels_ptr": "*i32"}
shape = dict(levels=10, features=2, padded=2, block=128)
for in_dim, smooth, tangent in ((2, True, True), (3, False, False)):
    flags = dict(shape, in_dim=in_dim, smooth=smooth, tangent=tangent)
    assert build(grid._gather_kernel, dict(flags, scatter=False), levels)
    assert "red." in (ptx := build(grid._gather_kernel, dict(flags, scatter=True), levels)) or "atom." in ptx
    assert build(grid._contract_kernel, flags, levels)
types = {"borders_ptr": "*i32", "omega": "fp32"}
blocks = dict(block_rows=64, block_columns=32)
for in_dim, masked in ((0, True), (0, False), (3, True)):
    assert build(sine._forward_kernel, dict(blocks, in_dim=in_dim, masked=masked), types)
    assert build(sine._backward_kernel, dict(blocks, in_dim=in_dim, masked=masked), types)
assert build(sine._backward2_kernel, dict(blocks, masked=True), types)
print("all compile")
"""


def run(program: str, interpret: bool) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "OMP_NUM_THREADS": "1"}
    # a process of its own: the interpreter is chosen when a kernel is defined
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("dimensions", [(2,), pytest.param((1, 3, 4), marks=pytest.mark.slow)])
def test_interpreted_kernels_match_float64_reference(dimensions: tuple[int, ...]) -> None:
    assert "all agree" in run(f"DIMENSIONS = {dimensions}\n" + VALUES, interpret=True)


def test_kernels_compile_for_cuda() -> None:
    assert "all compile" in run(COMPILES, interpret=False)
