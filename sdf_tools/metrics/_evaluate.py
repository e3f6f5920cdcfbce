"""Everything worth knowing about a reconstructed mesh, in one call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError, ShapeWarning
from sdf_tools.geometry import Mesh, NormalizedShape, for_numpy, normalize, require_finite
from sdf_tools.metrics._distances import (
    chamfer,
    chamfer_floor,
    f_score,
    require_mesh,
    require_samples,
    require_seed,
    surface_error,
)
from sdf_tools.metrics._overlap import Inside, iou, iou_near_surface, iou_paper
from sdf_tools.topology import drop_unreferenced, edge_table, face_components, is_watertight, merge_vertices

THRESHOLDS = (0.0005, 0.001, 0.002, 0.005, 0.01)
_BAND = 0.01
_OTHER_UNITS = 5.0  # times as large or small: the distances of points then say nothing, and take minutes
_FORMER_NAMES = {"accuracy": "point_to_surface", "completeness": "surface_to_point"}


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a prediction against a reference.

    Lengths are in box units (reference's longest side 0.9, centred) unless the name ends in ``_world``.

    Accuracy runs from the prediction to the reference (what is there, is it right?), completeness from the reference
    to the prediction (what should be there, is it?), as in Seitz et al., CVPR 2006. A figure that is undefined, such as
    the IoU of two meshes that enclose nothing, is NaN here, "undefined" when printed and null in JSON.

    Attributes:
        iou: volumetric, see ``metrics.iou``; NaN, like the other two, where neither shape encloses a sample.
        iou_low: lower end of its 95 % confidence interval.
        iou_high: upper end.
        iou_near_surface: IoU within 0.01 of the reference's surface.
        iou_paper: see ``metrics.iou_paper``.
        chamfer_paper: ``metrics.chamfer(convention="bacon")``.
        chamfer_floor: what two samplings of the reference itself would score there.
        chamfer_l1: mean of the two mean exact distances, ``chamfer(convention="point_to_mesh")``.
        accuracy_mean: mean exact distance from samples of the prediction to the reference's triangles.
        completeness_mean: mean exact distance from samples of the reference to the prediction's triangles.
        accuracy_mean_world: the former, in the reference's units.
        completeness_mean_world: the latter, in the reference's units.
        accuracy_percentiles: 50, 90, 95, 99 and 99.9 of those distances.
        completeness_percentiles: the same for the other direction.
        hausdorff: the largest sampled distance in either direction (a lower bound of the true one).
        hausdorff_world: the same in the reference's units.
        hausdorff_95: the larger of the two directions' 95th percentiles ("HD95").
        f_score: at 0.009 (1 % of the longest side), see ``metrics.f_score``.
        f_scores: at several thresholds in box units.
        normal_consistency: mean absolute cosine between face normals at closest points, both directions averaged
            (Occupancy Networks, but at exact closest points).
        normal_error_mean: mean angle between those normals, degrees, both directions averaged.
        normal_error_p95: its 95th percentile over the samples of both directions.
        components_prediction: connected components after merging vertices.
        components_reference: the same for the reference.
        watertight_prediction: every edge has two triangles that run along it in opposite directions.
        watertight_reference: the same for the reference.
        faces_prediction: triangles.
        area_ratio: prediction's area over the reference's.
        scale: box units per unit of the reference.
        samples: surface samples of each mesh.
        iou_samples: points behind ``iou``.
    """

    iou: float
    iou_low: float
    iou_high: float
    iou_near_surface: float
    iou_paper: float
    chamfer_paper: float
    chamfer_floor: float
    chamfer_l1: float
    accuracy_mean: float
    completeness_mean: float
    accuracy_mean_world: float
    completeness_mean_world: float
    accuracy_percentiles: dict[str, float]
    completeness_percentiles: dict[str, float]
    hausdorff: float
    hausdorff_world: float
    hausdorff_95: float
    f_score: float
    f_scores: dict[str, float]
    normal_consistency: float
    normal_error_mean: float
    normal_error_p95: float
    components_prediction: int
    components_reference: int
    watertight_prediction: bool
    watertight_reference: bool
    faces_prediction: int
    area_ratio: float
    scale: float
    samples: int
    iou_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, booleans and dictionaries, ready for JSON: undefined figures are None.

        Accuracy and completeness are there under their former names as well, ``point_to_surface`` and
        ``surface_to_point``.
        """
        content = {name: None if value != value else value for name, value in asdict(self).items()}
        return content | {_former_name(name): value for name, value in content.items()}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            for new, old in _FORMER_NAMES.items():
                if name.startswith(old):
                    text = (
                        f"Evaluation.{name} is {name.replace(old, new)} now; the old name will go in the next version."
                    )
                    warnings.warn(text, DeprecationWarning, stacklevel=2)
                    return getattr(self, name.replace(old, new))
            raise AttributeError(f"'Evaluation' object has no attribute '{name}'")

    def __str__(self) -> str:
        width = 26
        lines = [f"{'box units':<{width}}  reference's longest side = 0.9 ({self.scale:.6g} box units per unit of it)"]
        for label, value in self.rows():
            lines.append(f"{label:<{width}}  {value}")
        return "\n".join(lines)

    def rows(self) -> list[tuple[str, str]]:
        """Labels and formatted values for a table."""
        both = f"{self.components_prediction} (reference {self.components_reference})"
        closed = f"{_yes(self.watertight_prediction)} (reference {_yes(self.watertight_reference)})"
        overlap = f"{self.iou:.5f}  [{self.iou_low:.5f}, {self.iou_high:.5f}] from {self.iou_samples:,} points"
        if math.isnan(self.iou):
            overlap = "undefined: neither mesh encloses a volume"
        unasked = "not computed" if math.isnan(self.chamfer_paper) else "undefined"
        return [
            ("iou", overlap),
            ("iou_near_surface", f"{_figure(self.iou_near_surface, '.5f')}  within {_BAND} of the surface"),
            ("iou_paper", f"{_figure(self.iou_paper, '.5f', unasked)}  128^3 grid over [-1, 1]^3"),
            ("chamfer_paper", f"{_figure(self.chamfer_paper, '.4e', unasked)}  sum of squared means, 300,000 samples"),
            ("chamfer_floor", f"{self.chamfer_floor:.4e}  of two samplings of one surface"),
            ("accuracy_mean", f"{self.accuracy_mean:.4e}  ({self.accuracy_mean_world:.4e} world), to the reference"),
            (
                "completeness_mean",
                f"{self.completeness_mean:.4e}  ({self.completeness_mean_world:.4e} world), from the reference",
            ),
            ("accuracy", _percentiles(self.accuracy_percentiles)),
            ("completeness", _percentiles(self.completeness_percentiles)),
            ("hausdorff", f"{self.hausdorff:.4e}  ({self.hausdorff_world:.4e} world), 95 %: {self.hausdorff_95:.4e}"),
            (
                "f_score",
                f"{self.f_score:.5f}  at 0.009; " + ", ".join(f"{v:.4f} at {k}" for k, v in self.f_scores.items()),
            ),
            ("normal_consistency", f"{self.normal_consistency:.5f}"),
            ("normal_error", f"{self.normal_error_mean:.3f} degrees, 95 %: {self.normal_error_p95:.3f}"),
            ("components", both),
            ("watertight", closed),
            ("faces", f"{self.faces_prediction:,}"),
            ("area_ratio", f"{self.area_ratio:.5f}"),
        ]


def _former_name(name: str) -> str:
    for new, old in _FORMER_NAMES.items():
        name = name.replace(new, old)
    return name


def _figure(value: float, form: str, undefined: str = "undefined") -> str:
    return undefined if math.isnan(value) else format(value, form)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _percentiles(values: dict[str, float]) -> str:
    return ", ".join(f"{key} %: {value:.3e}" for key, value in values.items())


def _in_box(mesh: Mesh, frame: NormalizedShape) -> Mesh:
    """Merged by position, as seams must not count as holes or bodies; without degenerate leftovers."""
    merged = merge_vertices(mesh)
    thin = (merged.faces == merged.faces.roll(1, dims=1)).any(dim=1)  # two corners at one place: an edge, no triangle
    if thin.any() and not thin.all():
        merged = replace(merged, faces=merged.faces[~thin])
    merged = drop_unreferenced(merged)
    moved = (merged.vertices.double() - frame.center) * frame.scale
    boxed = Mesh(moved, merged.faces, name=mesh.name)
    require_finite(boxed)
    return boxed


def _extent(mesh: Mesh) -> float:
    """Longest side of the bounding box."""
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())


def _state(mesh: Mesh) -> tuple[int, bool, float]:
    """Components, watertightness, area."""
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    corners = mesh.vertices[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).sum() / 2
    return face_components(faces, table)[0], is_watertight(faces, table), float(area)


def evaluate(
    prediction: Mesh,
    reference: Mesh,
    *,
    samples: int = 200_000,
    iou_samples: int = 1_000_000,
    thresholds: Sequence[float] = THRESHOLDS,
    paper: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Compare a mesh with a reference in the same coordinates.

    >>> from sdf_tools import evaluate, extract_mesh
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=48)
    >>> large = extract_mesh(lambda points: points.norm(dim=-1) - 0.42, resolution=48)
    >>> result = evaluate(large, ball, samples=20_000, iou_samples=100_000, paper=False)
    >>> round(result.iou, 2), round(result.accuracy_mean_world, 3)  # (0.4 / 0.42)^3, 0.42 - 0.4
    (0.86, 0.02)

    Both are moved by the similarity that puts the reference into its 0.9 box; the prediction is not fitted to it.

    Args:
        prediction: the reconstruction.
        reference: the truth, same units and position.
        samples: area-uniform samples of each mesh for distances and normals.
        iou_samples: uniform points for the volumetric IoU.
        thresholds: of the F-scores, box units.
        paper: whether to compute chamfer_paper and iou_paper (NaN otherwise).
        seed: of all samples.

    Raises:
        ValueError: fewer samples than 1, or a seed that is negative.
        ShapeError: a mesh is empty, has no area, coordinates that are not finite, faces of vertices that are not there,
            or is a point cloud.
    """
    require_samples("samples", samples)
    require_samples("iou_samples", iou_samples, 0)
    require_seed(seed)
    for mesh in (prediction, reference):
        require_mesh(mesh)
        if mesh.faces.shape[0] == 0:
            raise ShapeError(f"'{mesh.name}' has no triangles; there is no surface to compare.")
    prediction, reference = for_numpy(prediction), for_numpy(reference)
    frame = normalize(drop_unreferenced(reference))
    a, b = _in_box(prediction, frame), _in_box(reference, frame)
    ratio = _extent(a) / _extent(b)
    comparable = 1 / _OTHER_UNITS < ratio < _OTHER_UNITS
    if not comparable:
        warnings.warn(
            f"'{prediction.name}' is {ratio:.3g} times as large as '{reference.name}': are they in the same units? "
            "chamfer_paper is left out.",
            ShapeWarning,
            stacklevel=2,
        )
    bodies_a, closed_a, area_a = _state(a)
    bodies_b, closed_b, area_b = _state(b)
    forward = surface_error(a, SignedDistance(b, sign="unsigned"), samples, seed)
    backward = surface_error(b, SignedDistance(a, sign="unsigned"), samples, seed + 1)
    inside_a, inside_b = Inside(a), Inside(b)
    volume = iou(inside_a, inside_b, iou_samples, seed=seed)
    near = iou_near_surface(inside_a, b, _BAND, seed=seed, reference_inside=inside_b)
    angle = torch.rad2deg(torch.acos(torch.cat([forward.cosine, backward.cosine])))
    accuracy, completeness = float(forward.distance.mean()), float(backward.distance.mean())
    hausdorff = float(torch.maximum(forward.distance.max(), backward.distance.max()))
    parts = _spread(forward.distance), _spread(backward.distance)
    return Evaluation(
        iou=volume.iou,
        iou_low=volume.low,
        iou_high=volume.high,
        iou_near_surface=near.iou,
        iou_paper=iou_paper(inside_a, inside_b) if paper else float("nan"),
        chamfer_paper=chamfer(a, b, "bacon", seed=seed) if paper and comparable else float("nan"),
        chamfer_floor=chamfer_floor(area_b),
        chamfer_l1=(accuracy + completeness) / 2,
        accuracy_mean=accuracy,
        completeness_mean=completeness,
        accuracy_mean_world=accuracy / frame.scale,
        completeness_mean_world=completeness / frame.scale,
        accuracy_percentiles=parts[0],
        completeness_percentiles=parts[1],
        hausdorff=hausdorff,
        hausdorff_world=hausdorff / frame.scale,
        hausdorff_95=max(part["95"] for part in parts),
        f_score=f_score(forward.distance, backward.distance, 0.009),
        f_scores={f"{t:g}": f_score(forward.distance, backward.distance, t) for t in thresholds},
        normal_consistency=float((forward.cosine.abs().mean() + backward.cosine.abs().mean()) / 2),
        normal_error_mean=float(angle.mean()),
        normal_error_p95=float(np.percentile(angle.numpy(), 95)),
        components_prediction=bodies_a,
        components_reference=bodies_b,
        watertight_prediction=closed_a,
        watertight_reference=closed_b,
        faces_prediction=int(a.faces.shape[0]),
        area_ratio=area_a / area_b,
        scale=frame.scale,
        samples=samples,
        iou_samples=iou_samples,
    )


def _spread(distance: torch.Tensor) -> dict[str, float]:
    levels = (50, 90, 95, 99, 99.9)
    return {f"{p:g}": float(v) for p, v in zip(levels, np.percentile(distance.numpy(), levels), strict=True)}
