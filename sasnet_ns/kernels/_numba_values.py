"""A network's values on a CPU, compiled by numba: one pass over the points, without what only gradients need.

The forward half of ``_numba_step``, block by block. Threads take the next block when they are done with one, so that
one which has to share its core with another program does not keep the others waiting.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from sasnet_ns.kernels._numba import jit
from sasnet_ns.kernels._numba_sine import ZERO, reduce_to_half_turn, sine_of
from sasnet_ns.kernels._numba_step import (
    BIAS,
    BLOCK,
    INPUTS,
    KIND,
    NEURON,
    OUTPUTS,
    PITCH,
    SINE,
    SOURCE,
    TARGET,
    WAVE,
    WEIGHT,
    activate,
    read_grid,
)
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels._vector import product, wide


def _claim(_: Any, counter: Any) -> Any:
    """Raise the first entry of an array of int64 by one for all threads; what it was before."""
    if not isinstance(counter, types.Array) or counter.dtype != types.int64:
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.atomic_rmw("add", array.data, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(counter), generate


claim: Any = intrinsic(_claim)


@jit
def _waves(layer, omega, weights, neurons, work):  # type: ignore[no-untyped-def]
    """Products of a sine layer to its output, without the cosines."""
    wide()
    bias_start, target, wave, neuron = layer[BIAS], layer[TARGET], layer[WAVE], layer[NEURON]
    for j in range(layer[OUTPUTS]):
        z, out, bias, mask = work[wave + j], work[target + j], weights[bias_start + j], neurons[neuron + j, 0]
        if mask >= 0:
            factor = work[mask]
            for b in range(BLOCK):
                r, sign = reduce_to_half_turn(omega * (z[b] + bias))
                out[b] = factor[b] * (sign * sine_of(r, r * r))
        else:
            for b in range(BLOCK):  # in place: of two rows the compiler would have to know that they are not one
                r, sign = reduce_to_half_turn(omega * (z[b] + bias))
                z[b] = sign * sine_of(r, r * r)
            if target != wave:
                for b in range(BLOCK):
                    out[b] = z[b]


@jit
def values_part(part, parts, counter, x, scale, weights, plan, omegas, neurons, feature, axes, channels, smooth, table, levels, table_mask, work_, places_, shares_, predicted):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Values (points, channels) of the blocks that this part gets hold of.

    ``counter`` holds the next block; ``work_`` (parts, rows, PITCH), ``places_`` and ``shares_`` (parts, levels,
    corners * CORNER) are scratch; ``feature`` is the first row of the grid's features.
    """
    wide()
    points, in_dim, out_dim = x.shape[0], x.shape[1], predicted.shape[1]
    work, places, shares = work_[part], places_[part], shares_[part]
    flat = work.reshape(-1)
    last = plan[plan.shape[0] - 1]
    blocks = (points + BLOCK - 1) // BLOCK
    block = claim(counter)
    while block < blocks:
        start = block * BLOCK
        count = min(BLOCK, points - start)
        for axis in range(in_dim):
            for b in range(count):
                work[axis, b] = scale * x[start + b, axis]
            for b in range(count, BLOCK):
                work[axis, b] = ZERO
        if levels.shape[0]:
            read_grid(work, feature, axes, channels, smooth, table, levels, table_mask, places, shares)
        for index in range(plan.shape[0]):
            layer = plan[index]
            inputs = layer[INPUTS]
            product(weights, layer[WEIGHT], inputs, 1, flat, layer[SOURCE] * PITCH, PITCH, flat, layer[WAVE] * PITCH, PITCH, layer[OUTPUTS], BLOCK, inputs, False)  # fmt: skip  # noqa: E501
            if layer[KIND] == SINE:
                _waves(layer, omegas[index], weights, neurons, work)
            else:
                activate(layer, omegas[index], weights, neurons, work)
        for b in range(count):
            for channel in range(out_dim):
                predicted[start + b, channel] = work[last[TARGET] + channel, b]
        block = claim(counter)


@jit
def values(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(values_part, team, parts, arguments)
