"""From a cloud as it comes to one that distances can be measured to: merged, without strays, cleaned, with sides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.cloud.given_normals import CLOSED, mend_normals, surrounds, without_odd_normals
from sdf_tools.cloud.normals import estimate_normals, orient_normals
from sdf_tools.cloud.orientation import ANCHORS
from sdf_tools.cloud.outliers import drop_outliers, find_outliers
from sdf_tools.cloud.projection import project
from sdf_tools.cloud.quality import LEAST, CloudQuality, estimate_noise, point_spacings
from sdf_tools.cloud.thinning import MOST_POINTS, one_a_cell, thin
from sdf_tools.geometry import PointCloud, for_numpy, like, require_finite, select_points

FEWEST_ANCHORS = 6_000
SAME = 0.05  # spacings: points that are closer are one, where there are many such
MANY_SAME = 0.3  # share of the points; among evenly drawn ones it is a hundredth
ROW_PARTS = 2.0  # cells a row's distance to the next
OPEN = "its points enclose nothing: taken for an open sheet, whose other side is made up"
UNSURE = 1e-3  # confidence of a point at least
FURTHEST = 4.0  # standard deviations of the noise that a point is moved


@dataclass(frozen=True)
class PreparedCloud:
    """A cloud ready for distances, and what was done to it.

    Attributes:
        cloud: merged, without strays, cleaned, with outward normals (where asked for); its own units.
        quality: noise and spacing before cleaning; None for fewer than 4 points.
        said: sentences for the user, each one thing that was found or done.
    """

    cloud: PointCloud
    quality: CloudQuality | None
    said: tuple[str, ...]


def prepare_cloud(
    cloud: PointCloud,
    normals: bool = True,
    *,
    keep_outliers: bool = False,
    denoise: bool = True,
    max_points: int = MOST_POINTS,
    orientation: str = "check",
) -> PreparedCloud:
    """Make a raw cloud ready: equal points merged, strays left out, noise taken off, normals estimated and oriented.

    Given normals are checked, and turned or estimated anew where they are wrong
    (:func:`~sdf_tools.cloud.given_normals.mend_normals`).

    Args:
        cloud: points, with or without normals.
        normals: whether normals are needed; a cloud without any then gets estimated, outward ones.
        keep_outliers: leave strays in.
        denoise: move noisy points onto the surface they tell (:func:`~sdf_tools.cloud.projection.project`), take its
            normals, and weigh each point by the inverse variance that remains (``confidence``, times a given one).
            Clean clouds, noise below a twentieth of the spacing, stay as they are.
        max_points: larger clouds are thinned to this many, evenly (:func:`~sdf_tools.cloud.thinning.thin`).
        orientation: ``trust`` takes given normals as they are.

    Raises:
        ValueError: ``max_points`` is less than 16.
        ShapeError: coordinates that are not finite, or not one normal, scan id or confidence for each point.
    """
    require_finite(cloud)
    given = for_numpy(cloud)
    cloud = without_odd_normals(given)
    said = [] if cloud is given else ["normals that are NaN or infinite count as zero"]
    thinned = thin(cloud, max_points)
    if thinned is not cloud:
        said.append(f"thinned evenly from {len(cloud.points):,} points to {len(thinned.points):,} (max_points)")
        cloud = thinned
    merged = merge_equal(cloud)
    if len(merged.points) < len(cloud.points):
        said.append(f"merged {len(cloud.points) - len(merged.points):,} repeated points")
    cloud = merged
    if not keep_outliers:
        found = find_outliers(cloud)
        if str(found):
            said.append(str(found))
        cloud = select_points(cloud, found.keep) if found.count else cloud
    if len(cloud.points) < 16:
        return PreparedCloud(cloud, None, tuple(said))
    merged = _merge_close(cloud)
    if len(merged.points) < len(cloud.points):
        said.append(f"merged {len(cloud.points) - len(merged.points):,} points next to equal to others")
        cloud = merged
    quality = estimate_noise(cloud)
    if quality.rows > 0:
        # Along its rows a scanner tells far more than across them: planes through the nearest would be any.
        thinned = select_points(
            cloud, torch.from_numpy(one_a_cell(cloud.points.double().numpy(), quality.rows / ROW_PARTS))
        )
        if len(thinned.points) >= 16:
            said.append(f"points lie in rows: thinned along them from {len(cloud.points):,} to {len(thinned.points):,}")
            cloud = thinned
            quality = estimate_noise(cloud)
    if normals and cloud.normals is not None:
        cloud, notes = mend_normals(cloud, orientation, int(quality.neighbours.median()))
        said += notes
    noisy = denoise and bool((quality.noises > 0).any())
    if noisy:
        said.append(str(quality))
    if noisy and (normals or cloud.normals is not None):
        cloud, opened = _clean(cloud, quality)
        said += [OPEN] if opened else []
    elif normals and cloud.normals is None:
        k = max(12, min(int(quality.neighbours.median()), 40)) if cloud.scan_ids is None else 40
        estimated, _ = estimate_normals(cloud.points, k)
        turned, opened = _turned(cloud.points, estimated)
        said += [OPEN] if opened else []
        cloud = replace(cloud, normals=turned)
    return PreparedCloud(cloud, quality, tuple(said))


def merge_equal(cloud: PointCloud) -> PointCloud:
    """The cloud with each place once; equal points share the mean of their normals. The order stays."""
    points = cloud.points.double().numpy()
    _, first, which = np.unique(points, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(points):
        return cloud
    order = np.argsort(first)
    kept = select_points(cloud, torch.from_numpy(first[order]))
    if cloud.normals is None:
        return kept
    sums = torch.zeros(len(first), 3, dtype=cloud.normals.dtype)
    sums.index_add_(0, torch.from_numpy(which.reshape(-1)), cloud.normals)
    return replace(kept, normals=torch.nn.functional.normalize(sums[order], dim=1))


def _merge_close(cloud: PointCloud) -> PointCloud:
    """The cloud with one of the points that are next to equal, as where scans were rounded or stored twice."""
    points = cloud.points.double().numpy()
    cell = max(SAME * float(np.median(point_spacings(points, 32))), float(np.ptp(points, axis=0).max()) * 2.0**-20)
    kept = one_a_cell(points, cell) if cell > 0 else np.arange(len(points))
    if not 16 <= len(kept) < (1 - MANY_SAME) * len(points):
        return cloud
    return select_points(cloud, torch.from_numpy(kept))


def _turned(
    points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], anchors: int | None = None
) -> tuple[Float[Tensor, "N 3"], bool]:
    """Outward normals, and whether there is no outward: of open sheets sides only agree with their neighbours'."""
    turned = orient_normals(points, normals, anchors=anchors)
    if surrounds(points, turned) >= CLOSED / 2:
        return turned, False
    return orient_normals(points, normals, "mst"), True


def _confidence(left: np.ndarray, spacing: float) -> Float[Tensor, " N"]:
    """(N,) inverse variances of points that keep ``left`` (N,) of their noise; the clearest tenth has 1."""
    left = np.maximum(left, LEAST * spacing)
    return torch.from_numpy(np.clip((np.quantile(left, 0.1) / left) ** 2, UNSURE, 1))


def _clean(cloud: PointCloud, quality: CloudQuality) -> tuple[PointCloud, bool]:
    """Points and normals projected twice; sides are found between, or taken from the given normals.

    Points at places without noise stay. Also whether the points are an open sheet.
    """
    points = np.ascontiguousarray(cloud.points.double().numpy())
    opened = False
    given = None if cloud.normals is None else np.ascontiguousarray(cloud.normals.double().numpy())
    noises, neighbours = quality.noises.double().numpy(), quality.neighbours.numpy()
    estimated, _ = estimate_normals(cloud.points.double(), quality.neighbours.clamp_min(16))
    rough = np.ascontiguousarray(estimated.numpy())
    moved, turned, _ = project(points, rough, noises, neighbours, most=100)
    if given is None:
        # Anchors closer together than the noise would tell no more.
        anchors = int(np.clip(len(points) / max(1.0, quality.noise_in_spacings) ** 2, FEWEST_ANCHORS, ANCHORS))
        outward, opened = _turned(torch.from_numpy(moved), torch.from_numpy(turned), anchors)
        sided = outward.numpy()
    else:
        sided = np.where((turned * given).sum(1, keepdims=True) < 0, -turned, turned)
    sided = np.ascontiguousarray(sided)
    moved, turned, left = project(points, sided, noises, neighbours, starts=moved, oriented=True)
    moved = np.where(noises[:, None] > 0, moved, points)
    confidence = like(_confidence(left, quality.spacing), cloud.points)
    cleaned = replace(
        cloud,
        points=like(torch.from_numpy(moved), cloud.points),
        normals=like(torch.from_numpy(turned), cloud.points),
        confidence=confidence if cloud.confidence is None else confidence * cloud.confidence,
    )
    # At rims and across thin sheets a quadric may lead nowhere; such points would become crumbs.
    lost = (np.linalg.norm(moved - points, axis=1) > FURTHEST * noises) | ((turned * sided).sum(1) < 0.5)
    if lost.mean() < 0.1:
        cleaned = select_points(cleaned, torch.from_numpy(~lost))
    return drop_outliers(cleaned)[0], opened
