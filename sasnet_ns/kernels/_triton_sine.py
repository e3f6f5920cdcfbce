"""Masked sine layer on CUDA, in Triton: one program handles a block of rows of one group of neurons of one network.

So a mask is one number per row of the block, its gradient one sum, and neither needs atomics.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _arguments(z_ptr, weight_ptr, bias, omega, rows, columns, inside, width, in_dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """``omega * (z + bias)`` of a tile; with ``in_dim`` > 0, z are points to be multiplied by the weight."""
    if in_dim == 0:
        z = tl.load(z_ptr + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)
    else:
        z = tl.zeros([rows.shape[0], columns.shape[0]], dtype=tl.float32)
        for axis in tl.static_range(in_dim):
            valid = tl.max(inside.to(tl.int32), axis=1) > 0
            x = tl.load(z_ptr + rows * in_dim + axis, mask=valid, other=0.0)
            w = tl.load(weight_ptr + columns * in_dim + axis, mask=columns < width, other=0.0)
            z += x[:, None] * w[None, :]
    return omega * (z + bias[None, :])


@triton.jit
def _tile(borders_ptr, group, count, block_rows: tl.constexpr, block_columns: tl.constexpr):  # type: ignore[no-untyped-def]
    rows = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    columns = tl.load(borders_ptr + group) + tl.arange(0, block_columns)
    inside = (rows < count)[:, None] & (columns < tl.load(borders_ptr + group + 1))[None, :]
    return rows, columns, inside


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, weight_ptr, bias_ptr, mask_ptr, out_ptr, borders_ptr, omega, count, width, groups, free,
    in_dim: tl.constexpr, masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group, network = tl.program_id(1), tl.program_id(2).to(tl.int64)
    z_ptr += network * count * (width if in_dim == 0 else in_dim)
    weight_ptr += network * width * in_dim
    bias_ptr += network * width
    mask_ptr += network * count * groups
    out_ptr += network * count * width
    rows, columns, inside = _tile(borders_ptr, group, count, block_rows, block_columns)
    bias = tl.load(bias_ptr + columns, mask=columns < width, other=0.0)
    value = tl.sin(_arguments(z_ptr, weight_ptr, bias, omega, rows, columns, inside, width, in_dim))
    if masked:
        own = (rows < count) & (group >= free)
        value *= tl.load(mask_ptr + rows * groups + group - free, mask=own, other=1.0)[:, None]
    tl.store(out_ptr + rows[:, None] * width + columns[None, :], value, mask=inside)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    g_ptr, z_ptr, weight_ptr, bias_ptr, mask_ptr, grad_z_ptr, grad_bias_ptr, grad_mask_ptr, borders_ptr,
    omega, count, width, groups, free,
    in_dim: tl.constexpr, masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group, network = tl.program_id(1), tl.program_id(2).to(tl.int64)
    g_ptr += network * count * width
    z_ptr += network * count * (width if in_dim == 0 else in_dim)
    weight_ptr += network * width * in_dim
    bias_ptr += network * width
    mask_ptr += network * count * groups
    grad_z_ptr += network * count * width
    grad_bias_ptr += network * tl.num_programs(0) * width
    grad_mask_ptr += network * count * groups
    rows, columns, inside = _tile(borders_ptr, group, count, block_rows, block_columns)
    place = rows[:, None] * width + columns[None, :]
    bias = tl.load(bias_ptr + columns, mask=columns < width, other=0.0)
    argument = _arguments(z_ptr, weight_ptr, bias, omega, rows, columns, inside, width, in_dim)
    g = tl.load(g_ptr + place, mask=inside, other=0.0)
    grad = g * omega * tl.cos(argument)
    if masked:
        own = (rows < count) & (group >= free)
        grad *= tl.load(mask_ptr + rows * groups + group - free, mask=own, other=1.0)[:, None]
        tl.store(grad_mask_ptr + rows * groups + group - free, tl.sum(g * tl.sin(argument), axis=1), mask=own)
    if in_dim == 0:
        tl.store(grad_z_ptr + place, grad, mask=inside)
    column_inside = columns < tl.load(borders_ptr + group + 1)
    tl.store(grad_bias_ptr + tl.program_id(0) * width + columns, tl.sum(grad, axis=0), mask=column_inside)


@triton.jit
def _backward2_kernel(  # type: ignore[no-untyped-def]
    g_ptr, vz_ptr, vb_ptr, vm_ptr, z_ptr, bias_ptr, mask_ptr, grad_g_ptr, grad_z_ptr, grad_bias_ptr, grad_mask_ptr,
    borders_ptr, omega, count, width, groups, free,
    masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group, network = tl.program_id(1), tl.program_id(2).to(tl.int64)
    g_ptr += network * count * width
    vz_ptr += network * count * width
    vb_ptr += network * width
    vm_ptr += network * count * groups
    z_ptr += network * count * width
    bias_ptr += network * width
    mask_ptr += network * count * groups
    grad_g_ptr += network * count * width
    grad_z_ptr += network * count * width
    grad_bias_ptr += network * tl.num_programs(0) * width
    grad_mask_ptr += network * count * groups
    rows, columns, inside = _tile(borders_ptr, group, count, block_rows, block_columns)
    place = rows[:, None] * width + columns[None, :]
    bias = tl.load(bias_ptr + columns, mask=columns < width, other=0.0)
    argument = _arguments(z_ptr, z_ptr, bias, omega, rows, columns, inside, width, 0)
    sin, cos = tl.sin(argument), tl.cos(argument)
    g = tl.load(g_ptr + place, mask=inside, other=0.0)
    v = tl.load(vz_ptr + place, mask=inside, other=0.0)
    v = omega * (v + tl.load(vb_ptr + columns, mask=columns < width, other=0.0)[None, :])
    grad_g = v * cos
    grad_z = -v * sin
    if masked:
        own = (rows < count) & (group >= free)
        m = tl.load(mask_ptr + rows * groups + group - free, mask=own, other=1.0)[:, None]
        vm = tl.load(vm_ptr + rows * groups + group - free, mask=own, other=0.0)[:, None]
        tl.store(grad_mask_ptr + rows * groups + group - free, tl.sum(g * v * cos, axis=1), mask=own)
        grad_g = grad_g * m + vm * sin
        grad_z = grad_z * m + vm * cos
    grad_z = grad_z * omega * g
    tl.store(grad_g_ptr + place, grad_g, mask=inside)
    tl.store(grad_z_ptr + place, grad_z, mask=inside)
    column_inside = columns < tl.load(borders_ptr + group + 1)
    tl.store(grad_bias_ptr + tl.program_id(0) * width + columns, tl.sum(grad_z, axis=0), mask=column_inside)


BLOCK_ROWS = 64
WIDEST = 64
"""Neurons without a mask are cut into blocks of this many."""


@functools.lru_cache(maxsize=256)
def _borders(group_sizes: tuple[int, ...], width: int, device: torch.device) -> tuple[Tensor, int, int]:
    """Borders of the groups, the first of them cut from the unmasked neurons; how many those are; the widest group."""
    free = width - sum(group_sizes)
    cuts = [*range(0, free, WIDEST), free] if free else [0]
    for size in group_sizes:
        cuts.append(cuts[-1] + size)
    widest = max(b - a for a, b in zip(cuts, cuts[1:], strict=False))
    unmasked = len(cuts) - 1 - len(group_sizes)
    return torch.tensor(cuts, dtype=torch.int32, device=device), unmasked, triton.next_power_of_2(widest)


def forward(
    z: Tensor, weight: Tensor | None, bias: Tensor, mask: Tensor | None, omega: float, group_sizes: Sequence[int]
) -> Tensor:
    """Activations (K, N, width) of ``z`` (K, N, width), or of points (K, N, d) with ``weight`` (K, width, d)."""
    (networks, rows), width = z.shape[:2], bias.shape[1]
    z, bias = z.contiguous(), bias.contiguous()
    out = z.new_empty(networks, rows, width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        _forward_kernel[triton.cdiv(rows, BLOCK_ROWS), borders.shape[0] - 1, networks](
            z, z if weight is None else weight.contiguous(), bias, z if mask is None else mask.contiguous(), out,
            borders, omega, rows, width, len(group_sizes), free,
            in_dim=0 if weight is None else weight.shape[2], masked=mask is not None,
            block_rows=BLOCK_ROWS, block_columns=columns,
        )  # fmt: skip
    return out


def backward(
    g: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by ``z`` (K, N, width; no rows with ``weight``), bias (K, width) and mask (K, N, groups)."""
    (networks, rows), width = z.shape[:2], bias.shape[1]
    g, z, bias = g.contiguous(), z.contiguous(), bias.contiguous()
    grad_z = z.new_empty(networks, rows if weight is None else 0, width)
    grad_mask = z.new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    grad_bias = z.new_empty(networks, triton.cdiv(rows, BLOCK_ROWS), width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        _backward_kernel[grad_bias.shape[1], borders.shape[0] - 1, networks](
            g, z, z if weight is None else weight.contiguous(), bias, z if mask is None else mask.contiguous(),
            grad_z, grad_bias, grad_mask, borders, omega, rows, width, len(group_sizes), free,
            in_dim=0 if weight is None else weight.shape[2], masked=mask is not None,
            block_rows=BLOCK_ROWS, block_columns=columns,
        )  # fmt: skip
    return grad_z, grad_bias.sum(1), grad_mask


def backward2(
    g: Tensor,
    vz: Tensor,
    vb: Tensor,
    vm: Tensor,
    z: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by g, z, bias and mask of ``<(vz, vb, vm), backward(g, z, bias, mask)>``."""
    networks, rows, width = z.shape
    g, vz, vb, vm, z, bias = (tensor.contiguous() for tensor in (g, vz, vb, vm, z, bias))
    grad_g, grad_z = torch.empty_like(z), torch.empty_like(z)
    grad_mask = z.new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    grad_bias = z.new_empty(networks, triton.cdiv(rows, BLOCK_ROWS), width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        _backward2_kernel[grad_bias.shape[1], borders.shape[0] - 1, networks](
            g, vz, vb, vm, z, bias, z if mask is None else mask.contiguous(), grad_g, grad_z, grad_bias, grad_mask,
            borders, omega, rows, width, len(group_sizes), free,
            masked=mask is not None, block_rows=BLOCK_ROWS, block_columns=columns,
        )  # fmt: skip
    return grad_g, grad_z, grad_bias.sum(1), grad_mask
