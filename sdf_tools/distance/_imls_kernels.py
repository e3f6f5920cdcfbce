"""Compiled loop of implicit moving least squares over the neighbours of each point.

Importing this module needs numba, as the search for those neighbours does.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def imls(points, distance, index, cloud, normals, trust, spacing, unsigned, height, normal):
    """Fill ``height`` (M,) and ``normal`` (M, 3): see ``CloudDistance.local_plainly``, which defines them.

    ``distance`` and ``index`` (M, k) are those of each point's nearest, nearest first; ``spacing`` (N,) of the cloud.
    """
    k = index.shape[1]
    weight, sign = np.empty(k), np.ones(k)
    for row in range(len(points)):
        first = index[row, 0]
        narrow = 1.0 / (spacing[first] * spacing[first])
        nearest = distance[row, 0] * distance[row, 0]
        total, nx, ny, nz = 0.0, 0.0, 0.0, 0.0
        for n in range(k):
            j = index[row, n]
            d = distance[row, n]
            w = np.exp((nearest - d * d) * narrow) * trust[j]
            x, y, z = normals[j, 0], normals[j, 1], normals[j, 2]
            if unsigned:
                turned = x * normals[first, 0] + y * normals[first, 1] + z * normals[first, 2] < 0.0
                sign[n] = -1.0 if turned else 1.0
            weight[n] = w
            total += w
            nx += w * sign[n] * x
            ny += w * sign[n] * y
            nz += w * sign[n] * z
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        inverse = 1.0 / max(length, 1e-300)
        nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
        value = 0.0
        for n in range(k):
            j = index[row, n]
            ax = 0.5 * (sign[n] * normals[j, 0] + nx)
            ay = 0.5 * (sign[n] * normals[j, 1] + ny)
            az = 0.5 * (sign[n] * normals[j, 2] + nz)
            dx, dy, dz = points[row, 0] - cloud[j, 0], points[row, 1] - cloud[j, 1], points[row, 2] - cloud[j, 2]
            value += weight[n] * (dx * ax + dy * ay + dz * az)
        height[row] = value / total
        normal[row, 0], normal[row, 1], normal[row, 2] = nx, ny, nz
