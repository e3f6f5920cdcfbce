"""What a cloud is worth: how far its points scatter about their surface, and how densely they cover it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import PointCloud
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


@dataclass(frozen=True)
class CloudQuality:
    """Noise and density of a point cloud, in its own units; ``str`` says them in one line.

    Attributes:
        noise: standard deviation of the points from their surface, along its normal. 0 where it is below a
            twentieth of the spacing.
        spacing: square root of the area that the typical point stands for.
        spacings: (N,) the same at each point.
        size: diagonal of the bounding box.
        neighbours: how many nearest points it takes to see the surface through the noise.
        rows: distance between the rows of a scanner, where points lie so much denser along than across them that most
            of the nearest are on one row; else 0.
    """

    noise: float
    spacing: float
    spacings: Float[Tensor, " N"]
    size: float
    neighbours: int
    rows: float = 0.0

    @property
    def noise_share(self) -> float:
        """Noise over size."""
        return self.noise / self.size if self.size > 0 else 0.0

    @property
    def noise_in_spacings(self) -> float:
        """Noise over spacing."""
        return self.noise / self.spacing if self.spacing > 0 else 0.0

    def __str__(self) -> str:
        apart = f"points {self.spacing / max(self.size, 1e-300):.2g} of the size apart"
        if self.noise == 0:
            return f"no noise to speak of, {apart}"
        return f"noise about {100 * self.noise_share:.2g} % of the size, {self.noise_in_spacings:.2g} spacings, {apart}"


def estimate_noise(cloud: PointCloud, seed: int = 0) -> CloudQuality:
    """Estimate the noise and the spacing of a cloud, with or without normals.

    Quadrics are fitted to growing neighbourhoods of 1,000 points. The noise is a low quantile of their residuals, so
    that edges do not count, at the first size whose radius is 3.6 times what it finds: smaller balls cut the noise
    off, larger ones take the surface's bends for noise. What still grows from there to the next size is bends and is
    taken off. Within 20 % for Gaussian noise of 0.1 to 1 % of the diagonal on samples of 30,000 points. Stray points
    should be gone (:func:`~sdf_tools.cloud.outliers.drop_outliers`), though some do no harm.

    Raises:
        ShapeError: fewer than 4 points.
    """
    try:
        from scipy.stats import chi2
    except ImportError:
        raise MissingLibraryError("Noise needs scipy, which is not installed: pip install scipy") from None
    points = np.ascontiguousarray(cloud.points.detach().cpu().double().numpy())
    if len(points) < 4:
        raise ShapeError(f"A cloud of {len(points)} points has no noise to estimate; at least 4 points are needed.")
    low, extent = points.min(0), np.ptp(points, axis=0)
    size = float(np.linalg.norm(extent))
    points = (points - low) / max(size, 1e-300)
    search = nearest_neighbours(points)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(points))[:SAMPLES])
    scales = [k for k in SCALES if k <= len(points)]
    noise, spacing, rows, enough = 0.0, 0.0, 0.0, False
    neighbours = min(len(points), SCALES[0])
    for k in scales:
        distance, index = search(points[chosen], k)
        reach = distance[:, -1]
        usual = reach <= 3 * np.median(reach)  # strays among the chosen
        residual, radii, thin = _residuals(points, index[usual])
        # Points along a line (a scanner's row) fit anything.
        if (~thin).mean() < 0.5 and k < scales[-1]:
            rows = float(np.median(radii))
            continue
        residual, radius = residual[~thin] if not thin.all() else residual, float(np.median(radii))
        dof = max(k - 6, 1)
        found = float(np.quantile(residual, QUANTILE) / np.sqrt(chi2.ppf(QUANTILE, dof) / dof))
        ratio = radius / found if found > 0 else np.inf
        share, wider = (float(np.interp(ratio, SEEN[:, 0], SEEN[:, column])) for column in (1, 2))
        if enough:
            noise = np.sqrt(max(0.0, noise**2 - GROWTH * max(0.0, (found / share) ** 2 - noise**2)))
            break
        noise, spacing, neighbours = found / share, float(np.sqrt(np.pi / k) * radius) / wider, k
        enough = radius >= REACH * found
        if enough and noise < LEAST * spacing:
            break
    noise = 0.0 if noise < LEAST * spacing else noise
    spacings = point_spacings(points, min(neighbours, 32))
    spacings *= spacing / max(float(np.median(spacings)), 1e-300) if spacing > 0 else 1.0
    return CloudQuality(
        noise * size, spacing * size, torch.from_numpy(spacings * size).to(cloud.points), size, neighbours, rows * size
    )


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


def point_spacings(points: np.ndarray, k: int = 16) -> np.ndarray:
    """(N,) square root of the area of the disc to the k-th nearest, shared by those k; (N, 3) points on a surface."""
    k = min(k, len(points))
    search, reach = nearest_neighbours(points), np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        reach[block] = search(points[block], k)[0][:, -1]
    return reach * np.sqrt(np.pi / k)
