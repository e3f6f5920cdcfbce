"""How good a reconstructed surface is, in stated conventions."""

from sdf_tools.metrics._cloud import CloudEvaluation, evaluate_cloud
from sdf_tools.metrics._distances import (
    SurfaceError,
    chamfer,
    chamfer_floor,
    f_score,
    nearest_distances,
    surface_error,
    vertex_error,
)
from sdf_tools.metrics._evaluate import Evaluation, evaluate
from sdf_tools.metrics._overlap import Inside, Overlap, iou, iou_near_surface, iou_paper

__all__ = [
    "CloudEvaluation",
    "Evaluation",
    "Inside",
    "Overlap",
    "SurfaceError",
    "chamfer",
    "chamfer_floor",
    "evaluate",
    "evaluate_cloud",
    "f_score",
    "iou",
    "iou_near_surface",
    "iou_paper",
    "nearest_distances",
    "surface_error",
    "vertex_error",
]
