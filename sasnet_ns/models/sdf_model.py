"""The nerfstudio model that fits a network to the signed distance of one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from sasnet_ns.networks import NetworkChoice, SignedDistanceField
from sasnet_ns.training.loop import seeded
from sasnet_ns.training.objective import SDFObjective, SDFStep, progress_at, sdf_losses
from sasnet_ns.training.spectrum import describe, fit_spectrum


@dataclass
class SASNetSDFModelConfig(NetworkChoice, ModelConfig):
    """Configuration of the signed-distance model."""

    _target: type = field(default_factory=lambda: SASNetSDFModel)
    """Class to build."""
    enable_collider: bool = False
    """Not used: there are no rays in training."""
    eval_num_rays_per_chunk: int = 1 << 18
    """Rays rendered at a time; the network itself is evaluated in smaller parts."""
    spectrum: Literal["auto", "as-set"] = "as-set"
    """The SASNet's frequencies for noisy clouds: auto lowers the band limit to what the noise leaves room for and says
    so. Clouds are cleaned beforehand, and then it gains nothing (docs/choosing.md)."""
    objective: SDFObjective = field(default_factory=SDFObjective)
    """Loss terms and their weights."""
    bfloat16: bool = False
    """Train the hidden layers in bfloat16 (embedding and output stay float32). Meant for GPUs and CPUs with AMX."""


class SASNetSDFModel(Model):
    """A signed distance field in box units, trained on points and shown by sphere tracing.

    ``state_dict`` holds the network and the way back to the shape's own units (``field.center``, ``field.scale``), so a
    checkpoint alone is enough to extract a mesh.
    """

    config: SASNetSDFModelConfig

    def populate_modules(self) -> None:
        """Build the field; nothing is downloaded."""
        from sasnet_ns.data.views import axis_vector
        from sasnet_ns.viewer.control import ShapeViewerControl
        from sasnet_ns.viewer.rendering import SurfaceRenderer
        from sasnet_ns.viewer.shown_field import shown_shape

        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        noise = metadata.get("noise", 0.0)
        if noise > 0 and self.config.network == "sasnet" and self.config.spectrum == "auto":
            before, self.config.sasnet = self.config.sasnet, fit_spectrum(self.config.sasnet, noise)
            if self.config.sasnet != before:
                CONSOLE.print(describe(self.config.sasnet, noise), highlight=False)
        with seeded(metadata.get("seed", 0)):
            self.field = SignedDistanceField(
                self.config.network, self.config.network_config(), metadata.get("center"), metadata.get("scale", 1.0)
            )
        self.step = 0
        self.max_steps = 0
        self._steps: SDFStep | None = None
        up = metadata.get("up_axis", "y")
        levels = self.config.objective.band_dropout > 0
        self.viewer_control = ShapeViewerControl(shown_shape(lambda: self.field, levels=levels), up)
        self._renderer = SurfaceRenderer(shown_shape(lambda: self.field, copies=False), axis_vector(up))

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """The network's parameters by role: backbone, hidden, masks."""
        return {str(role): parameters for role, parameters in self.field.network.parameter_roles().items()}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Keep track of the step, for the weight schedule and the renderer, and tell the network when one is done."""
        if training_callback_attributes.trainer is not None:
            self.max_steps = training_callback_attributes.trainer.config.max_num_iterations
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [
            TrainingCallback([before], self.update_to_step, update_every_num_iters=1),
            TrainingCallback([after], self._finish_step, update_every_num_iters=1),
        ]

    def _finish_step(self, step: int) -> None:
        if self._steps is not None:
            self._steps.finish(step + 1)

    def update_to_step(self, step: int) -> None:
        """Called before each training step and after loading a checkpoint."""
        self.step = step

    def get_outputs(self, ray_bundle: Any) -> dict[str, Any]:  # type: ignore[override]
        """Losses on a batch of points, or pictures of a bundle of rays.

        Args:
            ray_bundle: an ``sdf_tools.pools.SDFBatch`` in training, a nerfstudio ``RayBundle`` for pictures.

        Returns:
            For points: the batch, its predicted ``sdf`` (B,), and the weighted ``losses`` by name. For rays: see
            :meth:`sasnet_ns.viewer.rendering.SurfaceRenderer.render`.
        """
        if isinstance(ray_bundle, RayBundle):
            return self._render(ray_bundle)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            if not self.training:
                losses, predicted = sdf_losses(
                    self.field, ray_bundle, self.config.objective, progress_at(self.step, self.max_steps)
                )
            else:
                if self._steps is None:  # when the first batch comes the network is where it stays
                    self._steps = SDFStep(self.field, self.config.objective, self.max_steps, not self.config.bfloat16)
                losses, predicted = self._steps.losses(ray_bundle, self.step)
        return {"batch": ray_bundle, "sdf": predicted, "losses": losses}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The coarse-to-fine loss, and the Eikonal and sparsity terms if they are on."""
        return outputs["losses"]

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean absolute error of the batch, in box units; a tensor, so that nothing waits for the device."""
        return {"sdf_error": (outputs["sdf"].detach() - outputs["batch"].sdf).abs().mean()}

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Pictures of the surface from one camera: shaded, normals, depth, a slice of the distance, masks.

        Args:
            camera: a single camera in box units.
            obb_box: the viewer's crop box.

        Returns:
            (H, W, C) images, see :meth:`sasnet_ns.viewer.rendering.SurfaceRenderer.render`; ``rgb`` first.
        """
        rays = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        # A quarter of a pixel at the distance of the box is as exact as a picture can show.
        pixel = 1.0 / float(camera.fx.flatten()[0])
        pictures = self._render(rays, tolerance=min(2e-3, max(1e-4, 0.25 * pixel)))
        return {name: picture.reshape(*rays.shape, -1) for name, picture in pictures.items()}

    def _render(self, rays: RayBundle, tolerance: float = 3e-4) -> dict[str, Tensor]:
        near, far = (None if x is None else x.reshape(-1) for x in (rays.nears, rays.fars))
        return self._renderer.render(
            rays.origins.reshape(-1, 3),
            rays.directions.reshape(-1, 3),
            step=self.step,
            near=near,
            far=far,
            settings=self.viewer_control.settings,
            tolerance=tolerance,
            exact=not self.max_steps,
        )

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """(H, W, 4): a picture with the surface's coverage as alpha, for ns-render and ns-export."""
        return torch.cat([outputs[output_name], outputs["accumulation"]], dim=-1)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Pictures for TensorBoard: the surface, and its normals beside those of the shape itself."""
        reference = batch["image"].to(outputs["normals"])
        both = torch.cat([reference, outputs["normals"]], dim=1)
        return {"coverage": float(outputs["accumulation"].mean())}, {"surface": outputs["rgb"], "normals": both}

    def extract(self, resolution: int = 256, level: float = 0.0) -> Any:
        """The surface as an ``sdf_tools.Mesh`` in box units.

        Raises:
            ShapeError: the field has no surface at that level.
        """
        from sdf_tools.extraction import extract_mesh

        return extract_mesh(self.field, resolution, level=level)
