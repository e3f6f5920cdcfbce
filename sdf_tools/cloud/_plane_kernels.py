"""Compiled loop of plane fitting: the best plane through each point's neighbours.

Importing this module needs numba; ``sdf_tools.cloud.normals`` does so at first use and says how to get it.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _diagonalize(a, axes):
    """Turn the symmetric ``a`` (3, 3) diagonal by cyclic Jacobi rotations; the columns of ``axes`` are its axes."""
    for i in range(3):
        for j in range(3):
            axes[i, j] = 1.0 if i == j else 0.0
    # Jacobi (Golub and Van Loan, Matrix Computations, 8.5), not the closed form for 3 x 3, whose errors are relative
    # to the largest variance (Kopp 2008), while the axis of the smallest is what is asked for.
    for _ in range(12):
        off = a[0, 1] ** 2 + a[0, 2] ** 2 + a[1, 2] ** 2
        if off <= 1e-34 * (a[0, 0] ** 2 + a[1, 1] ** 2 + a[2, 2] ** 2):
            break
        for p in range(2):
            for q in range(p + 1, 3):
                if a[p, q] == 0.0:
                    continue
                # Of the two angles that make a[p, q] zero the smaller: only with it do the sweeps converge.
                half = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                t = (1.0 if half >= 0 else -1.0) / (abs(half) + np.sqrt(half * half + 1.0))
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for k in range(3):
                    a[k, p], a[k, q] = c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]
                for k in range(3):
                    a[p, k], a[q, k] = c * a[p, k] - s * a[q, k], s * a[p, k] + c * a[q, k]
                for k in range(3):
                    axes[k, p], axes[k, q] = c * axes[k, p] - s * axes[k, q], s * axes[k, p] + c * axes[k, q]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fit_planes(points, neighbours, normals, variances):
    """Fill ``normals`` (M, 3) and sorted ``variances`` (M, 3), summed over each row's ``neighbours`` (M, k)."""
    a, axes, mean = np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    count = neighbours.shape[1]
    for row in range(len(neighbours)):
        mean[:] = 0.0
        for j in neighbours[row]:
            for i in range(3):
                mean[i] += points[j, i] / count
        # About the mean, in a second pass: sums of squares alone would cancel far from the origin.
        a[:] = 0.0
        for j in neighbours[row]:
            x, y, z = points[j, 0] - mean[0], points[j, 1] - mean[1], points[j, 2] - mean[2]
            a[0, 0] += x * x
            a[0, 1] += x * y
            a[0, 2] += x * z
            a[1, 1] += y * y
            a[1, 2] += y * z
            a[2, 2] += z * z
        a[1, 0], a[2, 0], a[2, 1] = a[0, 1], a[0, 2], a[1, 2]
        _diagonalize(a, axes)
        least, most = 0, 0
        for i in range(1, 3):
            if a[i, i] < a[least, least]:
                least = i
            if a[i, i] >= a[most, most]:
                most = i
        length = np.sqrt(axes[0, least] ** 2 + axes[1, least] ** 2 + axes[2, least] ** 2)
        for i in range(3):
            normals[row, i] = axes[i, least] / length
        middle = 3 - least - most
        variances[row, 0], variances[row, 1], variances[row, 2] = a[least, least], a[middle, middle], a[most, most]
