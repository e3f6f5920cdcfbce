"""Which side of a point cloud is out. Users want :func:`sdf_tools.cloud.normals.orient_normals`."""

from __future__ import annotations

import numpy as np

from sdf_tools.cloud.thinning import even_subset
from sdf_tools.errors import needs
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.spatial.winding_tree import WindingTree
from sdf_tools.vectors import unit_vectors

ANCHORS = 30_000
COARSE = 6_000  # points of the first solve
FINISH = 8  # iterations of the second
OFF = 0.35  # winding numbers this far from one half show that sides are wrong nearby
ASTRAY = 0.02  # share of such points, and of the area, up to which the sides along a spanning tree are a start
SHORT = 6  # iterations from there
# Share of normals off the field's: 0.6 to 2 % on a horse and a CAD part, 4 % where bores are as thin as the spacing.
THIN = 0.035
FLAT = 0.02  # smallest over largest spread of points that lie in a plane
LONGEST = 1.5  # of a dipole, times the area of the disc that its point stands for


def orient_by_winding(
    points: np.ndarray, normals: np.ndarray, *, iterations: int = 40, refine: bool = True, anchors: int = ANCHORS
) -> np.ndarray:
    """Orient by winding number normal consistency (Lin, Shi and Liu, SIGGRAPH 2024), with our own tree sums.

    The dipoles are solved twice, see :func:`_solve`: with a softening that shrinks from 1.5 spacings or more, so that
    large parts settle first, and with one that starts near its end, which resolves pins, bores and sheets about as
    thin as the spacing but may leave a patch of surface inside out. Patches on which the two disagree follow the
    first, all else the second. The last softening is about 3 standard deviations of the noise (but 0.25 to 1.5
    spacings). Clouds of more points than ``anchors`` are solved on an even subset. Where the sides along a minimum
    spanning tree already give winding numbers of one half almost everywhere, a few iterations from there do instead,
    in a third of the time; clean clouds of many thin parts are solved from nothing.

    Args:
        points: (N, 3), longest side about 1.
        normals: (N, 3) unit normals of unknown side.
        iterations: of each solve; 40 is enough, and time is linear in it.
        refine: replace normals more than 37 degrees off the field's, unless all points lie in a plane, as the
            field then does.
        anchors: points to solve on, at most about.
    """
    chosen = even_subset(points, anchors)
    some = points[chosen]
    short = _dipoles_from_tree(some, normals[chosen]) if len(some) > 2 * COARSE else None
    dipoles, final = short or _dipoles(some, iterations)
    if len(points) == len(chosen) > 2 * COARSE and _has_thin_parts(some, normals, dipoles):
        dipoles, final = _dipoles(some, iterations, warm=False)
    field = unit_vectors(dipoles)
    if len(chosen) < len(points):
        field = unit_vectors(-WindingTree(some, near=1.5).gradient(dipoles, final, points))
    agreement = (normals * field).sum(1, keepdims=True)
    oriented = np.where(agreement < 0, -normals, normals)
    return np.where(np.abs(agreement) < 0.8, field, oriented) if refine and not _is_flat(some) else oriented


def _is_flat(points: np.ndarray) -> bool:
    width = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return len(width) < 3 or width[2] < FLAT * width[0]


def _has_thin_parts(points: np.ndarray, normals: np.ndarray, dipoles: np.ndarray) -> bool:
    """Whether many normals of a clean cloud are off the field's; noise puts them off as well."""
    if (np.abs((normals * unit_vectors(dipoles)).sum(1)) < 0.8).mean() <= THIN:
        return False
    _, spacing, final, _ = _scales(points)
    return final <= 0.25 * spacing


def _dipoles(points: np.ndarray, iterations: int, warm: bool = True) -> tuple[np.ndarray, float]:
    """(N, 3) outward dipoles on the points, and the softening of their field.

    With ``warm``, large clouds start from the field of an even subset and need few iterations of their own: a quarter
    of the time, and as good but for pins and bores as thin as the spacing (0.5 % more points wrong on a CAD part).
    """
    near, spacing, final, longest = _scales(points)
    tree = WindingTree(points, near=1.5)
    if warm and len(points) > 2 * COARSE:
        some = points[even_subset(points, COARSE)]
        rough, softening = _dipoles(some, iterations)
        field = unit_vectors(-WindingTree(some, near=1.5).gradient(rough, softening, points))
        softenings = np.geomspace(max(0.7 * spacing, 1.2 * final), final, FINISH)
        return _solve(tree, longest, softenings, field * longest / LONGEST), final
    coarse = _solve(tree, longest, np.geomspace(max(1.5 * spacing, 2 * final), final, iterations))
    fine = _solve(tree, longest, np.geomspace(max(0.35 * spacing, 1.2 * final), final, iterations))
    opposed = np.einsum("ij,ij->i", coarse, fine) < 0
    patch = opposed[near].mean(1) > 0.3
    return np.where(patch[:, None], coarse, fine), final


def _scales(points: np.ndarray) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Of (N, 3) points: their (N, 12) nearest, the spacing, the last softening, (N, 1) the longest dipoles."""
    distance, near = nearest_neighbours(points)(points, min(12, len(points)))
    spacing, noise = spacing_and_noise(points, distance, near)
    area = np.pi * distance[:, -1] ** 2 / distance.shape[1]
    longest = LONGEST * np.maximum(area, 1e-3 * np.median(area))[:, None]
    return near, spacing, float(np.clip(3 * noise, 0.25 * spacing, 1.5 * spacing)), longest


def _dipoles_from_tree(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, float] | None:
    """As :func:`_dipoles`, from the sides along a spanning tree; None where those are wrong in too many places."""
    _, spacing, final, longest = _scales(points)
    start = orient_by_spanning_tree(points, normals) * longest / LONGEST
    tree = WindingTree(points, near=1.5)
    off = np.abs(tree.winding(start, final) - 0.5) > OFF
    if max(off.mean(), longest[off].sum() / longest.sum()) > ASTRAY:  # uneven clouds: few points, much area
        return None
    return _solve(tree, longest, np.geomspace(max(0.7 * spacing, 1.2 * final), final, SHORT), start), final


def _solve(
    tree: WindingTree, longest: np.ndarray, softenings: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """(N, 3) outward dipoles on the tree's points, whose winding number there is about one half.

    They start at zero, or at ``start`` (N, 3). Each iteration makes one steepest-descent step towards a winding number
    of one half, then turns each dipole along the gradient of the field, its length kept but for the bound ``longest``
    (N, 1): long dipoles fit noise.
    """
    dipoles = np.zeros((len(longest), 3)) if start is None else start
    for soften in softenings:
        residual = tree.adjoint(0.5 - tree.winding(dipoles, soften), soften)
        reached = tree.winding(residual, soften)
        dipoles = dipoles + (residual**2).sum() / max(float((reached**2).sum()), 1e-300) * residual
        length = np.minimum(np.linalg.norm(dipoles, axis=1, keepdims=True), longest)
        dipoles = unit_vectors(-tree.gradient(dipoles, soften)) * length
    return dipoles


def spacing_and_noise(points: np.ndarray, distance: np.ndarray, index: np.ndarray) -> tuple[float, float]:
    """The typical distance between neighbours, and the standard deviation of points from the planes through them.

    ``distance`` and ``index`` (N, k) are those of each point's nearest neighbours, itself first.
    """
    k = distance.shape[1]
    near = points[index] - points[index].mean(1, keepdims=True)
    variance = np.linalg.eigvalsh(np.einsum("nki,nkj->nij", near, near))
    spacing = float(np.median(distance[:, min(7, k - 1)])) / 2
    return spacing, float(np.median(np.sqrt(np.maximum(variance[:, 0], 0) / max(1, k - 3))))


def orient_by_spanning_tree(points: np.ndarray, normals: np.ndarray, k: int = 12) -> np.ndarray:
    """Hoppe et al. (SIGGRAPH 1992): sides along a minimum spanning tree whose edges join nearly parallel normals.

    Each connected component of the neighbour graph is then turned so that it encloses positive volume.
    """
    with needs("scipy", "Orientation by 'mst'"):
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
    k = min(k, len(points))
    distance, index = nearest_neighbours(points)(points, k)
    start, end = np.repeat(np.arange(len(points)), k - 1), index[:, 1:].reshape(-1)
    # A small term for the distance breaks ties on flat parts; zero weights would drop out of a sparse matrix.
    weight = 1 + 1e-6 - np.abs(np.einsum("ij,ij->i", normals[start], normals[end]))
    weight = weight + 1e-3 * distance[:, 1:].reshape(-1) / max(float(distance[:, -1].mean()), 1e-300)
    graph = coo_array((weight, (start, end)), shape=(len(points), len(points))).tocsr()
    graph = graph.maximum(graph.T)
    tree = minimum_spanning_tree(graph)
    tree = tree + tree.T
    count, label = connected_components(tree, directed=False)
    oriented = normals.copy()
    seeds = np.full(count, -1)
    seeds[label[::-1]] = np.arange(len(points))[::-1]
    for seed in seeds:
        visit, parent = breadth_first_order(tree, seed, directed=False)
        for i in visit[1:]:
            if oriented[i] @ oriented[parent[i]] < 0:
                oriented[i] = -oriented[i]
    # Divergence theorem; each point stands for the disc up to its neighbours.
    area = distance[:, -1] ** 2
    weights = np.bincount(label, minlength=count)
    center = np.stack([np.bincount(label, points[:, i], count) for i in range(3)], 1) / weights[:, None]
    flux = np.einsum("ij,ij->i", points - center[label], oriented) * area
    side = np.where(np.bincount(label, flux, count) < 0, -1.0, 1.0)
    return oriented * side[label][:, None]


def orient_by_scans(points: np.ndarray, normals: np.ndarray, scan_ids: np.ndarray) -> np.ndarray:
    """Orient range scans: everything a scanner sees faces it.

    The direction of a scan is the one along which its unsigned normals spread most evenly to one side; its sign is
    chosen so that overlapping scans agree, and the whole encloses positive volume.
    """
    names, scan = np.unique(scan_ids, return_inverse=True)
    scan = scan.reshape(-1)
    oriented = normals.copy()
    for s in range(len(names)):
        mine = scan == s
        direction = _scan_direction(normals[mine])
        oriented[mine] *= np.where(normals[mine] @ direction < 0, -1.0, 1.0)[:, None]
    votes = np.zeros((len(names), len(names)))
    chosen = even_subset(points, ANCHORS)
    _, index = nearest_neighbours(points[chosen])(points[chosen], min(12, len(chosen)))
    near = chosen[index]
    agreement = np.einsum("ij,ikj->ik", oriented[chosen], oriented[near])
    np.add.at(votes, (scan[chosen][:, None].repeat(near.shape[1], 1), scan[near]), agreement)
    np.fill_diagonal(votes, 0)
    # Signs of the leading eigenvector: the spectral answer to pairwise agreements.
    _, vectors = np.linalg.eigh(votes + votes.T)
    sign = np.where(vectors[:, -1] < 0, -1.0, 1.0)
    oriented *= sign[scan][:, None]
    flux = np.einsum("ij,ij->", points[chosen] - points[chosen].mean(0), oriented[chosen])
    return oriented if flux >= 0 else -oriented


def _scan_direction(normals: np.ndarray) -> np.ndarray:
    """The direction with the fewest normals at a right angle to it: what a sensor sees, it does not see edge-on."""
    candidates = _sphere_directions(400)
    some = normals[:: max(1, len(normals) // 4000)]
    grazing = np.exp(-(((some @ candidates.T) / 0.25) ** 2)).mean(0)
    return candidates[int(np.argmin(grazing))]


def _sphere_directions(count: int) -> np.ndarray:
    """(count, 3) directions spread evenly over half a sphere (Fibonacci spiral)."""
    i = np.arange(count) + 0.5
    z = i / count
    angle = np.pi * (1 + np.sqrt(5)) * i
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], 1)
