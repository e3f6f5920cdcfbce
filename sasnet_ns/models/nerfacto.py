"""nerfacto with SASNet as its field, without tiny-cuda-nn and without downloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.model_components.losses import MSELoss
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler, UniformSampler
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, NormalsRenderer, RGBRenderer
from nerfstudio.model_components.scene_colliders import AABBBoxCollider, NearFarCollider, SceneCollider
from nerfstudio.model_components.shaders import NormalsShader
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from sasnet_ns.fields.density_field import ProposalField, SASNetDensityField
from sasnet_ns.models.lpips import OptionalLPIPS, without_missing
from sasnet_ns.models.optimization import RecipeSchedulerConfig, RoleOptimizerConfig, optimizer_configs
from sasnet_ns.models.surface_model import open_bands
from sasnet_ns.networks import NetworkChoice, SASNet, SASNetConfig
from sasnet_ns.training.recipe import Recipe
from sdf_tools.losses import mask_sparsity_loss


def default_sasnet() -> SASNetConfig:
    """The default of shapes (:meth:`SASNetConfig.sdf_compact`), narrower, as a ray asks for many values: 69,780
    parameters, half of them in the sine layers.
    """
    return SASNetConfig.sdf_compact(
        hidden_widths=(128, 128),
        omega_0=15.0,
        band_limit=40,
        low_range=8,
        period=2.2,
        grid_log2_entries=11,
        grid_min=16,
        grid_max=512,
        grid_interpolation="linear",
    )


_PROPOSAL = {"network": "ngp", "grid_levels": 5, "grid_log2_entries": 14, "width": 16, "hidden_layers": 1}


@dataclass
class SASNetNerfactoModelConfig(NetworkChoice, NerfactoModelConfig):
    """Configuration of nerfacto on a network of the registry; the hash-grid options of the original have no effect."""

    _target: type = field(default_factory=lambda: SASNetNerfactoModel)
    """Class to build."""
    sasnet: SASNetConfig = field(default_factory=default_sasnet)
    """Options of the SASNet."""
    geo_feat_dim: int = 15
    """Features that the field hands to its colour network."""
    bands_open: tuple[float, float] = (0.0, 0.3)
    """Shares of training at which the first and the last high band of a SASNet open: coarse first, detail later. (0, 0)
    opens all at once."""
    mask_sparsity_loss_mult: float = 1e-5
    """Weight of the masks' sum, which closes masks where they are not needed; 0 leaves it out."""
    mask_sparsity_points: int = 1024
    """Samples of a step at which that sum is taken."""
    proposal_net_args_list: list[dict] = field(
        default_factory=lambda: [{**_PROPOSAL, "grid_max": finest} for finest in (128, 256)]
    )
    """Networks that rays are sampled by: a name of the registry and that network's options."""
    implementation: Literal["tcnn", "torch"] = "torch"
    """Not used: kernels choose themselves, see sasnet.implementation."""


class SASNetNerfactoModel(NerfactoModel):
    """nerfacto whose field and proposal networks come from the registry.

    Without scene contraction the scene is its box: rays are sampled between its faces.
    """

    config: SASNetNerfactoModelConfig
    field: SASNetDensityField

    def populate_modules(self) -> None:
        """Build everything; nothing is downloaded."""
        super(NerfactoModel, self).populate_modules()
        config = self.config
        bounded = config.disable_scene_contraction
        contraction = None if bounded else SceneContraction(order=float("inf"))
        aabb = self.scene_box.aabb
        self.field = SASNetDensityField(
            aabb, self.num_train_data, spatial_distortion=contraction, **field_options(config)
        )
        self.camera_optimizer = config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        count = 1 if config.use_same_proposal_network else config.num_proposal_iterations
        arguments = [
            config.proposal_net_args_list[min(i, len(config.proposal_net_args_list) - 1)] for i in range(count)
        ]
        proposals = [ProposalField(aabb, contraction, config.average_init_density, **options) for options in arguments]
        self.proposal_networks = torch.nn.ModuleList(proposals)
        self.density_fns = [proposals[min(i, count - 1)].density_fn for i in range(config.num_proposal_iterations)]
        uniform = bounded or config.proposal_initial_sampler == "uniform"
        self.proposal_sampler = ResumableProposalSampler(
            config.num_proposal_samples_per_ray,
            config.num_nerf_samples_per_ray,
            config.num_proposal_iterations,
            config.use_single_jitter,
            self._proposal_interval,
            UniformSampler(single_jitter=config.use_single_jitter) if uniform else None,
        )
        near, far = config.near_plane, config.far_plane
        collider: SceneCollider = AABBBoxCollider(self.scene_box, near) if bounded else NearFarCollider(near, far)
        self.collider = collider  # type: ignore[assignment]
        self.renderer_rgb = RGBRenderer(background_color=config.background_color)
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="median")
        self.renderer_expected_depth = DepthRenderer(method="expected")
        self.renderer_normals = NormalsRenderer()
        self.normals_shader = NormalsShader()
        self.rgb_loss = MSELoss()
        from torchmetrics.functional import structural_similarity_index_measure
        from torchmetrics.image import PeakSignalNoiseRatio

        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim = structural_similarity_index_measure
        self.lpips = OptionalLPIPS(normalize=True)  # type: ignore[assignment]
        from sasnet_ns.viewer.photo_control import PhotoViewerControl

        self.viewer_control = PhotoViewerControl(None)
        self.max_steps = 0
        self.update_to_step(0)

    def _proposal_interval(self, step: int) -> float:
        """Steps between two updates of the proposal networks."""
        every = self.config.proposal_update_every
        return float(np.clip(step * every / max(1, self.config.proposal_warmup), 1, every))

    def update_to_step(self, step: int) -> None:
        """Open the bands that a step has; called before each training step and after loading a checkpoint."""
        self.step = step
        trunk = self.field.trunk
        if isinstance(trunk.network, SASNet):
            # Outside training all are open: those that were not yet trained have no effect.
            progress = step / self.max_steps if self.max_steps else 1.0
            trunk.bands = open_bands(progress, trunk.network.config.bands, self.config.bands_open)

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """The network's parameters by role (backbone, hidden, masks), the rest of the field, proposals, cameras."""
        trunk = self.field.trunk
        groups = {str(role): parameters for role, parameters in trunk.network.parameter_roles().items()}
        own = {id(parameter) for parameter in trunk.parameters()}
        groups["fields"] = [parameter for parameter in self.field.parameters() if id(parameter) not in own]
        groups["proposal_networks"] = list(self.proposal_networks.parameters())
        self.camera_optimizer.get_param_groups(param_groups=groups)
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfacto's own, and the band schedule."""
        if training_callback_attributes.trainer is not None:
            self.max_steps = training_callback_attributes.trainer.config.max_num_iterations
        before = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        callbacks = super().get_training_callbacks(training_callback_attributes)
        return [TrainingCallback(before, self.update_to_step, update_every_num_iters=1), *callbacks]

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:  # type: ignore[override]
        """nerfacto's outputs; in training also what the mask loss needs."""
        outputs = super().get_outputs(ray_bundle)
        if self.training and self.config.mask_sparsity_loss_mult > 0:
            positions = outputs["ray_samples_list"][-1].frustums.get_positions().detach().reshape(-1, 3)
            stride = max(1, len(positions) // self.config.mask_sparsity_points)
            outputs["masks"] = self.field.trunk.masks(positions[::stride])
        return outputs

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """nerfacto's losses and the masks' sparsity."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if outputs.get("masks"):
            losses["mask_sparsity"] = self.config.mask_sparsity_loss_mult * mask_sparsity_loss(outputs["masks"])
        return losses

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and, where its weights are on this machine, LPIPS; pictures beside the photograph."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        return without_missing(metrics), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """(H, W, 4): a picture with the accumulated opacity as alpha, which ns-export drops empty pixels by."""
        if self.config.background_color == "random":
            return super().get_rgba_image(outputs, output_name)
        return torch.cat([outputs[output_name], outputs["accumulation"]], dim=-1)


def field_options(config: SASNetNerfactoModelConfig) -> dict[str, Any]:
    """What the configuration says about the field, as arguments of :class:`SASNetDensityField`."""
    return {
        "network": config.network,
        "network_config": config.network_config(),
        "geo_feat_dim": config.geo_feat_dim,
        "average_init_density": config.average_init_density,
        "hidden_dim_color": config.hidden_dim_color,
        "hidden_dim_transient": config.hidden_dim_transient,
        "use_pred_normals": config.predict_normals,
        "use_average_appearance_embedding": config.use_average_appearance_embedding,
        "appearance_embedding_dim": config.appearance_embed_dim if config.use_appearance_embedding else 0,
    }


class ResumableProposalSampler(ProposalNetworkSampler):
    """nerfstudio's proposal sampler, whose schedule of updates is kept in checkpoints."""

    def get_extra_state(self) -> dict[str, int]:
        """Where the schedule stands."""
        return {"step": self._step, "steps_since_update": self._steps_since_update}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._step, self._steps_since_update = state["step"], state["steps_since_update"]


def nerfacto_model_config() -> SASNetNerfactoModelConfig:
    """The method's model: fewer samples a ray than nerfacto's, which suits a CPU and costs little quality."""
    return SASNetNerfactoModelConfig(
        eval_num_rays_per_chunk=1 << 12,
        num_proposal_samples_per_ray=(96, 48),
        num_nerf_samples_per_ray=24,
        proposal_warmup=1000,
        # nerfacto's 0.01 leaves a field that begins near zero without gradients for 250 steps (docs/nerfacto.md).
        average_init_density=1.0,
        appearance_embed_dim=16,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
    )


def nerfacto_optimizers() -> dict[str, dict[str, Any]]:
    """Optimizers of every parameter group; ``camera_opt`` is used if the camera optimizer is switched on."""
    recipe = Recipe(learning_rate=5e-3, hidden_learning_rate=2e-3, mask_learning_rate=1e-2, warmup_steps=50)
    plain = {
        name: {
            "optimizer": RoleOptimizerConfig(lr=rate, optimizer="adam", role="backbone"),
            "scheduler": RecipeSchedulerConfig(warmup_steps=50),
        }
        for name, rate in (("fields", 5e-3), ("proposal_networks", 1e-2), ("camera_opt", 1e-3))
    }
    return optimizer_configs(recipe) | plain
