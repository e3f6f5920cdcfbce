"""Updates of parameters on a CPU, compiled by numba: Adam's and Muon's, all tensors in one call."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from sasnet_ns.kernels._numba import jit, scratch, span
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels._vector import COLUMNS, LANES, dot, product, transpose, wide

# coefficients of the quintic Newton-Schulz iteration (Jordan et al., "Muon", 2024)
_A, _B, _C = np.float32(3.4445), np.float32(-4.7750), np.float32(2.0315)
_TINY = np.float32(1e-7)


def _pointer(_: Any, address: Any) -> Any:
    """The float32 numbers at an address."""
    signature = types.CPointer(types.float32)(types.int64)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return signature, generate


pointer: Any = intrinsic(_pointer)


@jit
def adam_part(part, parts, addresses, sizes, factors, beta1, beta2, eps):  # type: ignore[no-untyped-def]
    """Adam (Kingma and Ba 2015, algorithm 1) on one part of every tensor.

    A row of ``addresses``: parameter, gradient, first and second moment; of ``factors``: learning rate over the first
    moment's bias, and the inverse root of the second's.
    """
    wide()
    one = np.float32(1)
    for index in range(sizes.shape[0]):
        begin, end = span(part, parts, sizes[index])
        p = numba.carray(pointer(addresses[index, 0]), sizes[index])[begin:end]
        g = numba.carray(pointer(addresses[index, 1]), sizes[index])[begin:end]
        m = numba.carray(pointer(addresses[index, 2]), sizes[index])[begin:end]
        v = numba.carray(pointer(addresses[index, 3]), sizes[index])[begin:end]
        rate, root = factors[index, 0], factors[index, 1]
        for i in range(end - begin):
            m[i] += (one - beta1) * (g[i] - m[i])
        for i in range(end - begin):
            v[i] = beta2 * v[i] + (one - beta2) * g[i] * g[i]
        for i in range(end - begin):
            p[i] -= rate * m[i] / (np.sqrt(v[i]) * root + eps)


@jit
def _orthogonalized(x, other, turned, gram, poly, rows, columns, pitch, gram_pitch, steps):  # type: ignore[no-untyped-def]
    """Newton-Schulz iterations on ``x`` (rows, columns) with rows no more than columns; the result is in what returns.

    ``x`` and ``other`` have rows ``pitch`` apart, ``gram``, ``poly`` and ``turned`` have theirs ``gram_pitch`` apart;
    everything beyond the matrices is zero.
    """
    for _ in range(steps):
        transpose(x, 0, pitch, turned, 0, gram_pitch, rows, columns)
        product(x, 0, pitch, 1, turned, 0, gram_pitch, gram, 0, gram_pitch, rows, rows, columns, False)
        product(gram, 0, gram_pitch, 1, gram, 0, gram_pitch, poly, 0, gram_pitch, rows, rows, rows, False)
        for i in range(rows * gram_pitch):
            poly[i] = _C * poly[i] + _B * gram[i]
        for i in range(rows):
            poly[i * gram_pitch + i] += _A
        product(poly, 0, gram_pitch, 1, x, 0, pitch, other, 0, pitch, rows, columns, rows, False)
        x, other = other, x
    return x


@jit
def muon_part(part, parts, addresses, shapes, rates, momentum, steps):  # type: ignore[no-untyped-def]
    """Muon on every so many-th matrix. A row of ``addresses``: parameter, gradient, momentum buffer."""
    wide()
    one = np.float32(1)
    for index in range(part, shapes.shape[0], parts):
        height, width = shapes[index]
        rows, columns = min(height, width), max(height, width)
        pitch = (columns + COLUMNS - 1) // COLUMNS * COLUMNS
        gram_pitch = (rows + COLUMNS - 1) // COLUMNS * COLUMNS
        above, across = (rows + LANES - 1) // LANES * LANES, (columns + LANES - 1) // LANES * LANES
        x, other = scratch((above * pitch,), np.float32), scratch((above * pitch,), np.float32)
        turned = scratch((across * gram_pitch,), np.float32)
        gram, poly = scratch((above * gram_pitch,), np.float32), scratch((above * gram_pitch,), np.float32)
        p = numba.carray(pointer(addresses[index, 0]), (height, width))
        g = numba.carray(pointer(addresses[index, 1]), (height, width))
        buffer = numba.carray(pointer(addresses[index, 2]), (height, width))
        for i in range(height):
            for j in range(width):
                moment = buffer[i, j] + (one - momentum) * (g[i, j] - buffer[i, j])
                buffer[i, j] = moment
                x[i * pitch + j if height <= width else j * pitch + i] = g[i, j] + momentum * (moment - g[i, j])
        scale = one / (np.sqrt(dot(x, 0, x, 0, rows * pitch)) + _TINY)
        for i in range(rows * pitch):
            x[i] *= scale
        found = _orthogonalized(x, other, turned, gram, poly, rows, columns, pitch, gram_pitch, steps)
        for i in range(height):
            for j in range(width):
                p[i, j] -= rates[index] * found[i * pitch + j if height <= width else j * pitch + i]


@jit
def adam(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(adam_part, team, parts, arguments)


@jit
def muon(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(muon_part, team, parts, arguments)
