"""Points that belong to no surface, alone or in clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sdf_tools.cloud.quality import estimate_noise
from sdf_tools.geometry import PointCloud, for_numpy, require_finite, select_points
from sdf_tools.spatial.neighbours import morton_order, nearest_neighbours

OFF_SURFACE = 1.6  # times the reach of its denser neighbours, for a point that stands off their plane
LONELY = 2.5  # the same, for a point that hardly any other has among its neighbours
SPARSE = 2.5  # times the cloud's median reach, for a point whose neighbours fill space
OFTEN = 0.5  # of the sparse points must be in no surface: where fewer are, they are thin parts of an uneven cloud
SPATIAL = 2.9  # dimension that their neighbourhoods have at least: 3 of strays in space, about 2 of a folded surface
FILLS_SPACE = 0.1  # smallest over largest variance of a neighbourhood
TAIL = 4.0  # standard deviations of the noise that a point may stand off; without its tails noise has another mean
LINKED = 2.5  # times the reach of the closer-set end: points nearer than that belong together
SMALL = 0.05  # share of the points that a stray cluster has at most
LARGE = 0.25  # the same where its neighbourhoods are those of points in space
BALL = 2.6  # their dimension, less than 3 because a cluster thins out
ROUNDS = 30


@dataclass(frozen=True)
class Strays:
    """What :func:`find_outliers` found.

    Attributes:
        keep: (N,) the points that belong to a surface.
        single: how many single points do not.
        clustered: how many points of stray clusters do not.
        far: a sentence about a distant cluster that looks like a surface and is kept, or empty.
    """

    keep: Bool[Tensor, " N"]
    single: int
    clustered: int
    far: str

    @property
    def count(self) -> int:
        """Points not kept."""
        return self.single + self.clustered

    def __str__(self) -> str:
        alone = "1 point that lies" if self.single == 1 else f"{self.single:,} points that lie"
        parts = [f"{alone} far from all others" if self.single else ""]
        parts.append(f"{self.clustered:,} points in clusters that are no surface" if self.clustered else "")
        said = " and ".join(part for part in parts if part)
        return "; ".join(part for part in (f"left out {said}" if said else "", self.far) if part)


def find_outliers(cloud: PointCloud, neighbours: int = 16, ratio: float = 8.0) -> Strays:
    """Find points of no surface, with or without normals, until no more are found.

    A point's reach is the mean distance to its ``neighbours`` nearest. A point goes if

    - its reach is more than ``ratio`` times the median of its neighbours' (the simplified local outlier factor, Breunig
      et al., SIGMOD 2000),
    - or more than 1.6 times that of the denser ones, and it stands off the plane through them by more
      than the noise explains,
    - or more than 2.5 times that, and next to no other point has it among its own neighbours, which sparse points of an
      uneven surface are to each other,
    - or more than 2.5 times the median of the cloud, and its neighbours fill space instead of lying on a surface or a
      rod, as half of such points must do, and be as many within a radius as in space: sparse parts of a surface stay,
      folded ones too, and strays among strays go.

    Of what is left, pieces with less than a twentieth of the points, cut off from the rest, go if they fill space or
    have fewer than ``neighbours`` points; up to a quarter if they are as dense within a radius as points in space.

    Raises:
        ShapeError: coordinates that are not finite.
    """
    require_finite(cloud)
    cloud = for_numpy(cloud)
    points = np.ascontiguousarray(cloud.points.double().numpy())
    kept = np.arange(len(points))
    noise = estimate_noise(cloud, by_place=False).noise if len(points) >= 16 else 0.0
    for _ in range(ROUNDS):
        bad = _single(points[kept], neighbours, ratio, TAIL * noise)
        if not bad.any():
            break
        kept = kept[~bad]
    single = len(points) - len(kept)
    clustered, far = _clusters(points[kept], neighbours)
    kept = kept[~clustered]
    keep = np.zeros(len(points), bool)
    keep[kept] = True
    return Strays(torch.from_numpy(keep), single, int(clustered.sum()), far)


def drop_outliers(cloud: PointCloud, neighbours: int = 16, ratio: float = 8.0) -> tuple[PointCloud, int]:
    """Remove what :func:`find_outliers` finds.

    Returns:
        The cloud without them (the same object if there are none), and how many there were.

    Raises:
        ShapeError: coordinates that are not finite.
    """
    found = find_outliers(cloud, neighbours, ratio)
    return (cloud, 0) if found.count == 0 else (select_points(cloud, found.keep), found.count)


def _neighbourhoods(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = morton_order(points)
    distance, near = np.empty((len(points), count)), np.empty((len(points), count), np.int64)
    distance[order], near[order] = nearest_neighbours(points)(points[order], count)
    return distance, near


def _single(points: np.ndarray, neighbours: int, ratio: float, tail: float) -> np.ndarray:
    """(N,) which points stand alone, or among others that do."""
    count = min(neighbours + 1, len(points))
    if count < 4:
        return np.zeros(len(points), bool)
    distance, near = _neighbourhoods(points, count)
    reach = distance[:, 1:].mean(1)
    local = np.maximum(np.median(reach[near[:, 1:]], axis=1), 1e-300)
    bad = reach > ratio * local
    dense = np.maximum(np.quantile(reach[near[:, 1:]], 0.25, axis=1), 1e-300)
    sparse = reach > SPARSE * np.median(reach)
    suspect = np.flatnonzero(~bad & ((reach > OFF_SURFACE * dense) | sparse))
    if len(suspect):
        away = points[near[suspect, 1:]]
        middle = away.mean(1)
        away = away - middle[:, None]
        variance, axes = np.linalg.eigh(away.transpose(0, 2, 1) @ away)
        height = np.abs(np.einsum("ij,ij->i", points[suspect] - middle, axes[..., 0]))
        off = height > np.maximum(0.6 * reach[suspect], tail)
        lost = sparse[suspect] & (off | (variance[:, 0] > FILLS_SPACE * variance[:, 2]))
        if lost.sum() < OFTEN * sparse.sum() or _dimension(distance[suspect[lost], 1:]) < SPATIAL:
            lost[:] = False
        bad[suspect[lost | (off & (reach[suspect] > OFF_SURFACE * dense[suspect]))]] = True
    if not bad.any():  # last, because many together are better known by the space that they fill
        known = np.bincount(near[:, 1:].reshape(-1), minlength=len(points))
        bad = (reach > LONELY * dense) & (known <= neighbours // 4)
    return bad


def _dimension(distance: np.ndarray) -> float:
    """Of what (M, k) distances to the nearest, rising, were sampled from (Levina and Bickel 2004, eqs. 8 and 9)."""
    if not len(distance):
        return 0.0
    inverse = np.log(distance[:, -1:] / np.maximum(distance[:, :-1], 1e-300)).mean()
    return float(1 / max(inverse, 1e-300))


def _clusters(points: np.ndarray, neighbours: int) -> tuple[np.ndarray, str]:
    """(N,) which points are in stray clusters, and a sentence about a distant piece that is none."""
    count = min(neighbours + 1, len(points))
    nothing = np.zeros(len(points), bool)
    if count < 4:
        return nothing, ""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distance, near = _neighbourhoods(points, count)
    reach = distance[:, 1:].mean(1)
    start, end = np.repeat(np.arange(len(points)), count - 1), near[:, 1:].reshape(-1)
    linked = distance[:, 1:].reshape(-1) <= LINKED * np.minimum(reach[start], reach[end])
    graph = coo_array((np.ones(linked.sum(), np.int8), (start[linked], end[linked])), shape=(len(points),) * 2)
    pieces, label = connected_components(graph, directed=False)
    if pieces == 1:
        return nothing, ""
    size = np.bincount(label)
    main = int(size.argmax())
    away = points[near] - points[near].mean(1, keepdims=True)
    variance = np.linalg.eigvalsh(away.transpose(0, 2, 1) @ away)
    solid = variance[:, 0] > FILLS_SPACE * variance[:, 2]
    bad = (size <= SMALL * len(points)) & (np.bincount(label, solid) > 0.5 * size)
    bad |= size < min(neighbours, SMALL * len(points))
    for piece in np.flatnonzero((size > SMALL * len(points)) & (size <= LARGE * len(points))):
        bad[piece] = _dimension(distance[label == piece, 1:]) > BALL and solid[label == piece].mean() > 0.5
    bad[main] = False
    body = points[label == main]
    low, high = body.min(0), body.max(0)
    outside = np.maximum(np.maximum(low - points, points - high), 0).max(1)
    # Few points of the body itself, cut off by a gap, lie close to it: they stay.
    apart = np.full(pieces, np.inf)
    small = np.flatnonzero(bad[label])
    if len(small):
        gap = nearest_neighbours(body)(points[small], 1)[0][:, 0]
        np.minimum.at(apart, label[small], gap)
        bad &= apart > 3 * float(np.median(reach[label == main]))
    extent = float((high - low).max())
    distant = np.bincount(label, outside, pieces) / size
    distant[bad | (size > 0.2 * len(points))] = 0
    piece = int(distant.argmax())
    if distant[piece] <= 0.5 * extent:
        return bad[label], ""
    whole = points[~bad[label]]
    cost = float((whole.max(0) - whole.min(0)).max()) / max(extent, 1e-300)
    return bad[label], (
        f"a piece of {size[piece]:,} points lies {distant[piece] / max(extent, 1e-300):.2g} sizes away from the rest, "
        f"which it makes {cost:.2g} times smaller in the box; remove it if it does not belong"
    )
