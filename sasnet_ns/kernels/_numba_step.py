"""A whole training step on a CPU, compiled by numba: values, loss and every gradient in one pass over the points.

Points are handled in blocks whose activations never leave the second-level cache. A block's numbers lie neuron by
neuron: a row holds one neuron at all points of the block, so that sines, masks and their gradients are plain loops over
points whatever the groups' sizes, and a mask is a row by which its neurons' rows are multiplied. Every thread adds up
gradients of its own; a second, short region adds the threads' sums, always in the same order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sasnet_ns.kernels import _numba_grid
from sasnet_ns.kernels._numba import jit, span
from sasnet_ns.kernels._numba_sine import ONE, ZERO, cosine_of, reduce_to_half_turn, sine_of
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels._vector import dot, product, transpose, wide

BLOCK = 64
"""Points per block: at 128 and more, the activations of SASNet's paper size no longer fit beside its weights."""
CORNER = _numba_grid.BLOCK
"""Numbers from one corner of the hash grid's cells to the next."""
PITCH = BLOCK + 16
"""Numbers from one row to the next; a power of two would map all rows to the same few lines of the cache."""
FEW_INPUTS = 4
"""Layers with no more inputs than this (the coordinates) get their gradient by dot products."""

AFFINE, RELU, SIGMOID, SINE, FINER, FINER_DETACHED, GAUSS, GABOR = range(8)
"""What follows a layer's product, in column ``KIND`` of the plan; from ``SINE`` on a layer keeps numbers for its
gradient, in the rows from ``COSINE`` on."""
# fmt: off
(SOURCE, INPUTS, OUTPUTS, WEIGHT, BIAS, KIND, TARGET, WAVE, COSINE, SLOPE, SOURCE_SLOPE, ADDS, GRAD, GRAD_PITCH, BIAS_GRAD, NEURON, FIELDS) = range(17)  # noqa: E501
# fmt: on
"""Columns of the plan, one row a layer in the order of the forward pass. ``SOURCE``, ``TARGET``, ``WAVE``, ``COSINE``:
first rows of its input, its output, the waves before the mask, and their slopes over omega (z for ``GABOR``);
``SLOPE``, ``SOURCE_SLOPE``: first rows of the gradients by output and input (-1: not wanted), which it adds to what is
there if ``ADDS``; ``WEIGHT``, ``BIAS``: where its parameters begin; ``GRAD``, ``GRAD_PITCH``, ``BIAS_GRAD``: where its
sums do (-1: frozen), and how far apart their rows are; ``NEURON``: where its neurons are in the list of masks."""
POWER, AGNOSTIC, NEAR, FAR, MARGIN, SCALE, RULES = range(7)
"""Entries of the loss's numbers."""

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND, _LARGE, TWO = np.float32(1.5 * 2**23), np.float32(80.0), np.float32(2.0)
# minimax polynomial of (exp(r) - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2] (Cephes, expf)
_E = tuple(
    np.float32(value)
    for value in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_E0, _E1, _E2, _E3, _E4, _E5 = _E


def _as_float(_: Any, bits: Any) -> Any:
    """The float32 of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), generate


as_float: Any = intrinsic(_as_float)


@numba.njit(inline="always")
def exp_of(a):  # type: ignore[no-untyped-def]
    """``exp(a)`` to 2e-7 for ``|a|`` up to 80 and constant beyond, in arithmetic that becomes vector instructions."""
    b = min(max(a, -_LARGE), _LARGE)
    n = (b * _LOG2E + _ROUND) - _ROUND
    r = (b - n * _LN2_HIGH) - n * _LN2_LOW
    e = ONE + r + r * r * (_E5 + r * (_E4 + r * (_E3 + r * (_E2 + r * (_E1 + r * _E0)))))
    return e * as_float((np.int32(n) + np.int32(127)) << np.int32(23))


@numba.njit(inline="always")
def _sigmoid(a):  # type: ignore[no-untyped-def]
    """``1 / (1 + exp(-a))``."""
    return ONE / (ONE + exp_of(-a))


@jit
def _wavelets(layer, omega, weights, work):  # type: ignore[no-untyped-def]
    """Products of a layer of pairs to its wavelets."""
    wide()
    half, target, kept, bias_start = layer[OUTPUTS] // 2, layer[TARGET], layer[COSINE], layer[BIAS]
    for j in range(half):
        first, second, a, b = work[target + j], work[target + half + j], work[kept + j], work[kept + half + j]
        first_bias, second_bias = weights[bias_start + j], weights[bias_start + half + j]
        for k in range(BLOCK):
            real, imaginary = first[k] + first_bias, second[k] + second_bias
            envelope = exp_of(-(omega * imaginary + real * real + imaginary * imaginary))
            r, sign = reduce_to_half_turn(omega * real)
            u = r * r
            a[k], b[k] = real, imaginary
            first[k] = envelope * (sign * cosine_of(u))
            second[k] = envelope * (sign * sine_of(r, u))


@jit
def _unwave(layer, omega, work):  # type: ignore[no-untyped-def]
    """Gradient by a layer's wavelets to that by its products, in place."""
    wide()
    half, slope, target, kept = layer[OUTPUTS] // 2, layer[SLOPE], layer[TARGET], layer[COSINE]
    for j in range(half):
        first, second, a, b = work[target + j], work[target + half + j], work[kept + j], work[kept + half + j]
        g, h = work[slope + j], work[slope + half + j]
        for k in range(BLOCK):
            along = g[k] * first[k] + h[k] * second[k]
            across = h[k] * first[k] - g[k] * second[k]
            g[k] = omega * across - TWO * a[k] * along
            h[k] = -(omega + TWO * b[k]) * along


@jit
def activate(layer, omega, weights, neurons, work):  # type: ignore[no-untyped-def]
    """Products of a layer to its output: bias and activation, a neuron's row at a time."""
    wide()
    if layer[KIND] == GABOR:
        _wavelets(layer, omega, weights, work)
        return
    kind, bias_start, target, wave, neuron = layer[KIND], layer[BIAS], layer[TARGET], layer[WAVE], layer[NEURON]
    for j in range(layer[OUTPUTS]):
        out, bias = work[target + j], weights[bias_start + j]
        if kind == SINE:
            sine, cosine, mask = work[wave + j], work[layer[COSINE] + j], neurons[neuron + j, 0]
            for b in range(BLOCK):
                r, sign = reduce_to_half_turn(omega * (sine[b] + bias))
                u = r * r
                sine[b] = sign * sine_of(r, u)
                cosine[b] = sign * cosine_of(u)
            if mask >= 0:
                factor = work[mask]
                for b in range(BLOCK):
                    out[b] = factor[b] * sine[b]
            elif target != wave:
                for b in range(BLOCK):
                    out[b] = sine[b]
        elif kind in (FINER, FINER_DETACHED):
            slope, share = work[layer[COSINE] + j], TWO if kind == FINER else ONE
            for b in range(BLOCK):
                z = out[b] + bias
                size = abs(z)
                r, sign = reduce_to_half_turn(omega * (size + ONE) * z)
                u = r * r
                out[b] = sign * sine_of(r, u)
                slope[b] = sign * cosine_of(u) * (share * size + ONE)
        elif kind == GAUSS:
            slope = work[layer[COSINE] + j]
            for b in range(BLOCK):
                z = omega * (out[b] + bias)
                bell = exp_of(-(z * z))
                out[b] = bell
                slope[b] = -TWO * z * bell
        elif kind == RELU:
            for b in range(BLOCK):
                z = out[b] + bias
                out[b] = ZERO if z <= ZERO else z  # what is not a number stays so
        elif kind == SIGMOID:
            for b in range(BLOCK):
                out[b] = _sigmoid(out[b] + bias)
        else:
            for b in range(BLOCK):
                out[b] += bias


@jit
def _deactivate(layer, omega, neurons, work):  # type: ignore[no-untyped-def]
    """Gradient by a layer's output to that by its products, in place; adds to the gradients by its masks."""
    wide()
    if layer[KIND] == GABOR:
        _unwave(layer, omega, work)
        return
    kind, slope, target, wave, neuron = layer[KIND], layer[SLOPE], layer[TARGET], layer[WAVE], layer[NEURON]
    for j in range(layer[OUTPUTS]):
        g = work[slope + j]
        if kind >= SINE:
            mask, cosine = neurons[neuron + j, 0], work[layer[COSINE] + j]
            if mask >= 0:
                total, sine, factor = work[neurons[neuron + j, 1]], work[wave + j], work[mask]
                for b in range(BLOCK):
                    total[b] += g[b] * sine[b]
                for b in range(BLOCK):
                    g[b] *= omega * factor[b] * cosine[b]
            else:
                for b in range(BLOCK):
                    g[b] *= omega * cosine[b]
        elif kind == RELU:
            out = work[target + j]
            for b in range(BLOCK):
                g[b] *= ZERO if out[b] <= ZERO else ONE
        elif kind == SIGMOID:
            out = work[target + j]
            for b in range(BLOCK):
                g[b] *= out[b] * (ONE - out[b])


@jit
def _forward_layer(layer, omega, weights, neurons, work, flat):  # type: ignore[no-untyped-def]
    wide()
    inputs, outputs = layer[INPUTS], layer[OUTPUTS]
    product(weights, layer[WEIGHT], inputs, 1, flat, layer[SOURCE] * PITCH, PITCH, flat, layer[WAVE] * PITCH, PITCH, outputs, BLOCK, inputs, False)  # fmt: skip  # noqa: E501
    activate(layer, omega, weights, neurons, work)


@jit
def _backward_layer(layer, omega, weights, neurons, work, flat, ones, turned, turned_pitch, sums):  # type: ignore[no-untyped-def]
    wide()
    inputs, outputs, slope = layer[INPUTS], layer[OUTPUTS], layer[SLOPE]
    _deactivate(layer, omega, neurons, work)
    if layer[BIAS_GRAD] >= 0:
        for j in range(outputs):
            sums[layer[BIAS_GRAD] + j] += dot(flat, (slope + j) * PITCH, ones, 0, BLOCK)
    if layer[GRAD] >= 0:
        if inputs <= FEW_INPUTS:
            for j in range(outputs):
                for i in range(inputs):
                    total = dot(flat, (slope + j) * PITCH, flat, (layer[SOURCE] + i) * PITCH, BLOCK)
                    sums[layer[GRAD] + j * layer[GRAD_PITCH] + i] += total
        else:
            transpose(flat, layer[SOURCE] * PITCH, PITCH, turned, 0, turned_pitch, inputs, BLOCK)
            product(flat, slope * PITCH, PITCH, 1, turned, 0, turned_pitch, sums, layer[GRAD], layer[GRAD_PITCH], outputs, inputs, BLOCK, True)  # fmt: skip  # noqa: E501
    if layer[SOURCE_SLOPE] >= 0:
        product(weights, layer[WEIGHT], 1, inputs, flat, slope * PITCH, PITCH, flat, layer[SOURCE_SLOPE] * PITCH, PITCH, inputs, BLOCK, outputs, layer[ADDS] != 0)  # fmt: skip  # noqa: E501


@jit
def read_grid(work, first, axes, channels, smooth, table, levels, table_mask, rows, factors):  # type: ignore[no-untyped-def]
    """Features of a block's points; keeps their corners (levels, corners * CORNER) for the way back."""
    corners = 1 << len(axes)
    for level in range(levels.shape[0]):
        places, shares = rows[level], factors[level]
        _numba_grid._corners(work, axes, smooth, BLOCK, levels[level], table_mask, places, shares)
        entries = table[levels[level, 1] :]
        if len(channels) == 2:  # the usual number; one pass over the corners instead of two
            even, odd = work[first + 2 * level], work[first + 2 * level + 1]
            for b in range(BLOCK):
                total, other = ZERO, ZERO
                for corner in range(corners):
                    row, share = places[corner * CORNER + b], shares[corner * CORNER + b]
                    total += share * entries[row, 0]
                    other += share * entries[row, 1]
                even[b], odd[b] = total, other
        else:
            for channel in range(len(channels)):
                out = work[first + level * len(channels) + channel]
                for b in range(BLOCK):
                    total = ZERO
                    for corner in range(corners):
                        total += shares[corner * CORNER + b] * entries[places[corner * CORNER + b], channel]
                    out[b] = total


@jit
def _write_grid(work, first, count, axes, channels, grad, levels, rows, factors):  # type: ignore[no-untyped-def]
    """Add the gradient by a block's features to that of the table."""
    corners = 1 << len(axes)
    for level in range(levels.shape[0]):
        places, shares = rows[level], factors[level]
        entries = grad[levels[level, 1] :]
        if len(channels) == 2:
            even, odd = work[first + 2 * level], work[first + 2 * level + 1]
            for b in range(count):
                g, h = even[b], odd[b]
                for corner in range(corners):
                    row, share = places[corner * CORNER + b], shares[corner * CORNER + b]
                    entries[row, 0] += share * g
                    entries[row, 1] += share * h
        else:
            for b in range(count):
                for corner in range(corners):
                    row, share = places[corner * CORNER + b], shares[corner * CORNER + b]
                    for channel in range(len(channels)):
                        entries[row, channel] += share * work[first + level * len(channels) + channel, b]


@jit
def _compare(values, slopes, start, count, target, weight, rules, per_point):  # type: ignore[no-untyped-def]
    """Sum of the block's errors; writes their gradients by ``values`` (channels, B), zero beyond ``count``."""
    total = 0.0
    for channel in range(values.shape[0]):
        for b in range(count, BLOCK):
            slopes[channel, b] = ZERO
        for b in range(count):
            value, goal = values[channel, b], target[start + b, channel]
            turn = ONE
            if rules[AGNOSTIC] != ZERO and value <= ZERO:
                turn = -ONE if value < ZERO else ZERO
                value = -value
            error = value - goal
            size = abs(error)
            share = weight[start + b] if weight.shape[0] else ONE
            if rules[NEAR] > ZERO:
                distance = abs(goal)
                # written so that an error that is not a number counts fully
                if size <= rules[MARGIN] * distance:
                    share *= max(rules[NEAR] / (distance + rules[NEAR]), rules[FAR])
            if rules[POWER] == ONE:
                total += share * size
                slope = ONE if error > ZERO else -ONE if error < ZERO else error
            else:
                total += share * size * size
                slope = error + error
            slopes[channel, b] = turn * share * slope * per_point
    return total


@jit
def step_part(part, parts, x, target, weight, rules, weights, plan, omegas, neurons, grid_rows, axes, channels, smooth, table, levels, table_mask, work_, turned_, places_, shares_, sums_, tables_, totals, predicted, feature_slopes):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Loss and gradients of one part's blocks.

    ``work_`` (parts, rows, PITCH), ``turned_`` (parts, BLOCK, widest), ``places_`` and ``shares_`` (parts, levels,
    corners * CORNER) are scratch; ``sums_`` (parts, n), ``tables_`` (parts, entries, channels) and ``totals`` (parts,
    1 or more) are results, and so are ``predicted`` (points, channels) and the gradients by the grid's features,
    ``feature_slopes`` (points, features), which are wanted in place of the table's if there is room for them. The
    coordinates are in the first rows of ``work_``; ``grid_rows`` are the first rows of the grid's features and of their
    gradients, and that of the masks' gradients with their number.
    """
    wide()
    points, in_dim, out_dim = x.shape[0], x.shape[1], target.shape[1]
    work, turned, sums, places, shares = work_[part], turned_[part], sums_[part], places_[part], shares_[part]
    flat, turned_flat = work.reshape(-1), turned.reshape(-1)
    ones = np.ones(BLOCK, np.float32)
    feature, feature_slope, mask_slope, masks = grid_rows
    sums[:] = ZERO
    if tables_.shape[0]:
        tables_[part, :] = ZERO
    last = plan[plan.shape[0] - 1]
    total, per_point = 0.0, np.float32(1.0 / (points * out_dim))
    first_block, last_block = span(part, parts, (points + BLOCK - 1) // BLOCK)
    for block in range(first_block, last_block):
        start = block * BLOCK
        count = min(BLOCK, points - start)
        for axis in range(in_dim):
            for b in range(count):
                work[axis, b] = rules[SCALE] * x[start + b, axis]
            for b in range(count, BLOCK):
                work[axis, b] = ZERO
        if levels.shape[0]:
            read_grid(work, feature, axes, channels, smooth, table, levels, table_mask, places, shares)
        for index in range(plan.shape[0]):
            _forward_layer(plan[index], omegas[index], weights, neurons, work, flat)
        values = work[last[TARGET] : last[TARGET] + out_dim]
        slopes = work[last[SLOPE] : last[SLOPE] + out_dim]
        total += _compare(values, slopes, start, count, target, weight, rules, per_point)
        for b in range(count):
            for channel in range(out_dim):
                predicted[start + b, channel] = values[channel, b]
        for row in range(mask_slope, mask_slope + masks):
            for b in range(BLOCK):
                work[row, b] = ZERO
        for index in range(plan.shape[0] - 1, -1, -1):
            _backward_layer(plan[index], omegas[index], weights, neurons, work, flat, ones, turned_flat, turned.shape[1], sums)  # fmt: skip  # noqa: E501
        if tables_.shape[0]:
            _write_grid(work, feature_slope, count, axes, channels, tables_[part], levels, places, shares)
        if feature_slopes.shape[0]:
            for b in range(count):
                for column in range(feature_slopes.shape[1]):
                    feature_slopes[start + b, column] = work[feature_slope + column, b]
    totals[part, 0] = total * per_point


@jit
def gather_part(part, parts, sums, moves, grads, tables, members):  # type: ignore[no-untyped-def]
    """Add up what ``members`` threads found: the table in place of the first, the rest from padded rows to ``grads``.

    A row of ``moves``: where a matrix begins in ``sums`` and in ``grads``, its rows, columns, and pitch in ``sums``.
    """
    for index in range(moves.shape[0]):
        source, target, height, width, pitch = moves[index]
        begin, end = span(part, parts, height)
        for row in range(begin, end):
            out = grads[target + row * width : target + (row + 1) * width]
            for member in range(members):
                own = sums[member, source + row * pitch : source + row * pitch + width]
                if member == 0:
                    for j in range(width):
                        out[j] = own[j]
                else:
                    for j in range(width):
                        out[j] += own[j]
    if tables.shape[0] > 1:
        flat = tables.reshape(members, tables.shape[1] * tables.shape[2])
        begin, end = span(part, parts, flat.shape[1])
        out = flat[0, begin:end]
        for member in range(1, members):
            own = flat[member, begin:end]
            for j in range(out.shape[0]):
                out[j] += own[j]


@jit
def step(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(step_part, team, parts, arguments)


@jit
def gather(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(gather_part, team, parts, arguments)
