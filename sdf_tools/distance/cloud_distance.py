"""Signed distance to oriented point clouds, which can only be an estimate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdf_tools.cloud.thinning import even_subset
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import PointCloud, for_numpy, require_finite
from sdf_tools.spatial.closest_triangles import SurfacePoints
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.spatial.winding_tree import WindingTree
from sdf_tools.threads import in_threads
from sdf_tools.topology import first_occurrences
from sdf_tools.vectors import unit_vectors

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

METHODS = ("imls", "knn_mean")
NEAREST, MOST = 8, 32  # neighbours of a clean and of a scattered cloud
WIDTH = 0.85  # of the Gaussian weights, spacings
NEAR, FAR = 2.0, 4.0  # spacings from the cloud between which the local surface gives way to the distance to its foot
OPPOSED = 0.5  # of those where the winding number says the other side
DOUBT, SURE = 0.1, 0.3  # how far from one half it says so
LEAST_TRUST = 0.05  # of a point, so that all surface is seen
MOST_UNEVEN = 50.0  # times the typical area, so that no lone point takes it all
OPEN = 0.3  # holes are where the winding number is that close to one half away from the points
ENCLOSED = 0.7  # winding number just behind the surface: one of closed ones, one half of a sheet
FRAME, AROUND = 4000, 32  # points, evenly spread, of which so many around a hole say how it goes on
SCATTER = 0.1  # spacings: what bends and edges of clean clouds reach


class CloudDistance:
    """Signed distance to a point cloud with normals, given in box units. Users want ``SignedDistance``.

    Args:
        cloud: points with outward normals, box units.
        method: ``knn_mean`` is the estimate of BACON's and FINER's loaders, and so of the paper: the offset from the
            nearest point, dotted with the mean normal of the 3 nearest; unbiased near flat surface, wrong by tens of
            per cent far away. ``imls``, implicit moving least squares: near the cloud the distance to a sphere fitted
            to the nearest points and their normals with Gaussian weights (algebraic point set surfaces, Guennebaud and
            Gross 2007): 8 points, or up to 32 where neighbours disagree about the height of the surface by more than a
            tenth of the spacing. Points count by how far they agree with theirs (``trust``). Beyond a few point
            spacings, earlier where the winding number of the points (Barill et al. 2018) says the other side, it is
            the distance to the foot point on that surface below the nearest point, with the winding number's side;
            in holes, where that is near one half, to a sphere fitted to the points around.
        unsigned: no sign, so the sides of the normals do not matter, and a cloud without any gets estimated ones.

    Attributes:
        trust: (N,) in (0, 1], how far each point agrees with the surface of its neighbours: 1 within what is usual
            around it, falling with the square of the disagreement, times the cloud's ``confidence``. Weighs the
            distances; 1 for ``knn_mean``.
        weights: (N,) trust times the area that each point stands for, in units of the typical one; 1 for ``knn_mean``.

    Raises:
        ShapeError: no normals (or only zeros), and not ``unsigned``; coordinates, normals or confidences that are not
            finite, or not one for each point; confidences that are not above 0.
    """

    def __init__(self, cloud: PointCloud, method: str, unsigned: bool = False) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
        cloud = for_numpy(cloud)
        require_finite(cloud, normals=True)
        normals = cloud.normals
        if cloud.confidence is not None and not bool((cloud.confidence.isfinite() & (cloud.confidence > 0)).all()):
            raise ShapeError(f"'{cloud.name}' has confidences that are not above 0 and finite; leave those points out.")
        if normals is not None and not bool(normals.any()):
            normals = None
        if normals is None and unsigned:
            from sdf_tools.cloud.normals import estimate_normals

            normals, _ = estimate_normals(cloud.points)
        if normals is None:
            raise ShapeError(
                f"'{cloud.name}' has no normals (or only zeros), so its inside is unknown; estimate and orient them "
                "first (`sdf-tools normals`, or sdf_tools.estimate_normals and sdf_tools.orient_normals)."
            )
        given = cloud.points.double().numpy()
        # Points that are there several times would be each other's neighbours, and stand for no area.
        self._kept, place = first_occurrences(given + 0.0)
        times = np.bincount(place)
        self.points = np.ascontiguousarray(given[self._kept])
        self.normals = np.zeros_like(self.points)
        np.add.at(self.normals, place, unit_vectors(normals.double().numpy()))
        self.normals /= times[:, None]
        self.method, self.unsigned = method, unsigned
        self.sign = "unsigned" if unsigned else method
        self._search = nearest_neighbours(self.points)
        self._k = min(NEAREST, len(self.points))
        self._tree: WindingTree | None = None
        self._frame: tuple[np.ndarray, np.ndarray, Search, bool] | None = None
        self._trust = np.ones(len(self.points))
        self.weights = np.ones(len(given))
        if method == "imls":
            distance, index = self._search(self.points, self._k)
            # Half the distance to the 7th neighbour is about one spacing on a surface.
            spacing = np.maximum(distance[:, -1] / 2, 1e-9)
            # Beside its neighbours: most points of the cloud may lie on a small dense part of it.
            self._spacing = np.minimum(spacing, MOST_UNEVEN**0.5 * np.median(spacing[index], axis=1))
            # Areas of the discs that the points stand for.
            area = np.pi * np.maximum(distance[:, -1], 1e-9) ** 2 / self._k
            most = MOST_UNEVEN * np.median(area[index], axis=1)
            # A stray that was left would stand for a surface as wide as the emptiness around it.
            self._lone = area > most
            self._area = np.minimum(area, most)
            self._weigh(distance, index)
            if cloud.confidence is not None:
                self._trust = self._trust * cloud.confidence.double().numpy()[self._kept]
            share = np.maximum(self._area / np.median(self._area), 1 / MOST_UNEVEN)
            self.weights = (np.maximum(self._trust, LEAST_TRUST) * share / times)[place]
        self.trust = self._trust[place]

    def _weigh(self, distance: np.ndarray, index: np.ndarray) -> None:
        """Find how far points agree with their neighbours; trust them accordingly, and widen the mean where few do."""
        if index.shape[1] < 4:
            return
        height, _ = self._local(self.points, distance[:, 1:], index[:, 1:])
        disagreement = np.abs(height) / self._spacing
        usual = np.median(disagreement[index], axis=1)
        self._trust = 1 / (1 + (disagreement / np.maximum(4 * usual, 4 * SCATTER)) ** 4)
        # A mean over n neighbours leaves the n-th part of the variance.
        wider = float(np.clip(np.median(disagreement) / SCATTER, 1, 2))
        self._k = min(round(NEAREST * wider**2), MOST, len(self.points))
        self._spacing = self._spacing * wider

    def query(self, points: np.ndarray) -> SurfacePoints:
        """Closest points of the cloud's surface to (N, 3) points."""
        k = 3 if self.method == "knn_mean" else self._k
        distance, index = self._search(points, min(k, len(self.points)))
        nearest = index[:, 0]
        if self.method == "knn_mean":
            normal = _sided(self.normals, index, self.unsigned).mean(1)
            signed = np.einsum("ij,ij->i", points - self.points[nearest], normal)
            return SurfacePoints(
                self.points[nearest],
                unit_vectors(normal),
                np.abs(signed) if self.unsigned else signed,
                self._kept[nearest],
            )
        signed, normal = self._local(points, distance, index)
        reach = distance[:, 0] / self._spacing[nearest]
        beside = reach > OPPOSED * NEAR
        side = np.zeros(len(points))
        if not self.unsigned and beside.any():
            side[beside] = self._winding(points[beside]) - 0.5
            # Beyond tips and thin parts the local surface goes on where there is none, with the wrong side.
            sure = np.clip((np.abs(side) - DOUBT) / (SURE - DOUBT), 0, 1)
            reach = reach / (1 - (1 - OPPOSED) * np.where(side * signed > 0, sure, 0))
        share = np.clip((FAR - reach) / (FAR - NEAR), 0, 1)
        far = share < 1
        closest = points - signed[:, None] * normal
        if far.any():
            foot, normal[far] = self._foot(points[far], nearest[far])
            away = np.linalg.norm(points[far] - foot, axis=1)
            inside = signed[far] < 0 if self.unsigned else side[far] > 0
            away = np.where(inside, -away, away)
            if not self.unsigned:
                away = self._across_holes(points[far], distance[far, 0], side[far], away)
            signed[far] = share[far] * signed[far] + (1 - share[far]) * away
            closest[far] = foot
        return SurfacePoints(closest, normal, np.abs(signed) if self.unsigned else signed, self._kept[nearest])

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) signed distances of (N, 3) points."""
        return self.query(points).distance

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of (N, 3) points are inside."""
        return self.query(points).distance < 0

    def trust_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) trust in the point of the cloud that is nearest to each of (N, 3) points."""
        return self._trust[self._search(points, 1)[1][:, 0]]

    def _local(self, points: np.ndarray, distance: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the sphere of the nearest points, and its normal."""
        width = WIDTH * self._spacing[index[:, 0]]
        return spheres(points, distance, index, self.points, self.normals, self._trust, width, self.unsigned)

    def _foot(self, points: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The surface point below each far point, and its normal.

        The point is first dropped onto the disc of its nearest point (one spacing wide), then onto the local surface:
        the distance to the nearest point alone would be too long by the square of the spacing.
        """
        offset, normal = points - self.points[nearest], self.normals[nearest]
        along = offset - np.einsum("ij,ij->i", offset, normal)[:, None] * normal
        length = np.linalg.norm(along, axis=1)
        spacing = self._spacing[nearest]
        along *= np.divide(spacing, length, out=np.ones_like(length), where=length > spacing)[:, None]
        start = self.points[nearest] + along
        height, normal = self._local(start, *self._search(start, self._k))
        return start - height[:, None] * normal, normal

    def _across_holes(self, points: np.ndarray, distance: np.ndarray, side: np.ndarray, away: np.ndarray) -> np.ndarray:
        """The signed distances ``away`` of (M, 3) far points, in holes those to the spheres that span them.

        One half of the winding number is a flat cap over a hole's rim, and the distance jumps there.
        """
        share = np.clip((OPEN - np.abs(side)) / (OPEN / 2), 0, 1)
        hole = share > 0
        if not hole.any():
            return away
        if self._frame is None:
            self._frame = self._look_around()
        rim, normals, search, closed = self._frame
        if not closed:
            return away
        near, index = search(points[hole], min(AROUND, len(rim)))
        width = np.maximum(near[:, 0], 1e-9)
        sphere, _ = spheres(points[hole], near, index, rim, normals, np.ones(len(rim)), width)
        reach, result = distance[hole], away.copy()
        result[hole] += share[hole] * (np.clip(sphere, -reach, reach) - away[hole])
        return result

    def _look_around(self) -> tuple[np.ndarray, np.ndarray, Search, bool]:
        """Evenly spread points, their normals, a search over them, and whether they enclose a body: sheets do not."""
        others = np.flatnonzero(~self._lone)
        chosen = others[even_subset(self.points[others], FRAME)]
        rim = np.ascontiguousarray(self.points[chosen])
        normals = np.ascontiguousarray(self.normals[chosen])
        some = slice(None, None, max(1, len(rim) // 500))
        behind = rim[some] - NEAR * self._spacing[chosen][some, None] * normals[some]
        closed = float(np.median(self._winding(behind))) > ENCLOSED
        return rim, normals, nearest_neighbours(rim), closed

    def _winding(self, points: np.ndarray) -> np.ndarray:
        # Our own tree is built once; libigl's would be at every call, which takes minutes for a large cloud.
        if self._tree is None:
            self._tree = WindingTree(self.points)
        return self._tree.winding(self.normals * self._area[:, None], 0.0, np.ascontiguousarray(points))


def spheres(
    points: np.ndarray,
    distance: np.ndarray,
    index: np.ndarray,
    cloud: np.ndarray,
    normals: np.ndarray,
    trust: np.ndarray,
    width: np.ndarray,
    unsigned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`spheres_plainly`, compiled."""
    from sdf_tools.distance._imls_kernels import imls

    height, normal = np.empty(len(points)), np.empty((len(points), 3))

    def part(rows: slice) -> None:
        imls(
            points[rows], distance[rows], index[rows], cloud, normals, trust, width[rows], unsigned, height[rows],
            normal[rows],
        )  # fmt: skip

    in_threads(part, len(points))
    return height, normal


def spheres_plainly(
    points: np.ndarray,
    distance: np.ndarray,
    index: np.ndarray,
    cloud: np.ndarray,
    normals: np.ndarray,
    trust: np.ndarray,
    width: np.ndarray,
    unsigned: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to a sphere fitted around each point, and its normal, in numpy: the definition of the compiled loop.

    The sphere ``u(x) = c + g . x + b / 2 |x|^2`` is fitted to the nearest points and their normals in closed form
    (Guennebaud, Germann and Gross, Eurographics 2008, eq. 5).

    Args:
        points: (M, 3) where.
        distance: (M, k) to the nearest points of the cloud, nearest first.
        index: (M, k) which those are.
        cloud: (N, 3).
        normals: (N, 3).
        trust: (N,) factor of each point's weight.
        width: (M,) of the Gaussian weights.
        unsigned: the normals' sides do not matter.

    Returns:
        (M,) distances, positive on the side of the normals, and (M, 3) unit normals.
    """
    excess = distance**2 - distance[:, :1] ** 2  # relative to the nearest, so that far weights do not vanish
    weight = np.exp(-excess / (width[:, None] ** 2)) * trust[index]
    weight /= weight.sum(1, keepdims=True)
    sided, away = _sided(normals, index, unsigned), cloud[index] - points[:, None]
    middle, normal = np.einsum("nk,nkj->nj", weight, away), np.einsum("nk,nkj->nj", weight, sided)
    squares = np.einsum("nk,nkj,nkj->n", weight, away, away)
    spread = np.maximum(squares - np.einsum("nj,nj->n", middle, middle), 1e-8 * width**2)
    along = np.einsum("nk,nkj,nkj->n", weight, away, sided) - np.einsum("nj,nj->n", middle, normal)
    bend = along / spread
    gradient = normal - bend[:, None] * middle
    value = -np.einsum("nj,nj->n", gradient, middle) - bend / 2 * squares
    # The gradient's length grows linearly along a radius: this is the distance to the sphere itself.
    length = np.linalg.norm(gradient, axis=1)
    surface = np.sqrt(np.maximum(length**2 - 2 * bend * value, 0))
    return 2 * value / np.maximum(length + surface, 1e-300), unit_vectors(gradient)


def _sided(normals: np.ndarray, index: np.ndarray, unsigned: bool) -> np.ndarray:
    """(M, k, 3) normals of the points ``index``; without a sign, on the side of the first one's."""
    sided: np.ndarray = normals[index]
    if unsigned:
        sided = sided * np.where(np.einsum("nkj,nj->nk", sided, sided[:, 0]) < 0, -1.0, 1.0)[..., None]
    return sided
