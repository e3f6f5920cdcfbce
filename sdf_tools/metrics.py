"""How far a mesh is from another: distances, overlap, normals, topology, each by a stated definition.

Unless said otherwise lengths are in box units: both meshes are moved by the similarity that centres the reference's
bounding box and scales its longest side to 0.9.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.clean import summarize
from sdf_tools.distance import SignedDistance
from sdf_tools.sampling import SurfaceSamples, sample_surface
from sdf_tools.shapes import Mesh, normalize, with_positions

Convention = Literal["bacon", "occnet_l1", "occnet_l2", "deepsdf", "point_to_mesh"]
Metrics = dict[str, float | int | bool]

PAPER_SAMPLES = 300_000
"""Points on each mesh for the paper's Chamfer distance."""


def chamfer(
    prediction: Mesh,
    reference: Mesh,
    convention: Convention = "point_to_mesh",
    samples: int | None = None,
    seed: int = 0,
) -> float:
    """Chamfer distance between two meshes in their common units, by the convention of your choice.

    With d the distances of area-uniform samples of one mesh to their nearest sample of the other:

    - ``bacon``: mean d^2 + mean d^2, 300,000 samples each; BACON, FINER and SASNet (Tab. 3).
    - ``deepsdf``: the same with 30,000 samples; DeepSDF.
    - ``occnet_l1``: (mean d + mean d) / 2, 100,000 samples; Occupancy Networks.
    - ``occnet_l2``: (mean d^2 + mean d^2) / 2, 100,000 samples; Occupancy Networks.
    - ``point_to_mesh``: (mean d + mean d) / 2 with exact distances from samples to the other mesh's triangles, 300,000
      samples. The others cannot fall below a floor that the sampling sets, see :func:`chamfer_floor`; this one can.

    Args:
        prediction: one mesh.
        reference: the other.
        convention: see above.
        samples: points on each mesh, instead of the convention's number.
        seed: of the samples.

    Raises:
        ValueError: an unknown convention.
    """
    counts = {"bacon": 300_000, "deepsdf": 30_000, "occnet_l1": 100_000, "occnet_l2": 100_000, "point_to_mesh": 300_000}
    if convention not in counts:
        raise ValueError(f"no Chamfer convention is called '{convention}'; choose from {', '.join(counts)}.")
    count = samples or counts[convention]
    a = sample_surface(prediction, count, seed=seed).points
    b = sample_surface(reference, count, seed=seed + 1).points
    if convention == "point_to_mesh":
        there, back = surface_distance(a, reference), surface_distance(b, prediction)
    else:
        there, back = nearest_sample(a, b), nearest_sample(b, a)
    if convention in ("bacon", "deepsdf", "occnet_l2"):
        there, back = there.square(), back.square()
    total = float(there.mean() + back.mean())
    return total if convention in ("bacon", "deepsdf") else total / 2


def chamfer_floor(area: float, samples: int = PAPER_SAMPLES) -> float:
    """What the ``bacon`` Chamfer of a mesh with itself comes to: 2 A / (pi n) for n samples on area A.

    Samples of a surface are a planar Poisson process up close, whose nearest neighbour has E[d^2] = A / (pi n).
    """
    return 2 * area / (math.pi * samples)


def nearest_sample(points: Float[Tensor, "N 3"], others: Float[Tensor, "M 3"]) -> Float[Tensor, " N"]:
    """(N,) distance of each point to the nearest of the others."""
    from scipy.spatial import cKDTree

    return torch.from_numpy(cKDTree(others.numpy()).query(points.numpy(), workers=-1)[0])


def surface_distance(points: Float[Tensor, "N 3"], mesh: Mesh) -> Float[Tensor, " N"]:
    """(N,) exact unsigned distance of each point to a mesh's triangles."""
    return SignedDistance(mesh, sign="unsigned")(points).abs()


def vertex_error(prediction: Mesh, reference: Mesh, signed: bool = False) -> Float[Tensor, " V"]:
    """(V,) distance of each vertex of the prediction to the reference, for colouring; signed: negative inside."""
    distance = SignedDistance(reference, sign="auto" if signed else "unsigned")(prediction.vertices)
    return distance if signed else distance.abs()


def f_score(there: Float[Tensor, " N"], back: Float[Tensor, " M"], threshold: float) -> float:
    """Harmonic mean of precision and recall: the shares of both distance sets below a threshold (Knapitsch 2017)."""
    precision, recall = float((there < threshold).double().mean()), float((back < threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def iou_paper(prediction: Mesh, reference: Mesh) -> float:
    """Intersection over union on a 128^3 grid over [-1, 1]^3 (BACON, FINER, SASNet Tab. 3), meshes in box units.

    The shape fills less than half of that box along each axis, so one grid point weighs 1e-4 and more.
    """
    axis = torch.linspace(-1, 1, 128, dtype=torch.float64)
    inner = axis[axis.abs() <= 0.6]  # nothing is inside beyond the box
    grid = torch.stack(torch.meshgrid(inner, inner, inner, indexing="ij"), -1).reshape(-1, 3)
    a, b = SignedDistance(prediction).contains(grid), SignedDistance(reference).contains(grid)
    return _ratio(int((a & b).sum()), int((a | b).sum()))


def iou_interval(
    prediction: Mesh, reference: Mesh, points: int = 1_000_000, seed: int = 0, band: float | None = None
) -> tuple[float, float]:
    """Volumetric intersection over union by Monte Carlo, and the half-width of its 95 % confidence interval.

    Args:
        prediction: one mesh.
        reference: the other.
        points: uniform points in the common bounding box, padded by 2 % of its longest side.
        seed: of the points.
        band: count only points within this distance of the reference's surface; None counts all.

    Returns:
        The ratio, and 1.96 sqrt(r (1 - r) / m) with m the points inside either mesh.
    """
    both = torch.cat([prediction.vertices, reference.vertices])
    low, high = both.amin(0), both.amax(0)
    pad = 0.02 * (high - low).max()
    generator = torch.Generator().manual_seed(seed)
    where = low - pad + (high - low + 2 * pad) * torch.rand(points, 3, generator=generator, dtype=torch.float64)
    distance = SignedDistance(reference)
    if band is not None:
        where = where[distance(where).abs() <= band]
    a, b = SignedDistance(prediction).contains(where), distance.contains(where)
    either = int((a | b).sum())
    ratio = _ratio(int((a & b).sum()), either)
    return ratio, 1.96 * math.sqrt(ratio * (1 - ratio) / max(1, either))


def normal_error(samples: SurfaceSamples, other: Mesh) -> Float[Tensor, " N"]:
    """(N,) angle in degrees between each sample's face normal and that of the closest point of the other mesh."""
    closest = SignedDistance(other, sign="unsigned").closest(samples.points)
    cosine = (samples.normals * closest.normals).sum(-1).clamp(-1, 1)
    return torch.rad2deg(torch.arccos(cosine))


def evaluate(
    prediction: Mesh,
    reference: Mesh,
    *,
    samples: int = PAPER_SAMPLES,
    iou_points: int = 1_000_000,
    thresholds: tuple[float, ...] = (0.001, 0.005, 0.01),
    seed: int = 0,
) -> Metrics:
    """Every metric of a mesh against the reference, both in the same units.

    Args:
        prediction: the mesh to judge.
        reference: the true mesh; it sets the box units.
        samples: points on each mesh for distances and normals.
        iou_points: points for the intersection over union.
        thresholds: of the F-score, as shares of the reference's longest side.
        seed: of all samples.

    Returns:
        ``chamfer_paper`` (convention ``bacon``) and ``chamfer_floor``; ``iou_paper``; ``iou`` with ``iou_confidence``
        (half-width, 95 %) and ``iou_near`` (within 1 % of the longest side of the surface);
        ``point_to_surface_mean`` (samples of the prediction to the reference), ``surface_to_point_mean`` (samples of
        the reference to the prediction), their ``hausdorff`` (largest of all), 95th and 99th percentiles, the same
        means in the meshes' own units with suffix ``_world``; ``f_score`` at 1 % and at each threshold; ``normal_consistency``
        (mean absolute cosine at closest points, both ways; Occupancy Networks), ``normal_error_mean`` and ``_p95`` in
        degrees (samples of the reference against the prediction); components and watertightness of both.

    Raises:
        ShapeError: a mesh is empty.
    """
    frame = normalize(reference)
    truth, guess = frame.shape, with_positions(prediction, frame.to_box(prediction.vertices.double()))
    assert isinstance(truth, Mesh) and isinstance(guess, Mesh)
    on_guess, on_truth = sample_surface(guess, samples, seed=seed), sample_surface(truth, samples, seed=seed + 1)
    there, back = surface_distance(on_guess.points, truth), surface_distance(on_truth.points, guess)
    squared = nearest_sample(on_guess.points, on_truth.points).square().mean()
    squared = squared + nearest_sample(on_truth.points, on_guess.points).square().mean()
    angle_there, angle_back = normal_error(on_guess, truth), normal_error(on_truth, guess)
    about_guess, about_truth = summarize(guess), summarize(truth)
    iou, confidence = iou_interval(guess, truth, iou_points, seed)
    both = torch.cat([there, back]).numpy()
    metrics: Metrics = {
        "chamfer_paper": float(squared),
        "chamfer_floor": chamfer_floor((about_guess.area + about_truth.area) / 2, samples),
        "iou_paper": iou_paper(guess, truth),
        "iou": iou,
        "iou_confidence": confidence,
        "iou_near": iou_interval(guess, truth, iou_points, seed, band=0.009)[0],
        "point_to_surface_mean": float(there.mean()),
        "surface_to_point_mean": float(back.mean()),
        "point_to_surface_mean_world": float(there.mean()) / frame.scale,
        "surface_to_point_mean_world": float(back.mean()) / frame.scale,
        "hausdorff": float(both.max()),
        "distance_p95": float(np.percentile(both, 95)),
        "distance_p99": float(np.percentile(both, 99)),
        "f_score": f_score(there, back, 0.009),
    }
    metrics |= {f"f_score_{share:g}": f_score(there, back, 0.9 * share) for share in thresholds}
    cosines = [torch.cos(torch.deg2rad(angle)).abs().mean() for angle in (angle_there, angle_back)]
    metrics |= {
        "normal_consistency": float(cosines[0] + cosines[1]) / 2,
        "normal_error_mean": float(angle_back.mean()),
        "normal_error_p95": float(np.percentile(angle_back.numpy(), 95)),
        "components_prediction": about_guess.bodies,
        "components_reference": about_truth.bodies,
        "watertight_prediction": about_guess.watertight,
        "watertight_reference": about_truth.watertight,
        "scale": frame.scale,
    }
    return metrics


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
