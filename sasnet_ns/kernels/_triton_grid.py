"""Hash grid on CUDA, in Triton: the three operators of ``_hash_grid_ops``.

One program handles a block of one network's points on one level (gather, scatter) or on all levels in turn (contract).
The table gradient is accumulated by atomics, so its last digits depend on the order of arrival. Tables may be of half
precision: their entries are read as they are, and arithmetic and gradients have the points' dtype.

The number of points is no reason to compile again, whether 16 divides it or it is 1, and neither is the table's size.
"""

# No deferred annotations here: the interpreter of Triton 3.0 does not know constexpr by its text.
import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sasnet_ns.kernels._device import on_device_of
from sasnet_ns.kernels.layout import HashGridLayout


@triton.jit
def _axis(x_ptr, points, valid, axis: tl.constexpr, resolution, in_dim: tl.constexpr, smooth: tl.constexpr):  # type: ignore[no-untyped-def]
    """Cell, fraction, and the fraction's first two derivatives by x, along one axis."""
    x = tl.load(x_ptr + points * in_dim + axis, mask=valid, other=0.0)
    scale = (resolution - 1).to(x.dtype)
    rate = scale * 0.5
    # what is not a number stays so: Triton's extrema drop it unless they are told
    clamped = tl.maximum(x, -1.0, propagate_nan=tl.PropagateNan.ALL)
    clamped = tl.minimum(clamped, 1.0, propagate_nan=tl.PropagateNan.ALL)
    slope = tl.where(clamped == x, rate, 0.0)
    # no addition after the product here, so that fusing the two cannot pick another cell than the other backends
    cell = tl.minimum(tl.floor((clamped + 1.0) * 0.5 * scale), scale - 1.0, propagate_nan=tl.PropagateNan.ALL)
    t = clamped * rate + (rate - cell)
    bend = slope * 0.0
    if smooth:
        bend = slope * slope * (6.0 - 12.0 * t)
        slope = slope * 6.0 * t * (1.0 - t)
        t = t * t * (3.0 - 2.0 * t)
    # NaN is in no cell: it takes the first one, so that it touches no foreign memory, and stays NaN in the fraction
    return tl.where(cell >= 0.0, cell, 0.0).to(tl.int32), t, slope, bend


@triton.jit
def _row(c0, c1, c2, c3, corner: tl.constexpr, in_dim: tl.constexpr, resolution, dense, table_mask):  # type: ignore[no-untyped-def]
    """Table row of a corner within its level."""
    i0 = c0 + (corner & 1)
    plain = i0
    hashed = i0.to(tl.uint32)
    if in_dim > 1:
        i1 = c1 + ((corner >> 1) & 1)
        plain += i1 * resolution
        hashed = hashed ^ (i1.to(tl.uint32) * 2654435761)
    if in_dim > 2:
        i2 = c2 + ((corner >> 2) & 1)
        plain += i2 * resolution * resolution
        hashed = hashed ^ (i2.to(tl.uint32) * 805459861)
    if in_dim > 3:
        i3 = c3 + ((corner >> 3) & 1)
        plain += i3 * resolution * resolution * resolution
        hashed = hashed ^ (i3.to(tl.uint32) * 3674653429)
    return tl.where(dense != 0, plain, (hashed & table_mask.to(tl.uint32)).to(tl.int32)).to(tl.int64)


@triton.jit
def _factor(t, corner: tl.constexpr, axis: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weight of a corner along an axis."""
    if (corner >> axis) & 1:
        return t
    else:
        return 1.0 - t


@triton.jit
def _signed(slope, corner: tl.constexpr, axis: tl.constexpr):  # type: ignore[no-untyped-def]
    """Derivative of a corner's weight along an axis."""
    if (corner >> axis) & 1:
        return slope
    else:
        return -slope


@triton.jit
def _product(p0, q0, p1, q1, p2, q2, p3, q3, in_dim: tl.constexpr, tangent: tl.constexpr):  # type: ignore[no-untyped-def]
    """Product of the p, or with ``tangent`` its derivative where q are the derivatives of the p."""
    w, d = p0, q0
    if in_dim > 1:
        d = d * p1 + w * q1
        w = w * p1
    if in_dim > 2:
        d = d * p2 + w * q2
        w = w * p2
    if in_dim > 3:
        d = d * p3 + w * q3
        w = w * p3
    if tangent:
        return d
    else:
        return w


@triton.jit
def _weight(t0, s0, t1, s1, t2, s2, t3, s3, corner: tl.constexpr, in_dim: tl.constexpr, tangent: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weight of a corner, or with ``tangent`` its derivative; s are slopes times direction."""
    return _product(
        _factor(t0, corner, 0), _signed(s0, corner, 0), _factor(t1, corner, 1), _signed(s1, corner, 1),
        _factor(t2, corner, 2), _signed(s2, corner, 2), _factor(t3, corner, 3), _signed(s3, corner, 3),
        in_dim, tangent,
    )  # fmt: skip


@triton.jit
def _direction(v_ptr, points, valid, axis: tl.constexpr, in_dim: tl.constexpr, tangent: tl.constexpr, like):  # type: ignore[no-untyped-def]
    if tangent:
        return tl.load(v_ptr + points * in_dim + axis, mask=valid, other=0.0)
    else:
        return like * 0.0


@triton.jit(do_not_specialize=["count", "entries", "table_mask"])
def _gather_kernel(  # type: ignore[no-untyped-def]
    x_ptr, v_ptr, table_ptr, g_ptr, out_ptr, levels_ptr, count, entries, table_mask,
    in_dim: tl.constexpr, levels: tl.constexpr, features: tl.constexpr, padded: tl.constexpr,
    smooth: tl.constexpr, tangent: tl.constexpr, scatter: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gather features from the table, or with ``scatter`` add cotangents times weights to it."""
    level, network = tl.program_id(1), tl.program_id(2).to(tl.int64)
    x_ptr += network * count * in_dim
    v_ptr += network * count * in_dim
    g_ptr += network * count * levels * features
    out_ptr += network * count * levels * features
    table_ptr += network * entries * features
    points = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = points < count
    resolution = tl.load(levels_ptr + level * 3)
    offset = tl.load(levels_ptr + level * 3 + 1).to(tl.int64)
    dense = tl.load(levels_ptr + level * 3 + 2)
    c0, t0, s0, _ = _axis(x_ptr, points, valid, 0, resolution, in_dim, smooth)
    c1, t1, s1 = c0, t0, s0
    c2, t2, s2 = c0, t0, s0
    c3, t3, s3 = c0, t0, s0
    if in_dim > 1:
        c1, t1, s1, _ = _axis(x_ptr, points, valid, 1, resolution, in_dim, smooth)
        s1 *= _direction(v_ptr, points, valid, 1, in_dim, tangent, t0)
    if in_dim > 2:
        c2, t2, s2, _ = _axis(x_ptr, points, valid, 2, resolution, in_dim, smooth)
        s2 *= _direction(v_ptr, points, valid, 2, in_dim, tangent, t0)
    if in_dim > 3:
        c3, t3, s3, _ = _axis(x_ptr, points, valid, 3, resolution, in_dim, smooth)
        s3 *= _direction(v_ptr, points, valid, 3, in_dim, tangent, t0)
    s0 *= _direction(v_ptr, points, valid, 0, in_dim, tangent, t0)
    channel = tl.arange(0, padded)
    inside = valid[:, None] & (channel < features)[None, :]
    place = points[:, None] * (levels * features) + level * features + channel[None, :]
    total = tl.zeros([block, padded], dtype=t0.dtype)
    if scatter:
        total = tl.load(g_ptr + place, mask=inside, other=0.0)
    for corner in tl.static_range(1 << in_dim):
        row = _row(c0, c1, c2, c3, corner, in_dim, resolution, dense, table_mask) + offset
        weight = _weight(t0, s0, t1, s1, t2, s2, t3, s3, corner, in_dim, tangent)
        entry = table_ptr + row[:, None] * features + channel[None, :]
        if scatter:
            tl.atomic_add(entry, weight[:, None] * total, mask=inside, sem="relaxed")
        else:
            total += weight[:, None] * tl.load(entry, mask=inside, other=0.0).to(t0.dtype)
    if not scatter:
        tl.store(out_ptr + place, total, mask=inside)


@triton.jit
def _turned(  # type: ignore[no-untyped-def]
    t, s, b, v, corner: tl.constexpr, axis: tl.constexpr, along: tl.constexpr
):
    """Factor of ``axis`` and its derivative along v, both differentiated once more by x if ``axis`` is ``along``."""
    if axis == along:
        return _signed(s, corner, axis), _signed(b, corner, axis) * v
    else:
        return _factor(t, corner, axis), _signed(s, corner, axis) * v


@triton.jit(do_not_specialize=["count", "entries", "table_mask"])
def _contract_kernel(  # type: ignore[no-untyped-def]
    x_ptr, v_ptr, table_ptr, g_ptr, out_ptr, levels_ptr, count, entries, table_mask,
    in_dim: tl.constexpr, levels: tl.constexpr, features: tl.constexpr, padded: tl.constexpr,
    smooth: tl.constexpr, tangent: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gradient of <features, g> by one coordinate, or with ``tangent`` its derivative along v."""
    network = tl.program_id(1).to(tl.int64)
    x_ptr += network * count * in_dim
    v_ptr += network * count * in_dim
    g_ptr += network * count * levels * features
    out_ptr += network * count * in_dim
    table_ptr += network * entries * features
    points = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = points < count
    channel = tl.arange(0, padded)
    inside = valid[:, None] & (channel < features)[None, :]
    first = tl.load(x_ptr + points * in_dim, mask=valid, other=0.0)
    sum0, sum1, sum2, sum3 = first * 0.0, first * 0.0, first * 0.0, first * 0.0
    v0 = _direction(v_ptr, points, valid, 0, in_dim, tangent, first)
    v1, v2, v3 = v0, v0, v0
    if in_dim > 1:
        v1 = _direction(v_ptr, points, valid, 1, in_dim, tangent, first)
    if in_dim > 2:
        v2 = _direction(v_ptr, points, valid, 2, in_dim, tangent, first)
    if in_dim > 3:
        v3 = _direction(v_ptr, points, valid, 3, in_dim, tangent, first)
    for level in range(levels):
        resolution = tl.load(levels_ptr + level * 3)
        offset = tl.load(levels_ptr + level * 3 + 1).to(tl.int64)
        dense = tl.load(levels_ptr + level * 3 + 2)
        c0, t0, s0, b0 = _axis(x_ptr, points, valid, 0, resolution, in_dim, smooth)
        c1, t1, s1, b1 = c0, t0, s0, b0
        c2, t2, s2, b2 = c0, t0, s0, b0
        c3, t3, s3, b3 = c0, t0, s0, b0
        if in_dim > 1:
            c1, t1, s1, b1 = _axis(x_ptr, points, valid, 1, resolution, in_dim, smooth)
        if in_dim > 2:
            c2, t2, s2, b2 = _axis(x_ptr, points, valid, 2, resolution, in_dim, smooth)
        if in_dim > 3:
            c3, t3, s3, b3 = _axis(x_ptr, points, valid, 3, resolution, in_dim, smooth)
        place = points[:, None] * (levels * features) + level * features + channel[None, :]
        g = tl.load(g_ptr + place, mask=inside, other=0.0)
        for corner in tl.static_range(1 << in_dim):
            row = _row(c0, c1, c2, c3, corner, in_dim, resolution, dense, table_mask) + offset
            entry = tl.load(table_ptr + row[:, None] * features + channel[None, :], mask=inside, other=0.0)
            dot = tl.sum(entry.to(g.dtype) * g, axis=1)
            for along in tl.static_range(in_dim):
                p0, q0 = _turned(t0, s0, b0, v0, corner, 0, along)
                p1, q1 = _turned(t1, s1, b1, v1, corner, 1, along)
                p2, q2 = _turned(t2, s2, b2, v2, corner, 2, along)
                p3, q3 = _turned(t3, s3, b3, v3, corner, 3, along)
                change = dot * _product(p0, q0, p1, q1, p2, q2, p3, q3, in_dim, tangent)
                if along == 0:
                    sum0 += change
                if along == 1:
                    sum1 += change
                if along == 2:
                    sum2 += change
                if along == 3:
                    sum3 += change
    tl.store(out_ptr + points * in_dim, sum0, mask=valid)
    if in_dim > 1:
        tl.store(out_ptr + points * in_dim + 1, sum1, mask=valid)
    if in_dim > 2:
        tl.store(out_ptr + points * in_dim + 2, sum2, mask=valid)
    if in_dim > 3:
        tl.store(out_ptr + points * in_dim + 3, sum3, mask=valid)


BLOCK = 128


@functools.cache
def _levels(layout: HashGridLayout, device: torch.device) -> Tensor:
    """(levels, 3) int32: resolution, first row, stored densely or not."""
    rows = list(zip(layout.resolutions, layout.offsets, layout.dense, strict=True))
    return torch.tensor([[int(value) for value in row] for row in rows], dtype=torch.int32, device=device)


def _constants(layout: HashGridLayout) -> dict[str, Any]:
    return {
        "in_dim": layout.in_dim,
        "levels": layout.levels,
        "features": layout.feature_dim,
        "padded": triton.next_power_of_2(layout.feature_dim),
        "smooth": layout.interpolation == "smoothstep",
        "block": BLOCK,
    }


def gather(x: Tensor, v: Tensor | None, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Features (K, N, out_dim) of points x (K, N, d), or their derivatives along v (K, N, d)."""
    networks, points, _ = x.shape
    x, table = x.contiguous(), table.contiguous()
    tangent, v = v is not None, x if v is None else v.contiguous()
    out = x.new_empty(networks, points, layout.out_dim)
    if points:
        with on_device_of(x):
            _gather_kernel[triton.cdiv(points, BLOCK), layout.levels, networks](
                x, v, table, out, out, _levels(layout, x.device), points, layout.total_entries, layout.table_size - 1,
                tangent=tangent, scatter=False, **_constants(layout),
            )  # fmt: skip
    return out


def scatter(x: Tensor, v: Tensor | None, g: Tensor, layout: HashGridLayout) -> Tensor:
    """Table gradient (K, total_entries, feature_dim) of <features, g> (K, N, out_dim), or of their derivatives by v."""
    networks, points, _ = x.shape
    x, g = x.contiguous(), g.contiguous()
    tangent, v = v is not None, x if v is None else v.contiguous()
    out = x.new_zeros(networks, layout.total_entries, layout.feature_dim)
    if points:
        with on_device_of(x):
            _gather_kernel[triton.cdiv(points, BLOCK), layout.levels, networks](
                x, v, out, g, g, _levels(layout, x.device), points, layout.total_entries, layout.table_size - 1,
                tangent=tangent, scatter=True, **_constants(layout),
            )  # fmt: skip
    return out


def contract(x: Tensor, v: Tensor | None, g: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Point gradient (K, N, d) of <features, g> (K, N, out_dim), or that gradient's derivative along v (K, N, d)."""
    networks, points, _ = x.shape
    x, g, table = x.contiguous(), g.contiguous(), table.contiguous()
    tangent, v = v is not None, x if v is None else v.contiguous()
    out = torch.empty_like(x)
    if points:
        with on_device_of(x):
            _contract_kernel[triton.cdiv(points, BLOCK), networks](
                x, v, table, g, out, _levels(layout, x.device), points, layout.total_entries, layout.table_size - 1,
                tangent=tangent, **_constants(layout),
            )  # fmt: skip
    return out
