"""Compiled loops over triangles: closest points and the tree that finds them, crossings of rays, random points.

Importing this module needs numba; ``sdf_tools.spatial.closest_triangles`` does so at first use and says how to get it.
"""

# mypy: disable-error-code="no-untyped-def, misc"

# Throughout: nogil, so that our own threads run side by side; scalars rather than small arrays, because numba allocates
# those on the heap; error_model numpy, as a test for division by zero at each division would keep loops from vectors.

from __future__ import annotations

import numba
import numpy as np

LEAF = 4  # triangles in a leaf, at most
BINS = 16  # candidate cuts along an axis, as in Wald 2007
AREA_ERROR = (3 + 16 * 2.0**-53) * 2.0**-53  # of a triangle's area in floating point, by its terms (Shewchuk 1997)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def closest_on_triangle(corners, t, px, py, pz):
    """Squared distance, point and region (see ``closest_triangles``) of the point of a triangle closest to p.

    Voronoi regions of the triangle in turn (Ericson, Real-Time Collision Detection, 5.1.5). ``corners`` (F, 9) holds
    a, b - a and c - a.
    """
    ax, ay, az = corners[t, 0], corners[t, 1], corners[t, 2]
    abx, aby, abz = corners[t, 3], corners[t, 4], corners[t, 5]
    acx, acy, acz = corners[t, 6], corners[t, 7], corners[t, 8]
    x, y, z = px - ax, py - ay, pz - az
    d1 = abx * x + aby * y + abz * z
    d2 = acx * x + acy * y + acz * z
    ab2 = abx * abx + aby * aby + abz * abz
    ac2 = acx * acx + acy * acy + acz * acz
    abac = abx * acx + aby * acy + abz * acz
    # Ericson's six dot products, four of them from the first two: one point and no other corner has to be subtracted.
    d3, d4 = d1 - ab2, d2 - abac
    d5, d6 = d1 - abac, d2 - ac2
    # Areas of the triangles that p's projection makes with the sides: barycentric coordinates, not yet divided.
    vc = d1 * d4 - d3 * d2
    vb = d5 * d2 - d1 * d6
    va = d3 * d6 - d5 * d4
    # Corners before their edges: each edge's test is only right where no corner is closest.
    if d1 <= 0 and d2 <= 0:
        v, w, region = 0.0, 0.0, 0
    elif d3 >= 0 and d4 <= d3:
        v, w, region = 1.0, 0.0, 1
    elif vc <= 0 and d1 >= 0 and d3 <= 0:
        v, w, region = d1 / (d1 - d3), 0.0, 3
    elif d6 >= 0 and d5 <= d6:
        v, w, region = 0.0, 1.0, 2
    elif vb <= 0 and d2 >= 0 and d6 <= 0:
        v, w, region = 0.0, d2 / (d2 - d6), 5
    elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        v, region = 1.0 - w, 4
    else:
        inverse = 1.0 / (va + vb + vc)
        v, w, region = vb * inverse, vc * inverse, 6
    cx, cy, cz = ax + v * abx + w * acx, ay + v * aby + w * acy, az + v * abz + w * acz
    x, y, z = px - cx, py - cy, pz - cz
    return x * x + y * y + z * z, cx, cy, cz, region


@numba.njit(cache=True, nogil=True, error_model="numpy")
def build_tree(low, high, order):
    """A binary tree of boxes over triangles' boxes, split where the surface area heuristic says (Wald 2007).

    ``order`` (F,) is permuted in place so that each leaf holds a run of it.

    Returns:
        boxes: (nodes, 2, 6) float64 low and high corners of both children.
        child: (nodes, 2) int64: an inner node's number, or ``-1 - (start * 8 + count)`` of a leaf.
        depth: of the deepest leaf.
    """
    total = order.shape[0]
    boxes = np.empty((total, 2, 6))
    child = np.empty((total, 2), np.int64)
    todo = np.empty((total + 2, 5), np.int64)  # start, end, parent, side, depth; a stack, no recursion
    todo[0] = (0, total, -1, 0, 0)
    waiting, nodes, deepest = 1, 0, 0
    counts = np.empty(BINS, np.int64)
    bins = np.empty((BINS, 6))
    right_cost = np.empty(BINS)
    box, centers = np.empty(6), np.empty(6)
    while waiting:
        waiting -= 1
        start, end, parent, side, depth = todo[waiting]
        deepest = max(deepest, depth)
        box[:3], centers[:3] = np.inf, np.inf
        box[3:], centers[3:] = -np.inf, -np.inf
        for i in range(start, end):
            t = order[i]
            for k in range(3):
                box[k] = min(box[k], low[t, k])
                box[3 + k] = max(box[3 + k], high[t, k])
                center = low[t, k] + high[t, k]
                centers[k] = min(centers[k], center)
                centers[3 + k] = max(centers[3 + k], center)
        if parent >= 0:
            boxes[parent, side] = box
            child[parent, side] = nodes if end - start > LEAF else -1 - (start * 8 + end - start)
        if end - start <= LEAF:
            continue
        # Cut where the centres spread most, and by their bins, not the boxes': a long triangle would fill many.
        axis = np.argmax(centers[3:] - centers[:3])
        base, width = centers[axis], centers[3 + axis] - centers[axis]
        middle = start
        if width > 0 and depth < 48:
            scale = BINS * (1 - 1e-9) / width  # the last centre belongs to the last bin, not to one behind it
            counts[:] = 0
            bins[:, :3], bins[:, 3:] = np.inf, -np.inf
            for i in range(start, end):
                t = order[i]
                b = int((low[t, axis] + high[t, axis] - base) * scale)
                counts[b] += 1
                for k in range(3):
                    bins[b, k] = min(bins[b, k], low[t, k])
                    bins[b, 3 + k] = max(bins[b, 3 + k], high[t, k])
            # The cost of a child is its number of triangles times the chance that a query reaches it, which grows with
            # its surface area. One sweep from the right, then one from the left that adds both sides up.
            box[:3], box[3:] = np.inf, -np.inf
            number = 0
            for b in range(BINS - 1, 0, -1):
                number += counts[b]
                for k in range(3):
                    box[k], box[3 + k] = min(box[k], bins[b, k]), max(box[3 + k], bins[b, 3 + k])
                right_cost[b] = number * half_area(box)
            box[:3], box[3:] = np.inf, -np.inf
            number, best, cut = 0, np.inf, 0
            for b in range(BINS - 1):
                number += counts[b]
                for k in range(3):
                    box[k], box[3 + k] = min(box[k], bins[b, k]), max(box[3 + k], bins[b, 3 + k])
                cost = number * half_area(box) + right_cost[b + 1]
                if 0 < number < end - start and cost < best:
                    best, cut = cost, b
            i, j = start, end - 1
            while i <= j:
                t = order[i]
                if int((low[t, axis] + high[t, axis] - base) * scale) <= cut:
                    i += 1
                else:
                    order[i], order[j] = order[j], t
                    j -= 1
            middle = i
        if not start < middle < end:
            middle = (start + end) // 2  # all centres coincide, or the tree gets too deep
        todo[waiting] = (middle, end, nodes, 1, depth + 1)
        todo[waiting + 1] = (start, middle, nodes, 0, depth + 1)
        waiting += 2
        nodes += 1
    return boxes[:nodes], child[:nodes], deepest


@numba.njit(cache=True, nogil=True, error_model="numpy")
def half_area(box):
    """Half the surface area of a box; 0 if it holds nothing."""
    x, y, z = box[3] - box[0], box[4] - box[1], box[5] - box[2]
    return x * y + y * z + z * x if x >= 0 else 0.0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def box_distance(boxes, node, side, px, py, pz):
    """Squared distance from a point to a child's box."""
    x = max(boxes[node, side, 0] - px, px - boxes[node, side, 3], 0.0)
    y = max(boxes[node, side, 1] - py, py - boxes[node, side, 4], 0.0)
    z = max(boxes[node, side, 2] - pz, pz - boxes[node, side, 5], 0.0)
    return x * x + y * y + z * z


@numba.njit(cache=True, nogil=True, error_model="numpy")
def find_closest(queries, order, boxes, child, depth, corners, ids, points, region):
    """Closest triangles to ``queries[order]``, written to the rows ``order`` of ids, points and region.

    The answer to one query, asked first, bounds the search for the next: their order should be a path through space.
    """
    stack, reach = np.empty(depth + 2, np.int64), np.empty(depth + 2)
    last = 0
    for q in range(order.shape[0]):
        row = order[q]
        px, py, pz = queries[row, 0], queries[row, 1], queries[row, 2]
        # A bound from the start rules out nearly every box.
        best, bx, by, bz, best_region = closest_on_triangle(corners, last, px, py, pz)
        best_id = last
        stack[0], reach[0] = (0 if boxes.shape[0] else -1 - corners.shape[0]), 0.0
        pending = 1
        while pending:
            pending -= 1
            node = stack[pending]
            if reach[pending] >= best:
                continue  # something closer was found since the box was put aside
            descending = True
            # Down to the nearer child at once, and only the farther one through the stack.
            while descending and node >= 0:
                first, second = child[node, 0], child[node, 1]
                near, far = box_distance(boxes, node, 0, px, py, pz), box_distance(boxes, node, 1, px, py, pz)
                if far < near:
                    near, far = far, near
                    first, second = second, first
                if far < best:
                    stack[pending], reach[pending] = second, far
                    pending += 1
                node = first
                descending = near < best
            if not descending:
                continue
            start, count = (-1 - node) // 8, (-1 - node) % 8
            for t in range(start, start + count):
                squared, cx, cy, cz, r = closest_on_triangle(corners, t, px, py, pz)
                if squared < best:
                    best, best_id, bx, by, bz, best_region = squared, t, cx, cy, cz, r
        ids[row], region[row] = best_id, best_region
        points[row, 0], points[row, 1], points[row, 2] = bx, by, bz
        last = best_id


@numba.njit(cache=True, nogil=True)
def list_columns(first, last, shape):
    """Which triangles each column of a grid may meet, as starts (columns + 1,) and entries.

    ``first`` and ``last`` (F, 2) are the lowest and highest column that a triangle's box touches, per axis.
    """
    # Counted first and filled second, as in a sparse matrix by rows: two arrays instead of a list a column.
    starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
    for t in range(first.shape[0]):
        for i in range(first[t, 0], last[t, 0] + 1):
            for j in range(first[t, 1], last[t, 1] + 1):
                starts[i * shape[1] + j + 1] += 1
    for column in range(1, starts.shape[0]):
        starts[column] += starts[column - 1]
    entries = np.empty(starts[-1], np.int32)
    free = starts[:-1].copy()
    for t in range(first.shape[0]):
        for i in range(first[t, 0], last[t, 0] + 1):
            for j in range(first[t, 1], last[t, 1] + 1):
                column = i * shape[1] + j
                entries[free[column]] = t
                free[column] += 1
    return starts, entries


@numba.njit(cache=True, nogil=True, error_model="numpy")
def is_left(ax, ay, bx, by, px, py):
    """Twice the area of (a, b, p), and whether p is left of the line from a to b.

    Where p is on the line it counts as moved by an infinitely small step, mostly along x, the same for all lines
    (Edelsbrunner and Muecke 1990), so that a ray through an edge or a corner still crosses one triangle of each side.
    """
    dx, dy = bx - ax, by - ay
    one, other = dx * (py - ay), dy * (px - ax)
    area = one - other
    if abs(area) <= AREA_ERROR * (abs(one) + abs(other)):
        area = exact_area(ax, ay, bx, by, px, py)  # rounded, the lines through one corner could disagree
    if area != 0:
        return area, area > 0
    return area, dy < 0 or (dy == 0 and dx > 0)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def exact_area(ax, ay, bx, by, px, py):
    """Twice the area of (a, b, p) to the last bit or nearly so, and 0 only if it is (Shewchuk 1997)."""
    parts = np.empty(12)
    used = 0
    for k in range(6):
        if k == 0:
            x, y = ax, by
        elif k == 1:
            x, y = -ay, bx
        elif k == 2:
            x, y = bx, py
        elif k == 3:
            x, y = -by, px
        elif k == 4:
            x, y = px, ay
        else:
            x, y = -py, ax
        high = x * y
        # Dekker's product: halves of the digits, whose products are exact.
        split_x, split_y = 134217729.0 * x, 134217729.0 * y
        x_high, y_high = split_x - (split_x - x), split_y - (split_y - y)
        x_low, y_low = x - x_high, y - y_high
        low = x_low * y_low - (((high - x_high * y_high) - x_low * y_high) - x_high * y_low)
        for term in (low, high):
            # Knuth's sum, through the parts from the smallest: none of their digits overlap.
            for i in range(used):
                total = term + parts[i]
                apart = total - term
                parts[i] = (term - (total - apart)) + (parts[i] - apart)
                term = total
            parts[used] = term
            used += 1
    area = 0.0
    for i in range(used):
        area += parts[i]
    return area


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count_crossings(points, axes, low, inverse, shape, starts, entries, triangles, winding):
    """Winding numbers by the signed crossings of rays from each point in the direction of the third of ``axes``.

    Each row of ``triangles`` (F, 12) holds the corners in the order of their vertices' numbers, so that both triangles
    at an edge see the same line; then the lowest and highest height; then 1 if that order is an even permutation of
    the triangle's, else -1.
    """
    for n in range(points.shape[0]):
        px, py, pz = points[n, axes[0]], points[n, axes[1]], points[n, axes[2]]
        x, y = (px - low[0]) * inverse, (py - low[1]) * inverse
        winding[n] = 0
        if not (x >= 0 and y >= 0 and x < shape[0] and y < shape[1]):
            continue
        column = int(x) * shape[1] + int(y)
        total = 0
        for at in range(starts[column], starts[column + 1]):
            t = entries[at]
            if triangles[t, 10] < pz:
                continue
            ax, ay, bx, by = triangles[t, 0], triangles[t, 1], triangles[t, 3], triangles[t, 4]
            # Inside the projected triangle, p is on the same side of a-b, b-c and c-a. The third is asked as a-c: the
            # neighbour behind that edge asks for the same line, gets the same bits, and so no ray slips between them.
            ab, ab_left = is_left(ax, ay, bx, by, px, py)
            cx, cy = triangles[t, 6], triangles[t, 7]
            bc, bc_left = is_left(bx, by, cx, cy, px, py)
            if ab_left != bc_left:
                continue
            ac, ac_left = is_left(ax, ay, cx, cy, px, py)
            if ac_left == ab_left:
                continue
            if triangles[t, 9] <= pz:
                # p is not below the whole triangle: compare with its height there, weighted by the opposite areas.
                area = ab + bc - ac
                if area == 0 or (ab * triangles[t, 8] + bc * triangles[t, 2] - ac * triangles[t, 5]) / area <= pz:
                    continue
            total += 1 if ab_left == (triangles[t, 11] > 0) else -1
        winding[n] = total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def z_order(points, low, inverse):
    """The order that visits (N, 3) points along a Z curve through 1024^3 cells of side ``1 / inverse``."""
    count = points.shape[0]
    codes, others = np.empty(count, np.uint32), np.empty(count, np.uint32)
    order, spare = np.empty(count, np.int64), np.empty(count, np.int64)
    totals = np.zeros((3, 1025), np.int64)
    for i in range(count):
        code = np.uint32(0)
        for k in range(3):
            x = np.uint32(min(1023, int((points[i, k] - low[k]) * inverse)))
            # Spread ten bits to every third place by halves: two groups of five far apart, then each of those.
            x = (x | (x << np.uint32(16))) & np.uint32(0x030000FF)
            x = (x | (x << np.uint32(8))) & np.uint32(0x0300F00F)
            x = (x | (x << np.uint32(4))) & np.uint32(0x030C30C3)
            x = (x | (x << np.uint32(2))) & np.uint32(0x09249249)
            code |= x << np.uint32(k)
        codes[i], order[i] = code, i
        for digit in range(3):
            totals[digit, ((code >> np.uint32(10 * digit)) & np.uint32(1023)) + 1] += 1
    # Radix sort, ten bits at a time: linear in the points.
    for digit in range(3):
        for b in range(1024):
            totals[digit, b + 1] += totals[digit, b]
        for i in range(count):
            b = (codes[i] >> np.uint32(10 * digit)) & np.uint32(1023)
            others[totals[digit, b]], spare[totals[digit, b]] = codes[i], order[i]
            totals[digit, b] += 1
        codes, others = others, codes
        order, spare = spare, order
    return order


@numba.njit(cache=True, nogil=True, error_model="numpy")
def draw(vertices, faces, table, guide, chance, uv, points, normals, ids):
    """Points uniform on triangles drawn in proportion to their shares: see ``sdf_tools.sampling`` for the tables."""
    count, total = table.shape[0], table[-1]
    for n in range(chance.shape[0]):
        # The guide's entry is right or nearly so: a step or two instead of a binary search through a table that no
        # cache holds (Chen and Asau 1974).
        value = chance[n] * total
        t = guide[min(count - 1, int(chance[n] * count))]
        # Rounding may have put the guide one step to either side.
        while t > 0 and (t == count or table[t - 1] > value):
            t -= 1
        while t < count - 1 and table[t] <= value:
            t += 1
        u, v = uv[0, n], uv[1, n]
        if u + v > 1:  # the other half of the parallelogram folds back onto the triangle
            u, v = 1 - u, 1 - v
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        bx, by, bz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        cx, cy, cz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        points[n, 0], points[n, 1], points[n, 2] = ax + u * bx + v * cx, ay + u * by + v * cy, az + u * bz + v * cz
        normals[n, 0], normals[n, 1], normals[n, 2] = nx / length, ny / length, nz / length
        ids[n] = t
