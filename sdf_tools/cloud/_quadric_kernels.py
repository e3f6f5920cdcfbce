"""Compiled loops of local quadrics: how wide each may be, and where it puts the surface.

Importing this module needs numba; ``sdf_tools.cloud.projection`` does so at first use and says how to get it.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _frame(normal, u, v):
    """Fill ``u`` and ``v``, unit vectors at a right angle to the unit ``normal`` and each other."""
    x, y, z = normal[0], normal[1], normal[2]
    sign = 1.0 if z >= 0 else -1.0
    a = -1.0 / (sign + z)
    b = x * y * a
    u[0], u[1], u[2] = 1.0 + sign * x * x * a, sign * b, -sign * x
    v[0], v[1], v[2] = b, sign + y * y * a, -y


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _factor(m, low, size):
    """Cholesky of the symmetric ``m``, its lower half filled, into ``low``; False where it is not positive."""
    for i in range(size):
        for j in range(i + 1):
            s = m[i, j]
            for k in range(j):
                s -= low[i, k] * low[j, k]
            if i == j:
                if s <= 1e-9 * m[i, i] or not s > 0:
                    return False
                low[i, i] = np.sqrt(s)
            else:
                low[i, j] = s / low[j, j]
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _solve(low, right, out, size):
    """``out`` such that ``low low^T out = right``."""
    for i in range(size):
        s = right[i]
        for k in range(i):
            s -= low[i, k] * out[k]
        out[i] = s / low[i, i]
    for i in range(size - 1, -1, -1):
        s = out[i]
        for k in range(i + 1, size):
            s -= low[k, i] * out[k]
        out[i] = s / low[i, i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _monomials(x, y, a):
    a[0], a[1], a[2], a[3], a[4], a[5] = 1.0, x, y, x * x, x * y, y * y


@numba.njit(cache=True, nogil=True, error_model="numpy")
def choose_widths(points, sides, starts, normals, neighbours, distances, scales, least, noise, gamma, oriented, widths):
    """Fill ``widths`` (M,): the radius of the largest neighbourhood whose quadric agrees with those of all smaller.

    Intersection of confidence intervals (Goldenshluger and Nemirovski 1997): the height of the quadric over each start
    has a known standard deviation for noise ``noise`` (M,), and ``gamma`` of it either way must have a point in common
    with all smaller neighbourhoods. ``neighbours`` and ``distances`` (M, K), nearest first; ``scales`` are numbers of
    neighbours, rising, of which a row begins with the one numbered ``least`` (M,).
    """
    m, low = np.zeros((6, 6)), np.zeros((6, 6))
    right, a, c, unit, z = np.zeros(6), np.zeros(6), np.zeros(6), np.zeros(6), np.zeros(6)
    u, v = np.zeros(3), np.zeros(3)
    unit[0] = 1.0
    for row in range(len(neighbours)):
        n = normals[row]
        _frame(n, u, v)
        size = max(distances[row, scales[least[row]] - 1], 1e-300)
        m[:], right[:] = 0.0, 0.0
        lowest, highest = -np.inf, np.inf
        widths[row] = size
        done, count = 0, 0
        for s in range(least[row], len(scales)):
            for k in range(done, scales[s]):
                j = neighbours[row, k]
                if oriented and sides[j, 0] * n[0] + sides[j, 1] * n[1] + sides[j, 2] * n[2] < 0.0:
                    continue
                dx, dy, dz = points[j, 0] - starts[row, 0], points[j, 1] - starts[row, 1], points[j, 2] - starts[row, 2]
                h = dx * n[0] + dy * n[1] + dz * n[2]
                _monomials((dx * u[0] + dy * u[1] + dz * u[2]) / size, (dx * v[0] + dy * v[1] + dz * v[2]) / size, a)
                for p in range(6):
                    right[p] += a[p] * h
                    for q in range(p + 1):
                        m[p, q] += a[p] * a[q]
                count += 1
            done = scales[s]
            if count < 9 or not _factor(m, low, 6):
                continue
            _solve(low, right, c, 6)
            _solve(low, unit, z, 6)
            spread = gamma * noise[row] * np.sqrt(max(z[0], 0.0))
            lowest, highest = max(lowest, c[0] - spread), min(highest, c[0] + spread)
            if lowest > highest:
                break
            widths[row] = distances[row, done - 1]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def sort_into_cells(points, low, cell, count, first, order):
    """Fill ``order`` (N,): the points, those of a cell together; ``first`` (cells + 1,): where each begins."""
    key = np.empty(len(points), np.int64)
    for i in range(len(points)):
        x, y, z = (points[i, 0] - low[0]) / cell, (points[i, 1] - low[1]) / cell, (points[i, 2] - low[2]) / cell
        key[i] = (np.int64(x) * count[1] + np.int64(y)) * count[2] + np.int64(z)
        first[key[i] + 1] += 1
    for c in range(len(first) - 1):
        first[c + 1] += first[c]
    place = first.copy()
    for i in range(len(points)):
        order[place[key[i]]] = i
        place[key[i]] += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fit_quadrics(
    points, sides, corner, cell, count, first, starts, normals, widths, oriented, order, out, turned, trust
):
    """Fill ``out`` and ``turned`` (M, 3): the weighted quadric's point over each start, and its normal there.

    Weights fall to zero at ``widths`` (M,) as ``(1 - (d / w)^2)^2``, times how far the side of a point agrees.
    ``trust`` (M, 2): standard deviation of the residuals, and the part of it that the height at the start keeps.
    ``points`` and ``sides`` (N, 3) are in the order of :func:`sort_into_cells`.
    """
    m, m2, low = np.zeros((6, 6)), np.zeros((6, 6)), np.zeros((6, 6))
    right, a, c, unit, z = np.zeros(6), np.zeros(6), np.zeros(6), np.zeros(6), np.zeros(6)
    u, v = np.zeros(3), np.zeros(3)
    unit[0] = 1.0
    begin, end = np.empty(3, np.int64), np.empty(3, np.int64)
    for row in range(len(starts)):
        n = normals[row]
        _frame(n, u, v)
        size = max(widths[row], 1e-300)
        m[:], m2[:], right[:] = 0.0, 0.0, 0.0
        total, squares = 0.0, 0.0
        for i in range(3):
            begin[i] = max(0, np.int64(np.floor((starts[row, i] - size - corner[i]) / cell)))
            end[i] = min(count[i] - 1, np.int64(np.floor((starts[row, i] + size - corner[i]) / cell)))
        for x in range(begin[0], end[0] + 1):
            for y in range(begin[1], end[1] + 1):
                # Cells along z lie side by side.
                here = (x * count[1] + y) * count[2]
                for j in range(first[here + begin[2]], first[here + max(begin[2], end[2] + 1)]):
                    dx, dy = points[j, 0] - starts[row, 0], points[j, 1] - starts[row, 1]
                    dz = points[j, 2] - starts[row, 2]
                    d2 = (dx * dx + dy * dy + dz * dz) / (size * size)
                    if d2 >= 1.0:
                        continue
                    w = (1.0 - d2) ** 2
                    if oriented:
                        w *= max(0.0, sides[j, 0] * n[0] + sides[j, 1] * n[1] + sides[j, 2] * n[2])
                    if w == 0.0:
                        continue
                    h = dx * n[0] + dy * n[1] + dz * n[2]
                    s, t = (dx * u[0] + dy * u[1] + dz * u[2]) / size, (dx * v[0] + dy * v[1] + dz * v[2]) / size
                    _monomials(s, t, a)
                    total += w
                    squares += w * h * h
                    for p in range(6):
                        right[p] += w * a[p] * h
                        for q in range(p + 1):
                            m[p, q] += w * a[p] * a[q]
                            m2[p, q] += w * w * a[p] * a[q]
        for i in range(3):
            out[row, i], turned[row, i] = starts[row, i], n[i]
        trust[row, 0], trust[row, 1] = 0.0, 1.0
        terms = order
        while terms >= 1 and not _factor(m, low, terms):
            terms = 3 if terms == 6 else terms - 2
        if terms < 1:
            continue
        _solve(low, right, c, terms)
        _solve(low, unit, z, terms)
        rest, kept = squares, 0.0
        for p in range(terms):
            rest -= c[p] * right[p]
            for q in range(terms):
                kept += z[p] * z[q] * (m2[p, q] if q <= p else m2[q, p])
        trust[row, 0], trust[row, 1] = np.sqrt(max(rest, 0.0) / total), np.sqrt(min(max(kept, 0.0), 1.0))
        gx, gy = (c[1] / size, c[2] / size) if terms >= 3 else (0.0, 0.0)
        length = np.sqrt(1.0 + gx * gx + gy * gy)
        for i in range(3):
            out[row, i] = starts[row, i] + c[0] * n[i]
            turned[row, i] = (n[i] - gx * u[i] - gy * v[i]) / length
