"""What a cloud is worth: how far its points scatter about their surface, and how densely they cover it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.cloud.thinning import even_subset
from sdf_tools.errors import ShapeError, needs
from sdf_tools.geometry import PointCloud, like, require_finite
from sdf_tools.spatial.neighbours import nearest_neighbours

SCALES = (12, 18, 25, 36, 50, 72, 100, 144, 200, 288, 400, 576)
SAMPLES = 1000
BLOCK = 1 << 16
QUANTILE = 0.3  # of the residuals: smooth places tell the noise, edges and folds do not
REACH = 3.6  # a neighbourhood tells the noise when its radius is that many standard deviations of it
# What a ball shows of Gaussian noise on a plane, and of its points: (radius over residual, share of the noise, spacing
# found over spacing). The ball leaves out points of large height. Measured on planes of 40,000 points.
SEEN = np.array(
    [
        (3.05, 0.68, 1.23),
        (3.22, 0.735, 1.185),
        (3.48, 0.79, 1.15),
        (3.75, 0.835, 1.11),
        (4.15, 0.881, 1.085),
        (4.65, 0.92, 1.07),
        (5.35, 0.945, 1.06),
        (6.2, 0.965, 1.05),
        (9.0, 0.99, 1.03),
        (12.0, 1.0, 1.0),
    ]
)
GROWTH = 1.1  # of the variance that grows from one size to the next: of bends it about doubles, of noise it stays
LEAST = 0.05  # spacings: less is not told from the bends of a clean surface
LOCAL_SAMPLES = 2000
REGIONS, REGION = 64, 60  # places whose own noise is estimated, from so many of the samples around each
SMOOTHED = 10  # places whose means are compared: differences by chance are not shared with neighbours
UNEQUAL = 2.5  # 90 % over 10 % quantile of the noise of places: one half of the points four times as noisy shows 2
MATTERS = 0.2  # spacings: where there is less noise nearly everywhere its differences do not matter
SHOWS = 1.5 * LEAST  # spacings: places with less are taken for clean, points' own spacings being uncertain
NEAREST_REGIONS = 4


@dataclass(frozen=True)
class CloudQuality:
    """Noise and density of a point cloud, in its own units; ``str`` says them in one line.

    Attributes:
        noise: standard deviation of the points from their surface, along its normal; the typical point's, where it
            differs from place to place. 0 where it is below a twentieth of the spacing.
        spacing: square root of the area that the typical point stands for.
        spacings: (N,) the same at each point.
        size: diagonal of the bounding box. This and all lengths here are in the cloud's units.
        noises: (N,) standard deviation of the noise at each point, all equal unless it clearly differs from place to
            place.
        neighbours: (N,) how many nearest points it takes to see the surface through the noise.
        rows: distance between the rows of a scanner, where points lie so much denser along than across them that most
            of the nearest are on one row; else 0.
    """

    noise: float
    spacing: float
    spacings: Float[Tensor, " N"]
    size: float
    noises: Float[Tensor, " N"]
    neighbours: Int[Tensor, " N"]
    rows: float = 0.0

    @property
    def noise_share(self) -> float:
        """Noise over size."""
        return self.noise / self.size if self.size > 0 else 0.0

    @property
    def noise_in_spacings(self) -> float:
        """Noise over spacing."""
        return self.noise / self.spacing if self.spacing > 0 else 0.0

    @property
    def varies(self) -> bool:
        """Whether the noise differs from place to place."""
        return bool((self.noises != self.noises[0]).any())

    def __str__(self) -> str:
        apart = f"points {self.spacing / max(self.size, 1e-300):.2g} of the size apart"
        if not bool((self.noises > 0).any()):
            return f"no noise to speak of, {apart}"
        if self.varies:
            low, high = 100 * np.quantile(self.noises.numpy(), (0.1, 0.9)) / self.size
            return f"noise from about {low:.2g} to {high:.2g} % of the size, by place, {apart}"
        return f"noise about {100 * self.noise_share:.2g} % of the size, {self.noise_in_spacings:.2g} spacings, {apart}"


def estimate_noise(cloud: PointCloud, seed: int = 0, *, by_place: bool = True) -> CloudQuality:
    """Estimate the noise and the spacing of a cloud, with or without normals.

    Quadrics are fitted to growing neighbourhoods of 1,000 points. The noise is a low quantile of their residuals, so
    that edges do not count, at the first size whose radius is 3.6 times what it finds: smaller balls cut the noise
    off, larger ones take the surface's bends for noise. What still grows from there to the next size is bends and is
    taken off. Within 20 % for Gaussian noise of 0.1 to 1 % of the diagonal on samples of 30,000 points. The same is
    done at 64 places of the surface, and where they differ by more than bends make them, each point has the noise of
    its place. Coordinates on a grid (:func:`grid_step`) have at least the noise of rounding. Stray points should be
    gone (:func:`~sdf_tools.cloud.outliers.drop_outliers`), though some do no harm.

    Args:
        cloud: its points are looked at.
        seed: of the choice of points.
        by_place: False leaves out the places, which takes up to a second where they are very noisy.

    Raises:
        ShapeError: fewer than 4 points, or coordinates that are not finite.
    """
    require_finite(cloud)
    points = np.ascontiguousarray(cloud.points.detach().cpu().double().numpy())
    if len(points) < 4:
        raise ShapeError(f"A cloud of {len(points)} points has no noise to estimate; at least 4 points are needed.")
    low, extent = points.min(0), np.ptp(points, axis=0)
    size = float(np.linalg.norm(extent))
    points = (points - low) / max(size, 1e-300)
    chosen = np.random.default_rng(seed).permutation(len(points))[:LOCAL_SAMPLES]
    table = _ScaleTable(points, chosen)
    whole = table.look(np.arange(min(SAMPLES, len(chosen))))
    spacings = point_spacings(points, min(whole.neighbours, 32))
    spacings *= whole.spacing / max(float(np.median(spacings)), 1e-300) if whole.spacing > 0 else 1.0
    # Rounding moves points too, but those of a face along the grid all by the same.
    rounded = grid_step(points) / 12**0.5
    rounded = rounded if rounded >= LEAST * whole.spacing else 0.0
    noise = max(whole.noise, rounded)
    noises, neighbours = np.full(len(points), noise), np.full(len(points), whole.neighbours)
    if by_place and whole.rows == 0 and len(chosen) >= 10 * REGION:
        found = _by_place(table, points)
        if found is not None:
            noises, neighbours = found
            noises[noises < SHOWS * spacings] = 0.0
            noises = np.maximum(noises, rounded)
            noise = float(np.median(noises))
    return CloudQuality(
        noise * size,
        whole.spacing * size,
        like(torch.from_numpy(spacings * size), cloud.points),
        size,
        like(torch.from_numpy(noises * size), cloud.points),
        torch.from_numpy(neighbours),
        whole.rows * size,
    )


@dataclass(frozen=True)
class _Found:
    """What a set of samples tells, in units of the size."""

    noise: float
    spacing: float
    neighbours: int
    rows: float


class _ScaleTable:
    """Residuals, radii, thinness and reach of the samples' neighbourhoods, found as they are asked for."""

    def __init__(self, points: np.ndarray, chosen: np.ndarray) -> None:
        self.points, self.samples = points, points[chosen]
        self.scales = [k for k in SCALES if k <= len(points)] or [len(points)]
        self._search = nearest_neighbours(points)
        self._found = np.full((len(self.scales), len(chosen), 4), np.nan)

    def _column(self, scale: int, samples: np.ndarray) -> np.ndarray:
        """(4, M) of one size of neighbourhood."""
        missing = samples[np.isnan(self._found[scale, samples, 0])]
        if len(missing):
            distance, index = self._search(np.ascontiguousarray(self.samples[missing]), self.scales[scale])
            self._found[scale, missing] = np.stack([*_residuals(self.points, index), distance[:, -1]], 1)
        return self._found[scale, samples].T

    def look(self, samples: np.ndarray) -> _Found:
        """Noise, spacing, and how many neighbours show them, of the ``samples`` (indices of rows)."""
        noise, spacing, rows, enough = 0.0, 0.0, 0.0, False
        neighbours = min(len(self.points), SCALES[0])
        for scale, k in enumerate(self.scales):
            residual, radii, thin, reach = self._column(scale, samples)
            usual = reach <= 3 * np.median(reach)  # strays among the chosen
            residual, radii, thin = residual[usual], radii[usual], thin[usual] > 0
            # Points along a line (a scanner's row) fit anything.
            if (~thin).mean() < 0.5 and k < self.scales[-1]:
                rows = float(np.median(radii))
                continue
            residual, radius = residual[~thin] if not thin.all() else residual, float(np.median(radii))
            found = float(np.quantile(residual, QUANTILE) / _expected(max(k - 6, 1)))
            ratio = radius / found if found > 0 else np.inf
            share, wider = (float(np.interp(ratio, SEEN[:, 0], SEEN[:, column])) for column in (1, 2))
            if enough:
                noise = np.sqrt(max(0.0, noise**2 - GROWTH * max(0.0, (found / share) ** 2 - noise**2)))
                break
            noise, spacing, neighbours = found / share, float(np.sqrt(np.pi / k) * radius) / wider, k
            enough = radius >= REACH * found
            if enough and noise < LEAST * spacing:
                break
        return _Found(0.0 if noise < LEAST * spacing else float(noise), spacing, neighbours, rows)


@functools.cache
def _expected(freedom: int) -> float:
    """The same quantile of the residuals of noise of deviation one, with so many degrees of freedom."""
    with needs("scipy", "Noise"):
        from scipy.stats import chi2
    return float(np.sqrt(chi2.ppf(QUANTILE, freedom) / freedom))


def _by_place(table: _ScaleTable, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(N,) noise and neighbours of each point's place; None where places do not differ by more than bends do."""
    centers = np.ascontiguousarray(table.samples[even_subset(table.samples, REGIONS)])
    around = nearest_neighbours(table.samples)(centers, REGION)[1]
    found = [table.look(samples) for samples in around]
    spacing = np.array([place.spacing for place in found])
    floor = LEAST * float(np.median(spacing))
    noise = np.log([max(place.noise, floor, 1e-12) for place in found])
    search = nearest_neighbours(centers)
    low, high = np.quantile(noise[search(centers, SMOOTHED)[1]].mean(1), (0.1, 0.9))
    if high - low < np.log(UNEQUAL) or (np.exp(noise) < MATTERS * spacing).mean() > 0.9:
        return None
    distance, index = search(points, NEAREST_REGIONS)
    weight = 1 / np.maximum(distance, 1e-9) ** 2
    weight /= weight.sum(1, keepdims=True)
    counts = np.array([place.neighbours for place in found])
    return np.exp((weight * noise[index]).sum(1)), np.median(counts[index[:, :3]], axis=1).astype(np.int64)


def _residuals(points: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of (M, k) neighbourhoods: the standard deviation from the best quadric, the radius, whether they are thin."""
    near = points[index]
    near = near - near.mean(1, keepdims=True)
    variance, axes = np.linalg.eigh(near.transpose(0, 2, 1) @ near)
    local = near @ axes
    height, x, y = local[..., 0], local[..., 1], local[..., 2]
    # The ball's radius would grow with the noise itself.
    radius = np.sqrt((x * x + y * y).max(1))
    thin = variance[:, 1] < 0.04 * variance[:, 2]
    scale = np.maximum(radius, 1e-300)[:, None]
    x, y = x / scale, y / scale
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    normal = basis.transpose(0, 2, 1) @ basis + 1e-9 * np.eye(6)
    right = (basis * height[..., None]).sum(1)
    rest = (height**2).sum(1) - (np.linalg.solve(normal, right[..., None])[..., 0] * right).sum(1)
    return np.sqrt(np.maximum(rest, 0) / max(index.shape[1] - 6, 1)), radius, thin


def grid_step(points: np.ndarray) -> float:
    """The step of the grid that (N, 3) coordinates are rounded to, as whole millimetres; 0 if they are not.

    In their units, the root of the mean square of the axes' steps; an axis has one if its values are few and whole
    steps apart.
    """
    steps = []
    for axis in range(3):
        apart = np.diff(np.unique(points[:, axis]))
        apart = apart[apart > 1e-9 * max(float(np.ptp(points[:, axis])), 1e-300)]
        if not 0 < len(apart) < len(points) / 8:
            return 0.0
        step = float(apart.min())
        if (np.abs(apart / step - np.round(apart / step)) > 0.05).any():
            return 0.0
        steps.append(step)
    return float(np.sqrt(np.mean(np.square(steps))))


def point_spacings(points: np.ndarray, k: int = 16) -> np.ndarray:
    """(N,) square root of the area of the disc to the k-th nearest, shared by those k; (N, 3) points on a surface."""
    k = min(k, len(points))
    search, reach = nearest_neighbours(points), np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        reach[block] = search(points[block], k)[0][:, -1]
    return reach * np.sqrt(np.pi / k)
