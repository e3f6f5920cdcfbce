"""Comparisons in which a point cloud takes part: distances, and an overlap only where there is an inside."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud, Shape, for_numpy, normalize, positions, with_positions
from sdf_tools.metrics._distances import f_score, nearest_distances, require_samples, require_seed
from sdf_tools.sampling import sample_surface
from sdf_tools.topology import drop_unreferenced

_THRESHOLDS = (0.0005, 0.001, 0.002, 0.005, 0.01)


@dataclass(frozen=True)
class CloudEvaluation:
    """Metrics of a prediction against a reference, one of them or both a point cloud.

    Lengths are in box units (reference's longest side 0.9, centred) unless the name ends in ``_world``. A distance to a
    cloud is that to its nearest point, and so includes the cloud's own spacing.

    Attributes:
        iou: at points uniform in the box of both, NaN where a shape has no inside (a cloud without normals).
        chamfer_l1: mean of the two mean distances.
        accuracy_mean: from the prediction (samples of a mesh, points of a cloud) to the reference.
        completeness_mean: from the reference to the prediction.
        accuracy_mean_world: the former, in the reference's units.
        completeness_mean_world: the latter, in the reference's units.
        accuracy_percentiles: 50, 90, 95, 99 and 99.9 of those distances.
        completeness_percentiles: the same for the other direction.
        hausdorff: the largest distance in either direction.
        hausdorff_world: the same in the reference's units.
        f_score: at 0.009 (1 % of the longest side), see ``metrics.f_score``.
        f_scores: at several thresholds in box units.
        spacing: median distance of neighbouring points, of the sparser cloud: differences below it mean nothing.
        scale: box units per unit of the reference.
        samples: at most so many points of each shape were asked.
    """

    iou: float
    chamfer_l1: float
    accuracy_mean: float
    completeness_mean: float
    accuracy_mean_world: float
    completeness_mean_world: float
    accuracy_percentiles: dict[str, float]
    completeness_percentiles: dict[str, float]
    hausdorff: float
    hausdorff_world: float
    f_score: float
    f_scores: dict[str, float]
    spacing: float
    scale: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        both = ((self.accuracy_mean, self.accuracy_mean_world, "accuracy_mean"),
                (self.completeness_mean, self.completeness_mean_world, "completeness_mean"))  # fmt: skip
        rows = [
            ("box units", f"reference's longest side = 0.9 ({self.scale:.6g} box units per unit of it)"),
            (
                "iou",
                "undefined: a point cloud without normals has no inside" if np.isnan(self.iou) else f"{self.iou:.5f}",
            ),
            *((name, f"{box:.4e}  ({world:.4e} world)") for box, world, name in both),
            ("accuracy", _percentiles(self.accuracy_percentiles)),
            ("completeness", _percentiles(self.completeness_percentiles)),
            ("hausdorff", f"{self.hausdorff:.4e}  ({self.hausdorff_world:.4e} world)"),
            (
                "f_score",
                f"{self.f_score:.5f}  at 0.009; " + ", ".join(f"{v:.4f} at {k}" for k, v in self.f_scores.items()),
            ),
            ("spacing", f"{self.spacing:.3e} between points, which distances to a cloud include"),
        ]
        return "\n".join(f"{label:<26}  {value}" for label, value in rows)


def _percentiles(values: dict[str, float]) -> str:
    return ", ".join(f"{key} %: {value:.3e}" for key, value in values.items())


def evaluate_cloud(
    prediction: Shape, reference: Shape, *, samples: int = 200_000, iou_samples: int = 1_000_000, seed: int = 0
) -> CloudEvaluation:
    """Compare two shapes in the same coordinates, at least one of them a point cloud.

    Args:
        prediction: the shape to judge.
        reference: the truth.
        samples: points of each shape for distances.
        iou_samples: points for the overlap.
        seed: of all samples.

    Raises:
        ValueError: fewer samples than 1, or a seed that is negative.
        ShapeError: a shape is empty, has no extent, or coordinates that are not finite; or both are meshes.
    """
    require_samples("samples", samples)
    require_samples("iou_samples", iou_samples, 0)
    require_seed(seed)
    if isinstance(prediction, Mesh) and isinstance(reference, Mesh):
        raise ShapeError(f"'{prediction.name}' and '{reference.name}' are both meshes; compare them by evaluate.")
    prediction, reference = _used(prediction), _used(reference)
    frame = normalize(reference)
    normalize(prediction)  # its errors are the clearer ones
    moved = (positions(prediction).double() - frame.center) * frame.scale
    a, b = with_positions(prediction, moved), frame.shape
    drawn_a, drawn_b = _drawn(a, samples, seed), _drawn(b, samples, seed + 1)
    forward, backward = _distances(drawn_a, b), _distances(drawn_b, a)
    p2s, s2p = float(forward.mean()), float(backward.mean())
    far = float(torch.maximum(forward.max(), backward.max()))
    levels = (50, 90, 95, 99, 99.9)
    parts = [
        {f"{p:g}": float(v) for p, v in zip(levels, np.percentile(d.numpy(), levels), strict=True)}
        for d in (forward, backward)
    ]
    return CloudEvaluation(
        iou=_iou(a, b, iou_samples, seed),
        chamfer_l1=(p2s + s2p) / 2,
        accuracy_mean=p2s,
        completeness_mean=s2p,
        accuracy_mean_world=p2s / frame.scale,
        completeness_mean_world=s2p / frame.scale,
        accuracy_percentiles=parts[0],
        completeness_percentiles=parts[1],
        hausdorff=far,
        hausdorff_world=far / frame.scale,
        f_score=f_score(forward, backward, 0.009),
        f_scores={f"{t:g}": f_score(forward, backward, t) for t in _THRESHOLDS},
        spacing=max(_spacing(s) for s in (a, b) if isinstance(s, PointCloud)),
        scale=frame.scale,
        samples=samples,
    )


def _used(shape: Shape) -> Shape:
    """A shape without vertices in no triangle, which would count in its size."""
    shape = for_numpy(shape)
    return drop_unreferenced(shape) if isinstance(shape, Mesh) else shape


def _drawn(shape: Shape, count: int, seed: int) -> Float[Tensor, "N 3"]:
    if isinstance(shape, Mesh):
        return sample_surface(shape, count, seed).points
    rows = torch.randperm(shape.points.shape[0], generator=torch.Generator().manual_seed(seed))[:count]
    return shape.points[rows].double()


def _distances(points: Tensor, shape: Shape) -> Float[Tensor, " N"]:
    if isinstance(shape, Mesh):
        return SignedDistance(shape, sign="unsigned")(points).abs()
    return nearest_distances(points, shape.points.double())


def _spacing(cloud: PointCloud) -> float:
    some = _drawn(cloud, 20_000, 0).numpy()
    from sdf_tools.spatial.neighbours import nearest_neighbours

    distance, _ = nearest_neighbours(cloud.points.double().numpy())(some, min(2, cloud.points.shape[0]))
    return float(np.median(distance[:, -1]))


def _iou(a: Shape, b: Shape, count: int, seed: int) -> float:
    """Overlap where both have an inside, NaN otherwise."""
    if any(isinstance(s, PointCloud) and (s.normals is None or not s.normals.any()) for s in (a, b)):
        return float("nan")
    low = torch.minimum(positions(a).amin(0), positions(b).amin(0))
    high = torch.maximum(positions(a).amax(0), positions(b).amax(0))
    unit = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pad = 0.05 * float((high - low).max())
    points = low - pad + unit * (high - low + 2 * pad)
    inside_a, inside_b = SignedDistance(a).contains(points), SignedDistance(b).contains(points)
    either = int((inside_a | inside_b).sum())
    return int((inside_a & inside_b).sum()) / either if either else float("nan")
