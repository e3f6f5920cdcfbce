"""What sasnet-neus and sasnet-neus-facto share beyond nerfstudio's models."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.models.base_surface_model import SurfaceModel, SurfaceModelConfig
from torch import Tensor, nn

from sasnet_ns.fields.sdf_field import SASNetSDFField, SASNetSDFFieldConfig
from sasnet_ns.models.lpips import lpips_without_download, without_missing
from sasnet_ns.models.optimization import RecipeSchedulerConfig, RoleOptimizerConfig, optimizer_configs
from sasnet_ns.models.surface_losses import (
    metric_depth_loss,
    normal_prior_loss,
    opacity_loss,
    scale_shift_depth_loss,
)
from sasnet_ns.networks import SASNet, SASNetConfig, SignedDistanceField
from sasnet_ns.training.recipe import Recipe
from sdf_tools.losses import mask_sparsity_loss, numerical_laplacian


@dataclass
class SASNetSurfaceConfig(SurfaceModelConfig):
    """Options that both NeuS methods of this package have."""

    sdf_field: SASNetSDFFieldConfig = field(default_factory=SASNetSDFFieldConfig)
    """The signed distance field."""
    background_model: Literal["grid", "mlp", "none"] = "none"
    """What lies outside the scene box: none for objects with masks or transparency, mlp for real surroundings."""
    background_color: Literal["random", "last_sample", "white", "black"] = "random"
    """Behind the surface: random suits transparent pictures; without masks or transparency, use a background model."""
    eikonal_loss_mult: float = 0.1
    """Weight of the Eikonal term (|grad| - 1)^2 along the rays."""
    fg_mask_loss_mult: float = 0.1
    """Weight of the foreground masks (or transparency) against the rays' opacity (NeuS: 0.1)."""
    mono_normal_loss_mult: float = 0.05
    """Weight of normal maps, where the data has them (MonoSDF: 0.05)."""
    mono_depth_loss_mult: float = 0.1
    """Weight of depth maps known up to scale and shift, where the data has them (MonoSDF: 0.1)."""
    metric_depth_loss_mult: float = 0.0
    """Weight of depth maps in the data set's own units, from a sensor; 0 takes maps for monocular ones."""
    sparse_points_loss_mult: float = 0.1
    """Weight of |sdf| at structure-from-motion points, where the data has them (Geo-NeuS)."""
    sparse_points_per_step: int = 512
    """Points drawn for it in each step."""
    curvature_loss_mult: float = 0.0
    """Weight of the mean |Laplacian| near the surface (Neuralangelo: 5e-4); 0 leaves it out."""
    curvature_points: int = 256
    """Samples of each step at which it is evaluated, seven evaluations each."""
    curvature_step: float = 0.02
    """Step of its differences, scene units: smooths what is finer."""
    mask_sparsity_loss_mult: float = 0.0
    """Weight of the sum of SASNet's masks, which closes them where they are not needed; 0 leaves it out."""
    bands_open: tuple[float, float] = (0.1, 0.5)
    """Shares of training at which the first and the last high band of a SASNet open: coarse first, detail later. (0, 0)
    opens all at once. A run that begins from a field has them open from the start."""
    cos_anneal_share: float = 0.1
    """Share of training over which the opacity turns from slope-independent to NeuS's own."""


class SASNetSurfaceModel(SurfaceModel):
    """nerfstudio's surface model with SASNet's schedule and losses; builds without CUDA, tiny-cuda-nn or downloads.

    A base beside one of nerfstudio's NeuS models, which bring the sampling.
    """

    config: SASNetSurfaceConfig
    field: SASNetSDFField
    all_bands: Tensor
    plain_background: Tensor
    sparse_points: Tensor | None
    world_to_scene: Float[Tensor, "3 4"]
    """Similarity from the data set's own coordinates to the scene's, float64; the pipeline sets it."""

    def populate_modules(self) -> None:
        """Build the field; a running start is :meth:`start_from`, which knows the data set's coordinates."""
        config = self.config
        self.config = copy.copy(config)
        self.config.sdf_field = copy.copy(config.sdf_field)
        self.config.sdf_field.init_field = None
        with lpips_without_download():
            super().populate_modules()
        self.config = config
        if config.sdf_field.use_spatial_distortion:  # what is contracted lies outside the box that samples are cut to
            self.collider = NearFarCollider(config.near_plane, config.far_plane)  # type: ignore[assignment]
        self.step, self.max_steps = 0, 0
        self.register_buffer("all_bands", torch.tensor(False))
        self.register_buffer("plain_background", torch.full((3,), -1.0))  # not known
        points = (self.kwargs.get("seed_points") or (None,))[0]
        if points is not None:
            low, high = self.scene_box.aabb.to(points)
            points = points[((points > low) & (points < high)).all(dim=-1)]
        self.register_buffer("sparse_points", points, persistent=False)
        from sasnet_ns.viewer.photo_control import PhotoViewerControl
        from sasnet_ns.viewer.shown_field import Frame, shown_scene

        self.world_to_scene = torch.eye(4, dtype=torch.float64)[:3]
        shown = shown_scene(lambda: self.field.geometry, self.scene_box.aabb, lambda: Frame.of(self.world_to_scene))
        self.viewer_control = PhotoViewerControl(shown)

    def show_before(self, color: Float[Tensor, "3"]) -> None:
        """Render before a colour in [0, 1] that lies behind the object in all pictures; it is kept with the weights."""
        self.plain_background.copy_(color)
        self.renderer_rgb.background_color = self.plain_background.cpu()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}plain_background", self.plain_background)  # runs before it was kept
        super()._load_from_state_dict(state_dict, prefix, *args)
        known = bool((self.plain_background >= 0).all())
        self.renderer_rgb.background_color = self.plain_background.cpu() if known else self.config.background_color

    def start_from(self, fitted: SignedDistanceField, world_to_scene: Float[Tensor, "3 4"] | None = None) -> None:
        """Begin with the surface of a fitted field, see ``SASNetSDFField.start_from``; all bands are open."""
        self.field.start_from(fitted, world_to_scene)
        self.all_bands.fill_(True)

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The geometry by role (backbone, hidden, masks), colours, sharpness, and a background if there is one."""
        groups: dict[str, list[nn.Parameter]] = {
            str(role): parameters for role, parameters in self.field.geometry.network.parameter_roles().items()
        }
        groups["color"] = list(self.field.color.parameters())
        groups["sharpness"] = list(self.field.deviation_network.parameters())
        if isinstance(self.field_background, nn.Module):
            groups["field_background"] = list(self.field_background.parameters())
        return groups

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio's, and this model's schedule in place of its slope annealing."""
        if training_callback_attributes.trainer is not None:
            self.max_steps = training_callback_attributes.trainer.config.max_num_iterations
        self.anneal_end = 0  # nerfstudio anneals over 50,000 steps, whatever the length of the run
        before = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        callbacks = super().get_training_callbacks(training_callback_attributes)
        return [TrainingCallback(before, self.update_to_step, update_every_num_iters=1), *callbacks]

    def update_to_step(self, step: int) -> None:
        """Called before each training step and after loading a checkpoint."""
        self.step = step
        progress = step / self.max_steps if self.max_steps else 1.0
        self.field.set_cos_anneal_ratio(min(1.0, progress / max(self.config.cos_anneal_share, 1e-9)))
        network = self.field.geometry.network
        count = network.config.bands if isinstance(network, SASNet) else 0
        opened = open_bands(progress, count, self.config.bands_open)
        self.field.set_bands(None if bool(self.all_bands) or opened == count else opened)

    def sample_and_forward_field(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """nerfstudio's, with each sample in the middle of the interval that its opacity is of, as depths take it.

        NeuS's opacity at a sample is that from half an interval before it to half an interval behind. Proposals are
        compared with the same sections.
        """
        found: dict[str, Any] = super().sample_and_forward_field(ray_bundle)  # type: ignore[safe-super]
        samples = found["ray_samples"]
        if "ray_samples_list" in found:
            starts, ends = sections(samples.spacing_starts, samples.spacing_ends)
            found["ray_samples_list"][-1] = dataclasses.replace(samples, spacing_starts=starts, spacing_ends=ends)
        half = (samples.frustums.ends - samples.frustums.starts) / 2
        frustums = dataclasses.replace(
            samples.frustums, starts=samples.frustums.starts - half, ends=samples.frustums.ends - half
        )
        return found | {"ray_samples": dataclasses.replace(samples, frustums=frustums)}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:  # type: ignore[override]
        """nerfstudio's outputs, with ``depth`` as the distance along the ray, which the viewer and exporters expect,
        and ``normals`` in [0, 1]."""
        outputs = super().get_outputs(ray_bundle)
        # nerfstudio has divided by the length of the pixel's unnormalised direction.
        outputs["depth"] = outputs["depth"] * outputs["directions_norm"]
        outputs["normals"] = outputs.pop("normal_vis").detach().clamp(0, 1)
        if self.training:
            # Outside its cube the field is no network's: no rays that miss the box in the Eikonal term.
            samples: Any = outputs["ray_samples"]
            own = self.field.geometry.contains(samples.frustums.get_positions())[..., None]
            unit = torch.tensor([1.0, 0.0, 0.0], device=own.device)
            outputs["eik_grad"] = torch.where(own, outputs["eik_grad"], unit)
        else:
            # Far away, not at the average of weights that are next to nothing: ns-export tsdf carves by it.
            missed = outputs["accumulation"] < 0.5
            outputs["depth"] = torch.where(missed, self.config.far_plane_bg, outputs["depth"])
            del outputs["weights"], outputs["directions_norm"]
        return outputs

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Colour and Eikonal terms by nerfstudio, all others by this package."""
        plain = {name: value for name, value in batch.items() if name not in ("depth", "normal", "fg_mask")}
        losses = super().get_loss_dict(outputs, plain, metrics_dict)
        if self.training:
            losses |= self._picture_losses(outputs, batch)
            losses |= self._geometry_losses(outputs)
        return losses

    def _picture_losses(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Masks, depth and normals, as far as the batch has them."""
        config, losses = self.config, {}
        image = batch["image"].to(self.device)
        opaque = torch.ones_like(image[:, 0], dtype=torch.bool)
        mask = batch["fg_mask"].float() if "fg_mask" in batch else image[:, 3:] if image.shape[-1] == 4 else None
        if mask is not None:
            mask = mask.to(self.device).reshape(-1)
            opaque = mask > 0.5
            if config.fg_mask_loss_mult > 0:
                losses["fg_mask_loss"] = config.fg_mask_loss_mult * opacity_loss(outputs["accumulation"][:, 0], mask)
        if "normal" in batch and config.mono_normal_loss_mult > 0:
            prior = batch["normal"].to(self.device)
            valid = opaque & (prior.norm(dim=-1) > 0.5)
            losses["normal_loss"] = config.mono_normal_loss_mult * normal_prior_loss(outputs["normal"], prior, valid)
        if "depth" in batch:
            prior = batch["depth"].to(self.device).reshape(-1)
            depth, valid = (outputs["depth"] / outputs["directions_norm"])[:, 0], opaque & (prior > 0)
            if config.metric_depth_loss_mult > 0:
                losses["depth_loss"] = config.metric_depth_loss_mult * metric_depth_loss(depth, prior, valid)
            elif config.mono_depth_loss_mult > 0:
                picture = batch["indices"][:, 0].to(self.device)
                losses["depth_loss"] = config.mono_depth_loss_mult * scale_shift_depth_loss(
                    depth, prior, picture, valid
                )
        return losses

    def _geometry_losses(self, outputs: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of the field alone: sparse points, curvature, mask sparsity."""
        config, losses = self.config, {}
        if config.sparse_points_loss_mult > 0 and self.sparse_points is not None and len(self.sparse_points):
            rows = torch.randint(len(self.sparse_points), (config.sparse_points_per_step,), device=self.device)
            distance = self.field.sdf(self.sparse_points[rows]).abs()
            losses["sparse_points_loss"] = config.sparse_points_loss_mult * distance.mean()
        if config.curvature_loss_mult > 0 or config.mask_sparsity_loss_mult > 0:
            points = self._weighted_points(outputs, config.curvature_points)
        if config.curvature_loss_mult > 0:
            laplacian = numerical_laplacian(self.field.sdf, points, config.curvature_step)
            losses["curvature_loss"] = config.curvature_loss_mult * laplacian.abs().mean()
        if config.mask_sparsity_loss_mult > 0:
            masks = self.field.geometry.masks(points)
            if masks:
                losses["mask_sparsity_loss"] = config.mask_sparsity_loss_mult * mask_sparsity_loss(masks)
        return losses

    def _weighted_points(self, outputs: dict[str, Any], count: int) -> Float[Tensor, "N 3"]:
        """Sample points drawn by their weight in the picture: near the surface, once there is one."""
        points = outputs["ray_samples"].frustums.get_positions().reshape(-1, 3)
        weights = outputs["weights"].detach().reshape(-1) + 1e-6
        return points[torch.multinomial(weights, min(count, len(points)), replacement=True)]

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of the rays and the sharpness s, per scene unit; tensors, so that nothing waits for the device."""
        predicted, image = self.renderer_rgb.blend_background_for_loss_computation(
            outputs["rgb"].detach(), outputs["accumulation"].detach(), batch["image"].to(self.device)
        )
        error = (predicted - image).square().mean().clamp_min(1e-10)
        return {"psnr": -10 * error.log10(), "sharpness": self.field.deviation_network.get_variance().detach()[0]}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """nerfstudio's metrics and pictures; LPIPS only where its weights are on this machine."""
        plain = {name: value for name, value in batch.items() if name not in ("depth", "normal")}
        metrics, images = super().get_image_metrics_and_images(outputs, plain)
        return without_missing(metrics), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """(H, W, 4): a picture with the surface's coverage as alpha, for ns-render and ns-export."""
        coverage = outputs["accumulation"]
        if output_name == "rgb" and self.config.background_color == "random" and self.config.background_model == "none":
            own = outputs["rgb"] - (1 - coverage) * self.plain_background.clamp_min(0).to(coverage)
            return torch.cat([(own / coverage.clamp_min(1e-6)).clamp(0, 1), coverage], dim=-1)
        return torch.cat([outputs[output_name], coverage], dim=-1)


def sections(
    starts: Float[Tensor, "*rays N 1"], ends: Float[Tensor, "*rays N 1"]
) -> tuple[Float[Tensor, "*rays N 1"], Float[Tensor, "*rays N 1"]]:
    """Starts and ends of the sections around samples that stand at ``starts``, one joining the next.

    Intervals moved back by half of themselves would overlap where a long one follows a short one.
    """
    borders = (starts + ends) / 2
    first = starts[..., :1, :] - (ends - starts)[..., :1, :] / 2
    return torch.cat([first, borders[..., :-1, :]], dim=-2), borders


def open_bands(progress: float, bands: int, shares: tuple[float, float]) -> int:
    """How many high bands are open at a share of training: the first at ``shares[0]``, the last at ``shares[1]``."""
    first, last = shares
    if progress < first or not bands:
        return 0
    if progress >= last:
        return bands
    return min(bands, 1 + int((bands - 1) * (progress - first) / (last - first)))


def surface_field_config() -> SASNetSDFFieldConfig:
    """The methods' field: the paper's SDF network where there is CUDA, one of a third of its cost on a CPU."""
    if torch.cuda.is_available():
        return SASNetSDFFieldConfig()
    network = SASNetConfig.sdf(embedding_width=128, hidden_widths=(128, 128), grid_interpolation="smoothstep")
    return SASNetSDFFieldConfig(sasnet=network, geo_feat_dim=32, hidden_dim_color=64)


def surface_optimizers() -> dict[str, dict[str, Any]]:
    """Optimizers of every parameter group."""
    recipe = Recipe(
        learning_rate=1e-3, hidden_learning_rate=5e-4, mask_learning_rate=5e-3, warmup_steps=50, final_factor=0.05
    )
    rates = {"color": 2e-3, "sharpness": 1e-3, "field_background": 1e-3, "proposal_networks": 1e-2}
    plain = {
        name: {
            "optimizer": RoleOptimizerConfig(lr=rate, optimizer="adam", role="backbone"),
            "scheduler": RecipeSchedulerConfig(warmup_steps=recipe.warmup_steps, final_factor=recipe.final_factor),
        }
        for name, rate in rates.items()
    }
    return optimizer_configs(recipe) | plain
