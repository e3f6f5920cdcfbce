"""Normals that came with a cloud: whether they can be trusted, and what is kept of them if not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from sdf_tools.cloud.normals import estimate_normals, orient_normals
from sdf_tools.cloud.thinning import even_subset
from sdf_tools.geometry import PointCloud, like
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.spatial.winding_tree import WindingTree

PROBES = 30_000  # points that the check looks at
TRIAL = 4_000  # points that a trial orientation is made of
DISAGREE = 0.05  # share of nearly parallel neighbours that point opposite ways: beyond it sides are arbitrary
INWARD = -0.25  # winding number on the surface: one half of a closed, outward one, minus one half of an inward one
CLOSED = 0.35
ALIEN = 0.65  # median cosine with the normals of planes through the neighbours: one half of directions by chance


@dataclass(frozen=True)
class NormalCheck:
    """What is wrong with the normals of a cloud.

    Attributes:
        missing: share of normals that are zero.
        opposed: share of pairs of nearly parallel neighbours, on one sheet, that point opposite ways.
        inward: share of points where the winding number of the cloud says that the normals point inward.
        winding: its median on the points: one half of a closed surface with outward normals, 0 of a flat sheet or where
            as many normals point in as out.
    """

    missing: float
    opposed: float
    inward: float
    winding: float


def check_normals(cloud: PointCloud) -> NormalCheck:
    """Look at the normals that a cloud came with; at most 30,000 points of it are asked.

    Args:
        cloud: with (N, 3) normals of length one, or zero where there is none.
    """
    assert cloud.normals is not None
    normals = cloud.normals.double().numpy()
    there = np.einsum("ij,ij->i", normals, normals) > 0.25
    missing = 1 - float(there.mean())
    if there.sum() < 16:
        return NormalCheck(missing, 0.0, 0.0, 0.5)
    points, normals = _unit_size(cloud.points.double().numpy()[there]), normals[there]
    chosen = even_subset(points, PROBES)
    probes, sides = np.ascontiguousarray(points[chosen]), normals[chosen]
    _, near = nearest_neighbours(points)(probes, 9)
    cosine = np.einsum("ij,ikj->ik", sides, normals[near[:, 1:]])
    # Neighbours on the other side of a thin wall are none of the same sheet.
    away = points[near[:, 1:]] - probes[:, None]
    flat = 0.3 * np.linalg.norm(away, axis=-1)
    beside = np.abs(np.einsum("ikj,ij->ik", away, sides)) < flat
    beside &= np.abs(np.einsum("ikj,ikj->ik", away, normals[near[:, 1:]])) < flat
    parallel = (np.abs(cosine) > 0.7) & beside
    opposed = float((cosine[parallel] < 0).mean()) if parallel.any() else 0.0
    around = _winding(probes, sides)
    return NormalCheck(missing, opposed, float((around < INWARD).mean()), float(np.median(around)))


def _unit_size(points: np.ndarray) -> np.ndarray:
    return (points - (points.max(0) + points.min(0)) / 2) / max(float(np.ptp(points, axis=0).max()), 1e-300)


def _winding(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(N,) winding number of a cloud at its own points."""
    distance, _ = nearest_neighbours(points)(points, min(12, len(points)))
    area = np.pi * distance[:, -1] ** 2 / distance.shape[1]
    soften = 0.5 * float(np.median(distance[:, min(7, distance.shape[1] - 1)]))
    return WindingTree(points).winding(normals * area[:, None], max(soften, 1e-9))


def surrounds(points: torch.Tensor, normals: torch.Tensor) -> float:
    """Median winding number of (N, 3) points with their normals at 4,000 of them: one half if they enclose a body."""
    some = even_subset(array := _unit_size(points.double().numpy()), TRIAL)
    return float(np.median(_winding(np.ascontiguousarray(array[some]), normals.double().numpy()[some])))


def _closes_when_turned(points: np.ndarray, normals: np.ndarray) -> bool:
    """Whether a sample of the cloud has a winding number of about one half everywhere once its sides are found."""
    some = even_subset(points, TRIAL)
    sample = np.ascontiguousarray(points[some])
    turned = orient_normals(torch.from_numpy(sample), torch.from_numpy(normals[some]), refine=False).numpy()
    return float(np.median(_winding(sample, turned))) > CLOSED


def _fit_points(cloud: PointCloud, neighbours: int) -> bool:
    """Whether the directions of given normals have to do with the points."""
    assert cloud.normals is not None
    points, normals = cloud.points.double(), cloud.normals.double()
    there = torch.nonzero(normals.norm(dim=1) > 0.5).reshape(-1)
    if len(there) < 16:
        return True
    planes, reliability = estimate_normals(points, max(12, neighbours))
    clear = there[reliability[there] >= reliability[there].median()]
    cosine = (planes[clear] * torch.nn.functional.normalize(normals[clear], dim=1)).sum(1).abs()
    return float(cosine.median()) >= ALIEN


def without_odd_normals(cloud: PointCloud) -> PointCloud:
    """The cloud with zeros, which stand for missing, in the place of normals that are NaN or infinite."""
    if cloud.normals is None or bool(cloud.normals.isfinite().all()):
        return cloud
    fine = cloud.normals.isfinite().all(dim=1, keepdim=True)
    return replace(cloud, normals=torch.where(fine, cloud.normals, 0))


def mend_normals(cloud: PointCloud, orientation: str = "check", neighbours: int = 12) -> tuple[PointCloud, list[str]]:
    """Turn given normals outward and fill in missing ones; good ones come back as they are.

    Directions are kept and only sides changed, by the winding number of the whole cloud (Lin, Shi and Liu, SIGGRAPH
    2024). A missing normal, zero or not finite, is estimated from the neighbours; if more than half are missing, or
    the directions are no nearer to those of planes through the neighbours than chance, all are.

    Args:
        cloud: with normals.
        orientation: ``trust`` takes them as they are; anything else checks them.
        neighbours: how many it takes to see the surface through the noise.

    Returns:
        The cloud (the same object if nothing was changed) and one sentence per change.
    """
    if cloud.normals is None or orientation == "trust":
        return cloud, []
    given, cloud = cloud, without_odd_normals(cloud)
    check = check_normals(cloud)
    total = cloud.points.shape[0]
    notes: list[str] = []
    alien = check.missing <= 0.5 and not _fit_points(cloud, neighbours)
    if check.missing > 0.5 or alien:
        normals, _ = estimate_normals(cloud.points, max(12, neighbours))
        normals = orient_normals(cloud.points, normals)
        wrong = "its normals do not fit its points" if alien else f"{check.missing:.0%} of its normals are zero"
        return replace(cloud, normals=normals), [f"{wrong}: estimated all of them"]
    assert cloud.normals is not None
    normals = cloud.normals.double()
    gone = normals.norm(dim=1) < 0.5
    if check.missing > 0:
        estimated, _ = estimate_normals(cloud.points, 12)
        normals = torch.where(gone[:, None], estimated.double(), normals)
        notes.append(f"{int(gone.sum()):,} of {total:,} normals are zero: estimated those")
    points = _unit_size(cloud.points.double().numpy())
    turned = None
    if check.opposed <= DISAGREE and check.inward > 0.5:
        turned = torch.where(gone[:, None], normals, -normals)
        if check.missing > 0:
            turned = _like_nearest(cloud.points, turned, gone)
        if check_normals(replace(cloud, normals=turned)).inward > DISAGREE:  # a body that pointed outward beside them
            turned = orient_normals(cloud.points, normals, refine=False).double()
    elif (
        check.opposed > DISAGREE
        or check.inward > DISAGREE
        or (check.winding < CLOSED / 2 and _closes_when_turned(points, normals.numpy()))
    ):
        turned = orient_normals(cloud.points, normals, refine=False).double()
    elif check.missing > 0:
        normals = _like_nearest(cloud.points, normals, gone)
    if turned is not None:
        changed = int(((turned * normals).sum(1) < 0)[~gone].sum())
        normals = turned
        if changed:
            what = "pointed to arbitrary sides" if check.opposed > DISAGREE else "pointed inward"
            notes.append(f"its normals {what}: turned {changed:,} of {total:,}, their directions kept")
    return (replace(cloud, normals=like(normals, cloud.points)), notes) if notes else (given, [])


def _like_nearest(points: torch.Tensor, normals: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """(N, 3) normals, those of the rows ``gone`` on the side of the nearest other one."""
    given = torch.nonzero(~gone).reshape(-1)
    search = nearest_neighbours(points[given].double().numpy())
    _, near = search(points[gone].double().numpy(), 1)
    away = (normals[gone] * normals[given[torch.from_numpy(near[:, 0])]]).sum(1, keepdim=True) < 0
    result = normals.clone()
    result[gone] = torch.where(away, -normals[gone], normals[gone])
    return result
