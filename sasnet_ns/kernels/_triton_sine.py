"""Masked sine layer on CUDA, in Triton: one program handles a block of rows of one group of neurons of one network.

So a mask is one number per row of the block, its gradient one sum, and neither needs atomics. Pre-activations and
masks may be of half precision; the arithmetic is float32, and so is what does not belong to a half tensor.
"""

# No deferred annotations here: the interpreter of Triton 3.0 does not know constexpr by its text.
import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sasnet_ns.kernels._device import on_device_of

LARGEST = 8192 * 3.14159
"""Up to this argument :func:`_sine` and :func:`_cosine` err by less than 3e-7; beyond it the error grows."""


@triton.jit
def _reduce(x):  # type: ignore[no-untyped-def]
    """Remainder of x by pi in [-pi/2, pi/2], and the bit that says whether the quotient is odd, as a float's sign.

    Triton's own sine falls back on a reduction for huge arguments that needs a table in memory and most registers. Here
    pi is split in three parts (Cody and Waite 1980), the first two of 11 bits, so that products with quotients of
    13 bits are exact.
    """
    shifted = x * 0.3183098861837907 + 12582912.0  # 1.5 * 2**23: the sum has no place for a fraction
    quotient = shifted - 12582912.0
    r = x - quotient * 3.140625
    r = r - quotient * 0.0009675025939941406
    r = r - quotient * 1.5099580252808664e-07
    # beyond all reduction: something bounded, and NaN for what is not a number
    r = tl.where(tl.abs(r) < 2.0, r, r * 0.0)
    return r, shifted.to(tl.int32, bitcast=True) << 31


@triton.jit
def _signed(value, flip):  # type: ignore[no-untyped-def]
    return (value.to(tl.int32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit
def _sine(r, flip):  # type: ignore[no-untyped-def]
    """Sine of what :func:`_reduce` took apart: a minimax polynomial, 5e-9 from the sine before rounding."""
    u = r * r
    p = u * 2.5997517241194146e-06 - 0.00019806479394901544
    p = p * u + 0.008333015255630016
    p = p * u - 0.16666656732559204
    return _signed(r + r * u * p, flip)


@triton.jit
def _cosine(r, flip):  # type: ignore[no-untyped-def]
    """Cosine of the same, 3e-10 before rounding."""
    u = r * r
    p = u * -2.607421833999979e-07 + 2.4761729946476407e-05
    p = p * u - 0.0013888400280848145
    p = p * u + 0.04166664183139801
    p = p * u - 0.5
    return _signed(p * u + 1.0, flip)


@triton.jit
def _block(count, block_rows: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's network, its first row among those of all networks, and how many of its network's rows are left."""
    network = tl.program_id(2).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * block_rows
    return network, network * count + start, count - start


@triton.jit
def _load(ptr, places, inside, other):  # type: ignore[no-untyped-def]
    """Numbers of any precision as float32."""
    return tl.load(ptr + places, mask=inside, other=other).to(tl.float32)


@triton.jit
def _arguments(z_ptr, weight_ptr, bias, omega, rows, columns, inside, count, width, in_dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """``omega * (z + bias)`` of a tile; with ``in_dim`` > 0, z are points to be multiplied by the weight."""
    if in_dim == 0:
        z = _load(z_ptr, rows[:, None] * width + columns[None, :], inside, 0.0)
    else:
        z = tl.zeros([rows.shape[0], columns.shape[0]], dtype=tl.float32)
        for axis in tl.static_range(in_dim):
            x = tl.load(z_ptr + rows * in_dim + axis, mask=rows < count, other=0.0)
            w = tl.load(weight_ptr + columns * in_dim + axis, mask=columns < width, other=0.0)
            z += x[:, None] * w[None, :]
    return omega * (z + bias[None, :])


@triton.jit(do_not_specialize=["count", "groups", "free"])
def _forward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, weight_ptr, bias_ptr, mask_ptr, out_ptr, borders_ptr, omega, count, width, groups, free,
    in_dim: tl.constexpr, masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    network, first, count = _block(count, block_rows)
    rows = tl.arange(0, block_rows)  # within the block, as 32-bit offsets from 64-bit pointers to its first row
    own = (rows < count) & (group >= free)
    if masked:
        m = _load(mask_ptr + first * groups, rows * groups + group - free, own, 1.0)[:, None]
    points_ptr = z_ptr + first * (width if in_dim == 0 else in_dim)
    bias_ptr += network * width
    weight_ptr += network * width * in_dim
    end = tl.load(borders_ptr + group + 1)
    for start in tl.range(tl.load(borders_ptr + group), end, block_columns, num_stages=1):
        columns = start + tl.arange(0, block_columns)
        inside = (rows < count)[:, None] & (columns < end)[None, :]
        bias = tl.load(bias_ptr + columns, mask=columns < end, other=0.0)
        r, flip = _reduce(_arguments(points_ptr, weight_ptr, bias, omega, rows, columns, inside, count, width, in_dim))
        value = _sine(r, flip)
        if masked:
            value *= m
        tl.store(out_ptr + first * width + (rows[:, None] * width + columns[None, :]), value, mask=inside)


@triton.jit(do_not_specialize=["count", "groups", "free"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    g_ptr, z_ptr, weight_ptr, bias_ptr, mask_ptr, grad_z_ptr, grad_bias_ptr, grad_mask_ptr, borders_ptr,
    omega, count, width, groups, free,
    in_dim: tl.constexpr, masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    network, first, count = _block(count, block_rows)
    rows = tl.arange(0, block_rows)  # within the block, as 32-bit offsets from 64-bit pointers to its first row
    own = (rows < count) & (group >= free)
    if masked:
        m = _load(mask_ptr + first * groups, rows * groups + group - free, own, 1.0)[:, None]
    grad_mask = tl.zeros([block_rows], dtype=tl.float32)
    points_ptr = z_ptr + first * (width if in_dim == 0 else in_dim)
    bias_ptr += network * width
    weight_ptr += network * width * in_dim
    grad_bias_ptr += (network * tl.num_programs(0) + tl.program_id(0)) * width
    end = tl.load(borders_ptr + group + 1)
    for start in tl.range(tl.load(borders_ptr + group), end, block_columns, num_stages=1):
        columns = start + tl.arange(0, block_columns)
        inside = (rows < count)[:, None] & (columns < end)[None, :]
        place = rows[:, None] * width + columns[None, :]
        bias = tl.load(bias_ptr + columns, mask=columns < end, other=0.0)
        r, flip = _reduce(_arguments(points_ptr, weight_ptr, bias, omega, rows, columns, inside, count, width, in_dim))
        g = _load(g_ptr + first * width, place, inside, 0.0)
        if masked:
            grad_mask += tl.sum(g * _sine(r, flip), axis=1)
            g *= m
        grad = g * omega * _cosine(r, flip)
        if in_dim == 0:
            tl.store(grad_z_ptr + first * width + place, grad, mask=inside)
        tl.store(grad_bias_ptr + columns, tl.sum(grad, axis=0), mask=columns < end)
    if masked:
        tl.store(grad_mask_ptr + first * groups + rows * groups + group - free, grad_mask, mask=own)


@triton.jit(do_not_specialize=["count", "groups", "free"])
def _backward2_kernel(  # type: ignore[no-untyped-def]
    g_ptr, vz_ptr, vb_ptr, vm_ptr, z_ptr, bias_ptr, mask_ptr, grad_g_ptr, grad_z_ptr, grad_bias_ptr, grad_mask_ptr,
    borders_ptr, omega, count, width, groups, free,
    masked: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    network, first, count = _block(count, block_rows)
    rows = tl.arange(0, block_rows)  # within the block, as 32-bit offsets from 64-bit pointers to its first row
    own = (rows < count) & (group >= free)
    if masked:
        m = _load(mask_ptr + first * groups, rows * groups + group - free, own, 1.0)[:, None]
        vm = _load(vm_ptr + first * groups, rows * groups + group - free, own, 0.0)[:, None]
    grad_mask = tl.zeros([block_rows], dtype=tl.float32)
    bias_ptr += network * width
    vb_ptr += network * width
    grad_bias_ptr += (network * tl.num_programs(0) + tl.program_id(0)) * width
    end = tl.load(borders_ptr + group + 1)
    for start in tl.range(tl.load(borders_ptr + group), end, block_columns, num_stages=1):
        columns = start + tl.arange(0, block_columns)
        inside = (rows < count)[:, None] & (columns < end)[None, :]
        place = rows[:, None] * width + columns[None, :]
        bias = tl.load(bias_ptr + columns, mask=columns < end, other=0.0)
        r, flip = _reduce(_arguments(z_ptr + first * width, z_ptr, bias, omega, rows, columns, inside, count, width, 0))
        sin, cos = _sine(r, flip), _cosine(r, flip)
        g = _load(g_ptr + first * width, place, inside, 0.0)
        v = _load(vz_ptr + first * width, place, inside, 0.0)
        v = omega * (v + tl.load(vb_ptr + columns, mask=columns < end, other=0.0)[None, :])
        grad_g = v * cos
        grad_z = -v * sin
        if masked:
            grad_mask += tl.sum(g * grad_g, axis=1)
            grad_g = grad_g * m + vm * sin
            grad_z = grad_z * m + vm * cos
        grad_z = grad_z * omega * g
        tl.store(grad_g_ptr + first * width + place, grad_g, mask=inside)
        tl.store(grad_z_ptr + first * width + place, grad_z, mask=inside)
        tl.store(grad_bias_ptr + columns, tl.sum(grad_z, axis=0), mask=columns < end)
    if masked:
        tl.store(grad_mask_ptr + first * groups + rows * groups + group - free, grad_mask, mask=own)


BLOCK_ROWS = 32
WIDEST = 32
"""Neurons without a mask are cut into blocks of this many; a wider group's program takes as many at a time."""
WARPS = 8
"""Of a program: four numbers of a tile for each thread, so that registers leave room for many of them."""


def block_columns(widest: int) -> int:
    """Neurons that a program holds at a time where the widest group has ``widest``."""
    return min(WIDEST, triton.next_power_of_2(widest))


@functools.lru_cache(maxsize=256)
def _borders(group_sizes: tuple[int, ...], width: int, device: torch.device) -> tuple[Tensor, int, int]:
    """Borders of the groups, the first of them cut from the unmasked neurons; how many those are; the tile's width."""
    free = width - sum(group_sizes)
    cuts = [*range(0, free, WIDEST), free] if free else [0]
    for size in group_sizes:
        cuts.append(cuts[-1] + size)
    widest = max(b - a for a, b in zip(cuts, cuts[1:], strict=False))
    unmasked = len(cuts) - 1 - len(group_sizes)
    return torch.tensor(cuts, dtype=torch.int32, device=device), unmasked, block_columns(widest)


def forward(
    z: Tensor, weight: Tensor | None, bias: Tensor, mask: Tensor | None, omega: float, group_sizes: Sequence[int]
) -> Tensor:
    """Activations (K, N, width) of ``z`` (K, N, width), or of points (K, N, d) with ``weight`` (K, width, d)."""
    (networks, rows), width = z.shape[:2], bias.shape[1]
    z, bias = z.contiguous(), bias.contiguous()
    out = bias.new_empty(networks, rows, width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        with on_device_of(z):
            _forward_kernel[triton.cdiv(rows, BLOCK_ROWS), borders.shape[0] - 1, networks](
                z, z if weight is None else weight.contiguous(), bias, z if mask is None else mask.contiguous(), out,
                borders, omega, rows, width, len(group_sizes), free,
                in_dim=0 if weight is None else weight.shape[2], masked=mask is not None,
                block_rows=BLOCK_ROWS, block_columns=columns, num_warps=WARPS,
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
    grad_mask = (z if mask is None else mask).new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    grad_bias = bias.new_empty(networks, triton.cdiv(rows, BLOCK_ROWS), width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        with on_device_of(z):
            _backward_kernel[grad_bias.shape[1], borders.shape[0] - 1, networks](
                g, z, z if weight is None else weight.contiguous(), bias, z if mask is None else mask.contiguous(),
                grad_z, grad_bias, grad_mask, borders, omega, rows, width, len(group_sizes), free,
                in_dim=0 if weight is None else weight.shape[2], masked=mask is not None,
                block_rows=BLOCK_ROWS, block_columns=columns, num_warps=WARPS,
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
    grad_g, grad_z = torch.empty_like(g), torch.empty_like(z)
    grad_mask = (z if mask is None else mask).new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    grad_bias = bias.new_empty(networks, triton.cdiv(rows, BLOCK_ROWS), width)
    borders, free, columns = _borders(tuple(group_sizes), width, z.device)
    if rows:
        with on_device_of(z):
            _backward2_kernel[grad_bias.shape[1], borders.shape[0] - 1, networks](
                g, vz, vb, vm, z, bias, z if mask is None else mask.contiguous(), grad_g, grad_z, grad_bias, grad_mask,
                borders, omega, rows, width, len(group_sizes), free,
                masked=mask is not None, block_rows=BLOCK_ROWS, block_columns=columns, num_warps=WARPS,
            )  # fmt: skip
    return grad_g, grad_z, grad_bias.sum(1), grad_mask
