"""Masked sine layer on a CPU, compiled by numba: one pass over the rows forward, one backward.

Each row's group masks are spread over its neurons in a scratch row that never leaves the first-level cache, and sines
and cosines are polynomials in plain arithmetic, which the compiler turns into vector instructions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels._numba import APART, array, entry, jit, run, scratch, span, threads_for
from sasnet_ns.kernels._openmp import on_team


def _float32(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)


# pi in four parts, the first three short enough that small multiples of them are exact (Cody and Waite)
PI_0, PI_1, PI_2, PI_3 = _float32(3.140625, 0.0009670257568359375, 6.277114152908325e-07, 1.2154201256553421e-10)
PER_PI = np.float32(1.0 / np.pi)
PADDING = 8
ROWS_PER_THREAD = 512
ROUND = np.float32(1.5 * 2**23)
LIMIT = np.float32(1.6)
ZERO, HALF, ONE, FOUR = _float32(0.0, 0.5, 1.0, 4.0)
# minimax polynomials on [-pi/2, pi/2], errors below 1e-8
S1, S2, S3, S4 = _float32(-0.16666656732559204, 0.008333017118275166, -0.00019806608906947076, 2.6000393518188503e-06)
C1, C2, C3, C4 = _float32(0.041666656732559204, -0.0013888567918911576, 2.4769240553723648e-05, -2.619248391511064e-07)


# Inlined, because a call from a cached function is not, and the loops would not become vector instructions.
@numba.njit(inline="always")
def reduce_to_half_turn(a):  # type: ignore[no-untyped-def]
    """Angle in [-pi/2, pi/2] and sign such that ``sin(a) = sign * sin(angle)``, and so for the cosine."""
    n = (a * PER_PI + ROUND) - ROUND
    r = (((a - n * PI_0) - n * PI_1) - n * PI_2) - n * PI_3
    odd = n * HALF
    return min(max(r, -LIMIT), LIMIT), ONE - FOUR * (odd - np.floor(odd))


@numba.njit(inline="always")
def sine_of(r, u):  # type: ignore[no-untyped-def]
    """Sine of an angle ``r`` in [-pi/2, pi/2] of square ``u``."""
    return r + r * u * (S1 + u * (S2 + u * (S3 + u * S4)))


@numba.njit(inline="always")
def cosine_of(u):  # type: ignore[no-untyped-def]
    """Cosine of an angle in [-pi/2, pi/2] of square ``u``."""
    return ONE - HALF * u + u * u * (C1 + u * (C2 + u * (C3 + u * C4)))


@jit
def _sin(arg, count, out):  # type: ignore[no-untyped-def]
    """Sine of a float32 row to 1e-7; for |arg| beyond 1e5 the phase fades as it does in the argument itself."""
    for j in range(count):
        r, sign = reduce_to_half_turn(arg[j])
        out[j] = sign * sine_of(r, r * r)


@jit
def _sincos(arg, count, sin, cos):  # type: ignore[no-untyped-def]
    """Sine and cosine of a float32 row."""
    for j in range(count):
        r, sign = reduce_to_half_turn(arg[j])
        u = r * r
        sin[j] = sign * sine_of(r, u)
        cos[j] = sign * cosine_of(u)


@jit
def _arguments(z, weight, bias, omega, row, arg):  # type: ignore[no-untyped-def]
    """``omega * (z + bias)`` of one row, or ``z weight + bias`` with ``weight`` (in_dim, width)."""
    width = bias.shape[0]
    if weight is None:
        source = z[row]
        for j in range(width):
            arg[j] = omega * (source[j] + bias[j])
    else:
        coordinate, frequency = z[row, 0], weight[0]
        for j in range(width):
            arg[j] = bias[j] + coordinate * frequency[j]
        for axis in range(1, weight.shape[0]):
            coordinate, frequency = z[row, axis], weight[axis]
            for j in range(width):
                arg[j] += coordinate * frequency[j]


@jit
def _spread(mask, ends, row, wide):  # type: ignore[no-untyped-def]
    """Group masks of one row over its neurons; ``ends`` are the borders of the groups.

    Writes whole vectors of 8: what spills over a group's end is overwritten by the next group, the last spill lands in
    the padding of ``wide``. Groups are too short for a loop over their exact length to vectorise.
    """
    if mask is not None:
        for group in range(ends.shape[0] - 1):
            value = mask[row, group]
            for start in range(ends[group], ends[group + 1], 8):
                chunk = wide[start : start + 8]
                for j in range(8):
                    chunk[j] = value


@jit
def _group_sums(values, ends, row, out):  # type: ignore[no-untyped-def]
    """Sum of a row over each group, in four lanes."""
    for group in range(ends.shape[0] - 1):
        part = values[ends[group] : ends[group + 1]]
        size = part.shape[0] - part.shape[0] % 4
        a, b, c, d = ZERO, ZERO, ZERO, ZERO
        for j in range(0, size, 4):
            a, b, c, d = a + part[j], b + part[j + 1], c + part[j + 2], d + part[j + 3]
        for j in range(size, part.shape[0]):
            a += part[j]
        out[row, group] = (a + b) + (c + d)


@jit
def _forward_network(part, parts, z, weight, bias, mask, omega, ends, out):  # type: ignore[no-untyped-def]
    begin, end = span(part, parts, z.shape[0])
    width = bias.shape[0]
    arg, wide = scratch((width,), np.float32), scratch((width + PADDING,), np.float32)
    wide[:] = ONE
    for row in range(begin, end):
        _arguments(z, weight, bias, omega, row, arg)
        target = out[row]
        _sin(arg, width, target)
        if mask is not None:
            _spread(mask, ends, row, wide)
            for j in range(width):
                target[j] *= wide[j]


@jit
def _backward_network(part, parts, g, z, weight, bias, mask, omega, ends, grad_z, grad_mask, sums):  # type: ignore[no-untyped-def]
    begin, end = span(part, parts, z.shape[0])
    grad_bias = sums[part]
    width = bias.shape[0]
    arg, wide = scratch((width,), np.float32), scratch((width + PADDING,), np.float32)
    wide[:] = ONE
    sin, cos, products = scratch((width,), np.float32), scratch((width,), np.float32), scratch((width,), np.float32)
    for row in range(begin, end):
        _arguments(z, weight, bias, omega, row, arg)
        _sincos(arg, width, sin, cos)
        _spread(mask, ends, row, wide)
        incoming = g[row]
        for j in range(width):
            products[j] = incoming[j] * wide[j] * omega * cos[j]
        for j in range(width):
            grad_bias[j] += products[j]
        if weight is None:
            target = grad_z[row]
            for j in range(width):
                target[j] = products[j]
        if mask is not None:
            for j in range(width):
                products[j] = incoming[j] * sin[j]
            _group_sums(products, ends, row, grad_mask)


@jit
def _backward2_network(part, parts, g, vz, vb, vm, z, bias, mask, omega, ends, grad_g, grad_z, grad_mask, sums):  # type: ignore[no-untyped-def]
    begin, end = span(part, parts, z.shape[0])
    grad_bias = sums[part]
    width = bias.shape[0]
    arg, wide = scratch((width,), np.float32), scratch((width + PADDING,), np.float32)
    wide[:] = ONE
    spread_vm = scratch((width + PADDING,), np.float32)
    sin, cos, products = scratch((width,), np.float32), scratch((width,), np.float32), scratch((width,), np.float32)
    for row in range(begin, end):
        _arguments(z, None, bias, omega, row, arg)
        _sincos(arg, width, sin, cos)
        _spread(mask, ends, row, wide)
        _spread(vm, ends, row, spread_vm)
        incoming, along, target, target_g = g[row], vz[row], grad_z[row], grad_g[row]
        for j in range(width):
            v = omega * (along[j] + vb[j])
            target_g[j] = v * wide[j] * cos[j] + spread_vm[j] * sin[j]
            products[j] = incoming[j] * v * cos[j]
            arg[j] = omega * incoming[j] * (spread_vm[j] * cos[j] - v * wide[j] * sin[j])
        for j in range(width):
            grad_bias[j] += arg[j]
            target[j] = arg[j]
        if mask is not None:
            _group_sums(products, ends, row, grad_mask)


@jit
def _forward_part(part, parts, z, weight, bias, mask, omega, ends, out):  # type: ignore[no-untyped-def]
    for k in range(z.shape[0]):
        _forward_network(part, parts, z[k], entry(weight, k), bias[k], entry(mask, k), omega, ends, out[k])


@jit
def _backward_part(part, parts, g, z, weight, bias, mask, omega, ends, grad_z, grad_mask, sums):  # type: ignore[no-untyped-def]
    for k in range(z.shape[0]):
        _backward_network(part, parts, g[k], z[k], entry(weight, k), bias[k], entry(mask, k), omega, ends, grad_z[k], grad_mask[k], sums[k])  # fmt: skip  # noqa: E501


@jit
def _backward2_part(part, parts, g, vz, vb, vm, z, bias, mask, omega, ends, grad_g, grad_z, grad_mask, sums):  # type: ignore[no-untyped-def]
    for k in range(z.shape[0]):
        _backward2_network(part, parts, g[k], vz[k], vb[k], entry(vm, k), z[k], bias[k], entry(mask, k), omega, ends, grad_g[k], grad_z[k], grad_mask[k], sums[k])  # fmt: skip  # noqa: E501


@jit
def _forward(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_forward_part, team, parts, arguments)


@jit
def _backward(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_backward_part, team, parts, arguments)


@jit
def _backward2(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(_backward2_part, team, parts, arguments)


@functools.lru_cache(maxsize=256)
def _ends(group_sizes: tuple[int, ...], width: int) -> np.ndarray:
    return np.cumsum([width - sum(group_sizes), *group_sizes]).astype(np.int64)


def forward(
    z: Tensor, weight: Tensor | None, bias: Tensor, mask: Tensor | None, omega: float, group_sizes: Sequence[int]
) -> Tensor:
    """Activations (K, N, width) of ``z`` (K, N, width), or of points (K, N, d) with ``weight`` (K, width, d)."""
    (networks, rows), width = z.shape[:2], bias.shape[1]
    out = z.new_empty(networks, rows, width)
    across = None if weight is None else weight.mT
    ends = _ends(tuple(group_sizes), width)
    arguments = (array(z), array(across), array(bias), array(mask), np.float32(omega), ends, out.numpy())
    run(_forward, _forward_part, threads_for(rows, ROWS_PER_THREAD), *arguments)
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
    grad_z = z.new_empty(networks, rows if weight is None else 0, width)
    grad_mask = z.new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    across = None if weight is None else weight.mT
    ends = _ends(tuple(group_sizes), width)
    inputs = (array(g), array(z), array(across), array(bias), array(mask), np.float32(omega), ends)
    outputs = (grad_z.numpy(), grad_mask.numpy())
    return grad_z, _run_and_sum(_backward, _backward_part, z.shape[:2], width, (*inputs, *outputs)), grad_mask


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
    grad_g, grad_z = z.new_empty(z.shape), z.new_empty(z.shape)
    grad_mask = z.new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    ends = _ends(tuple(group_sizes), width)
    inputs = (array(g), array(vz), array(vb), None if mask is None else array(vm), array(z), array(bias), array(mask))
    outputs = (grad_g.numpy(), grad_z.numpy(), grad_mask.numpy())
    arguments = (*inputs, np.float32(omega), ends, *outputs)
    return grad_g, grad_z, _run_and_sum(_backward2, _backward2_part, z.shape[:2], width, arguments), grad_mask


def _run_and_sum(
    launcher: Callable[..., None],
    kernel: Callable[..., None],
    size: Sequence[int],
    width: int,
    arguments: tuple[Any, ...],
) -> Tensor:
    """Run a backward kernel on all networks' rows; each thread adds up bias gradients in rows of its own."""
    networks, rows = size
    sums = torch.zeros(networks, threads_for(rows, ROWS_PER_THREAD), width + APART)
    run(launcher, kernel, sums.shape[1], *arguments, sums.numpy())
    return sums[:, 0, :width].contiguous() if sums.shape[1] == 1 else sums[:, :, :width].sum(1)
