"""Matrix products, transposes and sums on a block of points, in vector instructions that are written out.

A compiler's own vectorisation leaves the sums of a product in memory. Here a tile of the result stays in registers
while the two factors stream past: 12 rows by 32 columns with AVX-512, 6 by 16 with AVX2. On blocks that fit in the
second-level cache this was measured at 155 to 180 GFLOP/s a core, where MKL and oneDNN behind torch reach 110 to 160 on
the same shapes; a call of either, or of the BLAS that comes with scipy, would also have to be made from every thread.

All functions take flat float32 arrays and say where in them a matrix begins. Nothing checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sasnet_ns.kernels._numba import jit

# as numba itself asks
_FEATURES = numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()  # type: ignore[attr-defined]
_WIDE = "+avx512f" in _FEATURES
LANES = 16 if _WIDE else 8
"""Numbers in a vector."""
COLUMNS = 2 * LANES
"""Columns of a tile; every product's number of columns is rounded up to a multiple of it."""
MANY = (0,) * (12 if _WIDE else 6)
"""Rows of a tile, as the length of a tuple: as many as leave registers for the factors."""
FEW = (0,) * (4 if _WIDE else 2)
"""Rows of the tiles below the last full one."""
ONE_ROW = (0,)

_FLOAT, _WORD, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FUSE = ["contract"]


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _at(builder: Any, data: Any, offset: Any) -> Any:
    """Address of the vector that begins ``offset`` numbers into ``data``."""
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _tile(_: Any, rows: Any, a: Any, a0: Any, down: Any, along: Any, b: Any, b0: Any, pitch: Any, c: Any, c0: Any, c_pitch: Any, count: Any, add: Any) -> tuple[Any, Callable[..., Any]]:  # fmt: skip  # noqa: E501
    """``c[i, j] = (add ? c[i, j] : 0) + sum_k a[i, k] b[k, j]`` for ``len(rows)`` rows and :data:`COLUMNS` columns.

    ``a[i, k]`` is ``a[a0 + i * down + k * along]``; the rows of ``b`` and ``c`` are ``pitch`` and ``c_pitch`` apart.
    """
    signature = types.void(rows, a, a0, down, along, b, b0, pitch, c, c0, c_pitch, count, add)
    height, width = len(rows), COLUMNS // LANES

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        a0, down, along, b0, pitch = values[2], values[3], values[4], values[6], values[7]
        c0, c_pitch, count, add = values[9:13]
        left, right, result = (_data(context, builder, signature.args[i], values[i]) for i in (1, 5, 8))
        cells = [(i, j) for i in range(height) for j in range(width)]
        sums = {cell: cgutils.alloca_once(builder, _VECTOR) for cell in cells}  # registers, once LLVM has seen them
        places = {}
        for i, j in cells:
            column = builder.add(c0, _WORD(j * LANES))
            places[i, j] = _at(builder, result, builder.add(column, builder.mul(c_pitch, _WORD(i))))
        with builder.if_else(builder.trunc(add, ir.IntType(1))) as (then, otherwise):
            with then:
                for cell in cells:
                    builder.store(builder.load(places[cell], align=4), sums[cell])
            with otherwise:
                for cell in cells:
                    builder.store(ir.Constant(_VECTOR, None), sums[cell])
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(b0, builder.mul(pitch, loop.index))
            row = [
                builder.load(_at(builder, right, builder.add(start, _WORD(j * LANES))), align=4) for j in range(width)
            ]
            first = builder.add(a0, builder.mul(along, loop.index))
            for i in range(height):
                place = builder.gep(left, [builder.add(first, builder.mul(down, _WORD(i)))])
                factor = _splat(builder, builder.load(place))
                for j in range(width):
                    product = builder.fmul(factor, row[j], flags=_FUSE)
                    builder.store(builder.fadd(product, builder.load(sums[i, j]), flags=_FUSE), sums[i, j])
        for cell in cells:
            builder.store(builder.load(sums[cell]), places[cell], align=4)
        return context.get_dummy_value()

    return signature, generate


def _turn(_: Any, a: Any, a0: Any, pitch: Any, b: Any, b0: Any, b_pitch: Any) -> tuple[Any, Callable[..., Any]]:
    """``b[j, i] = a[i, j]`` for a square of :data:`LANES` rows, one bit of the row and column numbers at a time."""
    signature = types.void(a, a0, pitch, b, b0, b_pitch)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        source, target = (_data(context, builder, signature.args[i], values[i]) for i in (0, 3))
        a0, pitch, b0, b_pitch = values[1], values[2], values[4], values[5]
        rows = [
            builder.load(_at(builder, source, builder.add(a0, builder.mul(pitch, _WORD(i)))), align=4)
            for i in range(LANES)
        ]
        bit = 1
        while bit < LANES:
            low = [lane if not lane & bit else LANES + lane - bit for lane in range(LANES)]
            high = [lane + bit if not lane & bit else LANES + lane for lane in range(LANES)]
            turned = list(rows)
            for i in range(LANES):
                if not i & bit:
                    for number, lanes in ((i, low), (i + bit, high)):
                        order = ir.Constant(ir.VectorType(_INT, LANES), lanes)
                        turned[number] = builder.shuffle_vector(rows[i], rows[i + bit], order)
            rows, bit = turned, 2 * bit
        for i in range(LANES):
            builder.store(rows[i], _at(builder, target, builder.add(b0, builder.mul(b_pitch, _WORD(i)))), align=4)
        return context.get_dummy_value()

    return signature, generate


def _dot(_: Any, a: Any, a0: Any, b: Any, b0: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    """``sum_k a[k] b[k]``, in as many sums as there are lanes; ``count`` is a multiple of :data:`LANES`."""
    signature = types.float32(a, a0, b, b0, count)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        left, right = (_data(context, builder, signature.args[i], values[i]) for i in (0, 2))
        total = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None))
        with cgutils.for_range(builder, builder.udiv(values[4], _WORD(LANES))) as loop:
            start = builder.mul(loop.index, _WORD(LANES))
            x = builder.load(_at(builder, left, builder.add(values[1], start)), align=4)
            y = builder.load(_at(builder, right, builder.add(values[3], start)), align=4)
            builder.store(builder.fadd(builder.fmul(x, y, flags=_FUSE), builder.load(total), flags=_FUSE), total)
        sums, half = builder.load(total), LANES // 2
        while half:
            order = [(lane + half) % LANES for lane in range(LANES)]
            other = builder.shuffle_vector(sums, sums, ir.Constant(ir.VectorType(_INT, LANES), order))
            sums, half = builder.fadd(sums, other), half // 2
        return builder.extract_element(sums, _INT(0))

    return signature, generate


def _wide(_: Any) -> tuple[Any, Callable[..., Any]]:
    """Let the compiler use the widest vectors in the loops of the calling function.

    Left alone it takes vectors half as wide on processors with AVX-512; sines were measured 1.6 times faster in full
    ones. The attribute is LLVM's own, but not among those that llvmlite has names for. A function that is inlined loses
    it to its caller, which has to ask as well.
    """

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        set.add(builder.function.attributes, f'"prefer-vector-width"="{32 * LANES}"')
        return context.get_dummy_value()

    return types.none(), generate


wide: Any = intrinsic(_wide)
tile: Any = intrinsic(_tile)
turn: Any = intrinsic(_turn)
dot: Any = intrinsic(_dot)


@jit
def product(a, a0, down, along, b, b0, pitch, c, c0, c_pitch, rows, columns, count, add):  # type: ignore[no-untyped-def]
    """``c = a b``, or ``c += a b`` if ``add``, for ``a`` (rows, count), ``b`` (count, columns), ``c`` (rows, columns).

    ``a[i, k]`` is ``a[a0 + i * down + k * along]``, so that a transpose costs nothing. ``columns`` is rounded up to a
    multiple of :data:`COLUMNS`: ``b`` and ``c`` must have room for that.
    """
    for column in range(0, columns, COLUMNS):
        row = 0
        while row + len(MANY) <= rows:
            tile(MANY, a, a0 + row * down, down, along, b, b0 + column, pitch, c, c0 + row * c_pitch + column, c_pitch, count, add)  # fmt: skip  # noqa: E501
            row += len(MANY)
        while row + len(FEW) <= rows:
            tile(FEW, a, a0 + row * down, down, along, b, b0 + column, pitch, c, c0 + row * c_pitch + column, c_pitch, count, add)  # fmt: skip  # noqa: E501
            row += len(FEW)
        while row < rows:
            tile(ONE_ROW, a, a0 + row * down, down, along, b, b0 + column, pitch, c, c0 + row * c_pitch + column, c_pitch, count, add)  # fmt: skip  # noqa: E501
            row += 1


@jit
def transpose(a, a0, pitch, b, b0, b_pitch, rows, columns):  # type: ignore[no-untyped-def]
    """``b[j, i] = a[i, j]``; ``rows`` and ``columns`` are rounded up to multiples of :data:`LANES` in both."""
    for row in range(0, rows, LANES):
        for column in range(0, columns, LANES):
            turn(a, a0 + row * pitch + column, pitch, b, b0 + column * b_pitch + row, b_pitch)
