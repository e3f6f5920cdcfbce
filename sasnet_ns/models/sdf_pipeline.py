"""The pipeline: nerfstudio's own, with geometric instead of photographic evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from sasnet_ns.data.shape_datamanager import GeometryProbe, ShapeDataManager, ShapeDataManagerConfig
from sasnet_ns.models.loading import lies_elsewhere
from sasnet_ns.models.sdf_model import SASNetSDFModel, SASNetSDFModelConfig
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.shapes.named import canonical_name, known_front
from sasnet_ns.training.loop import seeded
from sasnet_ns.training.objective import look_at_shape
from sdf_tools.chunks import in_chunks
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh, Shape


@dataclass
class SASNetSDFPipelineConfig(VanillaPipelineConfig):
    """Configuration of the pipeline."""

    _target: type = field(default_factory=lambda: SASNetSDFPipeline)
    """Class to build."""
    datamanager: ShapeDataManagerConfig = field(default_factory=ShapeDataManagerConfig)
    """The shape and the samples drawn from it."""
    model: SASNetSDFModelConfig = field(default_factory=SASNetSDFModelConfig)
    """The network and its losses."""
    eval_resolution: int = 256
    """Marching-cubes cells along the box for the mesh that ns-eval measures."""
    eval_samples: int = 300_000
    """Points on each surface from which ns-eval measures distances (paper: 300,000)."""


class SASNetSDFPipeline(VanillaPipeline):
    """Samples of one shape, and the field that is fitted to them.

    Input that cannot be used ends the program with one sentence and exit code 1, whichever nerfstudio command runs.
    """

    config: SASNetSDFPipelineConfig
    datamanager: ShapeDataManager

    def __init__(
        self,
        config: SASNetSDFPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        if config.model.objective.loss == "sign_agnostic":
            raise SystemExit(
                "sasnet-sdf: loss sign_agnostic needs unsigned distances and a field that starts as a sphere, which "
                "only `sasnet fit-shape` makes: give it a --config with objective: {loss: sign_agnostic}."
            )
        try:
            super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        except (ValueError, MissingLibraryError) as error:
            raise SystemExit(f"sasnet-sdf: {error}") from None
        assert isinstance(self.model, SASNetSDFModel)
        if test_mode == "val":
            with seeded(self.datamanager.config.seed):
                look_at_shape(self.model.field, self.datamanager.distance)
        control = self.model.viewer_control
        control.shape, control.front, control.name = (
            self._input_shape,
            known_front(self.datamanager.config.data),
            "shape",
        )
        if self.datamanager.config.data is not None:
            control.name = canonical_name(self.datamanager.config.data) or Path(self.datamanager.config.data).stem

    def _input_shape(self) -> Shape | None:
        """The input in box units for the viewer; None if it cannot be read any more."""
        try:
            return self.datamanager.normalized.shape
        except (ShapeError, MissingLibraryError):
            return None

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Take over a checkpoint's weights, and say so where the shape has changed since."""
        if lies_elsewhere(loaded_state, self.state_dict()):
            CONSOLE.print(
                f"[yellow]'{self.config.datamanager.data}' has another place or size than when the run was trained: "
                "what is measured against it means nothing.[/yellow]",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        super().load_pipeline(loaded_state, step)

    def train(self, mode: bool = True) -> SASNetSDFPipeline:
        """As in torch, but without a walk through all modules where nothing changes: nerfstudio asks at every step."""
        if self.training == mode and self.model.training == mode:
            return self
        return super().train(mode)

    def get_eval_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Losses on another batch of the pool, without a graph."""
        with torch.no_grad():
            return super().get_eval_loss_dict(step)

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Distances between the extracted surface and the shape, for ns-eval's JSON.

        Args:
            step: the training step, not needed.
            output_path: folder for a picture of each evaluation view; None writes none.
            get_std: accepted for nerfstudio; there is one shape, hence no deviation.

        Returns:
            Metrics by name, in box units unless the name says ``_world``; see ``sdf_tools.metrics``.
        """
        self.eval()
        try:
            metrics = self.geometry_metrics()
        except ShapeError as error:
            raise SystemExit(f"sasnet-sdf: {error}") from None
        if output_path is not None:
            self._save_pictures(output_path)
        self.train()
        return metrics

    def geometry_metrics(self) -> dict[str, float]:
        """Extract the surface at ``eval_resolution`` and compare it with the shape.

        Raises:
            ShapeError: the field has no surface yet, or the shape cannot be read any more.
        """
        from sdf_tools.metrics import evaluate

        model = self.model
        assert isinstance(model, SASNetSDFModel)
        frame = self.datamanager.normalized
        reference, samples = frame.shape, self.config.eval_samples
        mesh = model.extract(self.config.eval_resolution)
        if not isinstance(reference, Mesh):
            return cloud_metrics(mesh, reference.points, samples)
        # In the shape's own units, so that the metrics that promise those hold them.
        prediction, truth = frame.mesh_to_world(mesh), frame.mesh_to_world(reference)
        return plain_numbers(evaluate(prediction, truth, samples=samples).to_dict())

    def _save_pictures(self, folder: Path) -> None:
        from torchvision.utils import save_image

        folder.mkdir(parents=True, exist_ok=True)
        for index, (camera, batch) in enumerate(self.datamanager.fixed_indices_eval_dataloader):
            outputs = self.model.get_outputs_for_camera(camera)
            _, images = self.model.get_image_metrics_and_images(outputs, batch)
            for name, image in images.items():
                save_image(image.permute(2, 0, 1).cpu(), folder / f"eval_{name}_{index:04d}.png")


STEEPEST = 2.0
"""Largest gradient that the surface error believes."""
BOX_DIAGONAL = 3**0.5
"""Largest surface error: no surface in the box is farther away."""


def quick_metrics(field: SignedDistanceField, probe: GeometryProbe) -> dict[str, float]:
    """:func:`quick_metric_tensors` as numbers."""
    return {name: float(value) for name, value in quick_metric_tensors(field, probe).items()}


@torch.no_grad()
def quick_metric_tensors(field: SignedDistanceField, probe: GeometryProbe) -> dict[str, Tensor]:
    """Intersection over union and surface error without extracting a mesh.

    Args:
        field: the field in training.
        probe: where to look.

    Returns:
        ``iou`` over the probe's points, and ``surface_error``: the mean distance from the shape's surface to the
        field's, to first order |f| / |grad f|, in box units. A gradient counts as ``STEEPEST`` at most (a distance
        has 1), so that one that explodes makes no error small. Scalar tensors: nothing here waits for the device.
    """
    predicted = in_chunks(field, probe.points) < 0
    both = (predicted & probe.inside).sum()
    either = (predicted | probe.inside).sum()
    errors = in_chunks(lambda part: _first_order_distance(field, part), probe.surface)
    return {"iou": both / either.clamp_min(1), "surface_error": errors.mean()}


def _first_order_distance(field: SignedDistanceField, points: Tensor) -> Tensor:
    """(N,) distance from (N, 3) points to the field's surface, |f| / |grad f|."""
    with torch.enable_grad():
        at = points.detach().requires_grad_(True)
        values = field(at)
        gradient = torch.autograd.grad(values.sum(), at)[0]
    error = values.detach().abs() / gradient.norm(dim=-1).clamp(0.1, STEEPEST)
    return error.nan_to_num(BOX_DIAGONAL, BOX_DIAGONAL).clamp_max(BOX_DIAGONAL)


def plain_numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics dictionary, as floats that JSON and nerfstudio take."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, bool | int | float)}


def cloud_metrics(mesh: Mesh, points: torch.Tensor, count: int = 300_000) -> dict[str, float]:
    """Distances between a mesh and the points it was fitted to, in the units of both.

    Returns:
        ``completeness_mean``: from the points to the mesh (exact), ``accuracy_mean``: from samples of the mesh to the
        nearest point, which includes the points' own spacing; and the largest of both as ``hausdorff``.
    """
    from scipy.spatial import cKDTree

    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.sampling import sample_surface

    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(points.shape[0], generator=generator)[:count]
    to_mesh = SignedDistance(mesh, sign="unsigned")(points[rows])
    to_points, _ = cKDTree(points.numpy()).query(sample_surface(mesh, count, seed=0).points.numpy(), workers=-1)
    accuracy, completeness = float(to_points.mean()), float(to_mesh.abs().mean())
    return {
        **{"accuracy_mean": accuracy, "completeness_mean": completeness},
        **{"point_to_surface_mean": accuracy, "surface_to_point_mean": completeness},  # their former names
        "hausdorff": max(float(to_mesh.abs().max()), float(to_points.max())),
    }
