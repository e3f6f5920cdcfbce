"""Compiled loop of spheres fitted to the neighbours of each point.

Importing this module needs numba, as the search for those neighbours does.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def imls(points, distance, index, cloud, normals, trust, width, unsigned, height, normal):
    """Fill ``height`` (M,) and ``normal`` (M, 3): see ``cloud_distance.spheres_plainly``, which defines them."""
    k = index.shape[1]
    for row in range(len(points)):
        first = index[row, 0]
        narrow = 1.0 / (width[row] * width[row])
        nearest = distance[row, 0] * distance[row, 0]
        total, squares, along = 0.0, 0.0, 0.0
        px, py, pz, nx, ny, nz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for n in range(k):
            j = index[row, n]
            d = distance[row, n]
            w = np.exp((nearest - d * d) * narrow) * trust[j]
            x, y, z = normals[j, 0], normals[j, 1], normals[j, 2]
            if unsigned and x * normals[first, 0] + y * normals[first, 1] + z * normals[first, 2] < 0.0:
                x, y, z = -x, -y, -z
            dx, dy, dz = cloud[j, 0] - points[row, 0], cloud[j, 1] - points[row, 1], cloud[j, 2] - points[row, 2]
            total += w
            px, py, pz = px + w * dx, py + w * dy, pz + w * dz
            nx, ny, nz = nx + w * x, ny + w * y, nz + w * z
            along += w * (dx * x + dy * y + dz * z)
            squares += w * (dx * dx + dy * dy + dz * dz)
        inverse = 1.0 / total
        px, py, pz, nx, ny, nz = px * inverse, py * inverse, pz * inverse, nx * inverse, ny * inverse, nz * inverse
        along, squares = along * inverse, squares * inverse
        spread = squares - (px * px + py * py + pz * pz)
        bend = (along - (px * nx + py * ny + pz * nz)) / max(spread, 1e-8 / narrow)
        gx, gy, gz = nx - bend * px, ny - bend * py, nz - bend * pz
        value = -(gx * px + gy * py + gz * pz) - 0.5 * bend * squares
        length = np.sqrt(gx * gx + gy * gy + gz * gz)
        surface = np.sqrt(max(length * length - 2.0 * bend * value, 0.0))
        height[row] = 2.0 * value / max(length + surface, 1e-300)
        inverse = 1.0 / max(length, 1e-300)
        normal[row, 0], normal[row, 1], normal[row, 2] = gx * inverse, gy * inverse, gz * inverse
