"""Compiled tree sums of winding-number fields.

Importing this module needs numba; ``sdf_tools.spatial.winding_tree`` does so at first use and says how to get it.
"""

# mypy: disable-error-code="no-untyped-def, misc"

from __future__ import annotations

import numba
import numpy as np

WINDING, ADJOINT, GRADIENT = 0, 1, 2


# Inlined, because a call from a cached function is not, and the loops then take twice the time.
@numba.njit(inline="always")
def _add(mode, targets, px, py, pz, sx, sy, sz, soften, sums):
    """Add one source ``s`` at ``p`` to the ``sums`` (3, B) at ``targets`` (3, B); the loops become vector code."""
    # Three loops rather than a test inside one: the compiler turns each into vector code.
    if mode == WINDING:
        # A dipole's share is s . (p - t) / |p - t|^3: the solid angle of its disc, as seen from t.
        for b in range(targets.shape[1]):
            rx, ry, rz = targets[0, b] - px, targets[1, b] - py, targets[2, b] - pz
            r2 = rx * rx + ry * ry + rz * rz + soften
            sums[0, b] -= (sx * rx + sy * ry + sz * rz) / (r2 * np.sqrt(r2))
    elif mode == ADJOINT:
        for b in range(targets.shape[1]):
            rx, ry, rz = targets[0, b] - px, targets[1, b] - py, targets[2, b] - pz
            r2 = rx * rx + ry * ry + rz * rz + soften
            weight = sx / (r2 * np.sqrt(r2))
            sums[0, b] += weight * rx
            sums[1, b] += weight * ry
            sums[2, b] += weight * rz
    else:
        for b in range(targets.shape[1]):
            rx, ry, rz = targets[0, b] - px, targets[1, b] - py, targets[2, b] - pz
            inverse = 1.0 / (rx * rx + ry * ry + rz * rz + soften)
            weight = inverse * np.sqrt(inverse)
            dot = 3.0 * inverse * (sx * rx + sy * ry + sz * rz)
            sums[0, b] += (dot * rx - sx) * weight
            sums[1, b] += (dot * ry - sy) * weight
            sums[2, b] += (dot * rz - sz) * weight


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def tree_sum(targets, block, points, sources, first, last, centers, radii, totals, skip, soften, mode, near, out):
    """Fill ``out`` (M, 3). Each run of ``block`` targets, which should be close together, descends the tree as one."""
    # fastmath: sums may be reordered into vectors. x, y and z in rows, as vectors load what lies side by side.
    count = targets.shape[0]
    some, sums, middle = np.empty((3, block)), np.empty((3, block)), np.empty(3)
    for start in range(0, count, block):
        middle[:] = 0.0
        for b in range(block):
            i = min(start + b, count - 1)  # the last block is filled up with copies, so that loops have one length
            for k in range(3):
                some[k, b] = targets[i, k]
                middle[k] += targets[i, k] / block
        size = 0.0
        for b in range(block):
            rx, ry, rz = some[0, b] - middle[0], some[1, b] - middle[1], some[2, b] - middle[2]
            size = max(size, rx * rx + ry * ry + rz * rz)
        size = np.sqrt(size)
        sums[:] = 0.0
        node = 0
        while node < radii.shape[0]:
            cx, cy, cz = centers[node, 0], centers[node, 1], centers[node, 2]
            rx, ry, rz = middle[0] - cx, middle[1] - cy, middle[2] - cz
            # Far enough from every target of the block: its own radius counts in full, the node's times `near`.
            reach = near * radii[node] + size
            if rx * rx + ry * ry + rz * rz > reach * reach:
                _add(mode, some, cx, cy, cz, totals[node, 0], totals[node, 1], totals[node, 2], soften, sums)
                node = skip[node]
            elif skip[node] == node + 1:  # nothing below it: a leaf
                for j in range(first[node], last[node]):
                    px, py, pz = points[j, 0], points[j, 1], points[j, 2]
                    _add(mode, some, px, py, pz, sources[j, 0], sources[j, 1], sources[j, 2], soften, sums)
                node += 1
            else:
                node += 1
        for b in range(min(block, count - start)):
            for k in range(3):
                out[start + b, k] = sums[k, b]
