"""A signed distance field for nerfstudio's NeuS family: ``sdf_field=SASNetSDFFieldConfig()`` in place of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SpatialDistortion
from nerfstudio.fields.base_field import Field
from nerfstudio.fields.sdf_field import LearnedVariance, SDFFieldConfig
from torch import Tensor, nn
from tyro.conf import Suppress

from sasnet_ns.fields.color import ColorNetwork
from sasnet_ns.fields.geometry import SceneGeometry
from sasnet_ns.fields.volume_rendering import neus_alpha, neus_ray_alpha, volsdf_density
from sasnet_ns.networks import NetworkChoice, SASNetConfig, SignedDistanceField


@dataclass
class SASNetSDFFieldConfig(NetworkChoice, SDFFieldConfig):
    """Configuration of the signed distance field."""

    _target: type = field(default_factory=lambda: SASNetSDFField)
    """Class to build."""
    sasnet: SASNetConfig = field(default_factory=lambda: SASNetConfig.sdf(grid_interpolation="smoothstep"))
    """Options of the SASNet."""
    geo_feat_dim: int = 64
    """Features that the geometry network hands to the colours."""
    num_layers_color: int = 2
    """Hidden layers of the colour network."""
    hidden_dim_color: int = 128
    """Neurons of each of them."""
    weight_norm: bool = True
    """Whether the colour network is weight-normalised."""
    geometric_init: bool = True
    """Start as a sphere around the middle of the scene box."""
    bias: float = 0.5
    """Radius of that sphere, scene units."""
    inside_outside: bool = False
    """The scene is a room seen from within: start inside the sphere, with solid matter outside it."""
    beta_init: float = 0.3
    """Start of the learned sharpness: s = exp(10 beta_init) per scene unit (NeuS: 0.3)."""
    rendering: Literal["neus", "volsdf"] = "neus"
    """Opacity from distance: NeuS's alpha, or VolSDF's Laplace density with beta = 1 / s."""
    borders: Literal["shared", "extrapolated"] = "shared"
    """Distance at the borders of a ray's intervals for NeuS's alpha: shared by both samples next to it, which leaves no
    floating pieces where samples are sparse, or extrapolated from one sample as in NeuS's own program."""
    gradients: Literal["analytic", "numerical"] = "analytic"
    """Gradients by differentiation, or by central differences, which are blind to finer detail (six evaluations)."""
    numerical_delta: float = 5e-3
    """Step of the central differences, scene units."""
    use_spatial_distortion: bool = False
    """Cover all of space by the model's scene contraction, instead of the scene box alone."""
    init_field: Path | None = None
    """Begin with the surface of this field.pt, written by sasnet-sdf, in the coordinates of the data set."""
    init_beta: float = 0.5
    """beta_init of a run with init_field: with NeuS's soft 0.3, the first steps blur what is known already."""

    # The rest belongs to nerfstudio's own geometry network and grid. Accepted, so that an existing line needs a new
    # class name only; `network`, `sasnet` and `network_options` take their place.
    num_layers: Suppress[int] = 8
    hidden_dim: Suppress[int] = 256
    use_grid_feature: Suppress[bool] = False
    divide_factor: Suppress[float] = 2.0
    encoding_type: Suppress[Literal["hash", "periodic", "tensorf_vm"]] = "hash"
    num_levels: Suppress[int] = 16
    max_res: Suppress[int] = 2048
    base_res: Suppress[int] = 16
    log2_hashmap_size: Suppress[int] = 19
    features_per_level: Suppress[int] = 2
    use_hash: Suppress[bool] = True
    smoothstep: Suppress[bool] = True


class SASNetSDFField(Field):
    """Signed distance, colour and opacity along rays, with everything that nerfstudio's ``SDFField`` offers.

    Needs neither CUDA nor tiny-cuda-nn. Positions are those of ``frustums.get_start_positions()``, as in nerfstudio.

    Args:
        config: see :class:`SASNetSDFFieldConfig`.
        aabb: (2, 3) corners of the scene box, scene units.
        num_images: number of photographs, for the appearance codes.
        use_average_appearance_embedding: in evaluation, the mean appearance code instead of zeros.
        spatial_distortion: contraction of space to [-2, 2]^3, used with ``config.use_spatial_distortion``.

    Raises:
        ValueError: an option does not fit; ``init_field`` cannot be read or has another size.
    """

    config: SASNetSDFFieldConfig

    def __init__(
        self,
        config: SASNetSDFFieldConfig,
        aabb: Float[Tensor, "2 3"],
        num_images: int,
        use_average_appearance_embedding: bool = False,
        spatial_distortion: SpatialDistortion | None = None,
    ) -> None:
        super().__init__()
        if config.use_spatial_distortion and spatial_distortion is None:
            raise ValueError("use_spatial_distortion needs a model that has a scene contraction; this one has none.")
        self.config = config
        self.aabb = nn.Parameter(aabb, requires_grad=False)
        self.num_images = num_images
        self.spatial_distortion = spatial_distortion
        self.use_average_appearance_embedding = use_average_appearance_embedding
        self.geometry = SceneGeometry(
            aabb,
            config.geo_feat_dim,
            config.network,
            config.network_config(),
            spatial_distortion if config.use_spatial_distortion else None,
            config.bias if config.geometric_init else None,
            config.inside_outside,
        )
        self.color = ColorNetwork(
            config.geo_feat_dim,
            config.hidden_dim_color,
            config.num_layers_color,
            config.weight_norm,
            num_images if config.use_appearance_embedding else 0,
            config.appearance_embedding_dim,
            use_average_appearance_embedding,
        )
        self.deviation_network = LearnedVariance(init_val=config.beta_init)
        self.numerical_delta = config.numerical_delta
        self._cos_anneal_ratio = 1.0
        if config.init_field is not None:
            self.start_from(SignedDistanceField.load(config.init_field))

    def start_from(self, fitted: SignedDistanceField, world_to_scene: Float[Tensor, "3 4"] | None = None) -> None:
        """Begin with the surface of a fitted field, see :meth:`SceneGeometry.start_from`, and with ``init_beta``."""
        self.geometry.start_from(fitted, world_to_scene)
        with torch.no_grad():
            self.deviation_network.variance.fill_(self.config.init_beta)

    def set_cos_anneal_ratio(self, anneal: float) -> None:
        """Share of NeuS's true slope in the opacity, 0 to 1, see :func:`neus_alpha`."""
        self._cos_anneal_ratio = anneal

    def set_bands(self, bands: int | None) -> None:
        """Use only this many high bands of a SASNet's embedding; None uses all. Other networks have no bands."""
        self.geometry.bands = bands

    def set_numerical_gradients_delta(self, delta: float) -> None:
        """Step of numerical gradients, scene units."""
        self.numerical_delta = delta

    def forward_geonetwork(self, inputs: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1+geo_features"]:
        """Signed distance in scene units and geometry features at scene coordinates."""
        return self.geometry(inputs)

    def sdf(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Signed distance in scene units at scene coordinates, negative inside."""
        return self.geometry(points)[..., 0]

    def sdf_gradient_features(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 3"], Float[Tensor, "*batch features"]]:
        """Signed distance, its gradient and the geometry features, differentiable again unless under ``no_grad``."""
        again = torch.is_grad_enabled()
        if self.config.gradients == "numerical":
            values = self.geometry(points)
            return values[..., :1], self._numerical_gradient(points), values[..., 1:]
        with torch.enable_grad():
            at = points if points.requires_grad else points.detach().requires_grad_(True)
            values = self.geometry(at)
            gradient = torch.autograd.grad(values[..., 0].sum(), at, create_graph=again, retain_graph=again)[0]
        if not again:
            values = values.detach()
        return values[..., :1], gradient, values[..., 1:]

    def gradient(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Gradient of the signed distance, analytic or numerical as configured."""
        return self.sdf_gradient_features(points)[1]

    def _numerical_gradient(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        steps = torch.eye(3, dtype=points.dtype, device=points.device) * self.numerical_delta
        sides = torch.cat([points[..., None, :] + steps, points[..., None, :] - steps], dim=-2)
        after, before = self.sdf(sides).chunk(2, dim=-1)
        return (after - before) / (2 * self.numerical_delta)

    def get_sdf(self, ray_samples: RaySamples) -> Float[Tensor, "*batch 1"]:
        """Signed distance at the start of every sample."""
        return self.geometry(ray_samples.frustums.get_start_positions())[..., :1]

    def get_alpha(
        self,
        ray_samples: RaySamples,
        sdf: Float[Tensor, "*batch 1"] | None = None,
        gradients: Float[Tensor, "*batch 3"] | None = None,
    ) -> Float[Tensor, "*batch 1"]:
        """Opacity of every sample, by NeuS or VolSDF as configured; samples of a ray in order, second to last axis."""
        if sdf is None or gradients is None:
            sdf, gradients, _ = self.sdf_gradient_features(ray_samples.frustums.get_start_positions())
        assert ray_samples.deltas is not None
        sharpness = self.deviation_network.get_variance()
        if self.config.rendering == "volsdf":
            return 1 - torch.exp(-volsdf_density(sdf, 1 / sharpness) * ray_samples.deltas)
        slope = (ray_samples.frustums.directions * gradients).sum(-1, keepdim=True)
        alpha = neus_ray_alpha if self.config.borders == "shared" else neus_alpha
        return alpha(sdf, slope, ray_samples.deltas, sharpness, self._cos_anneal_ratio)

    def get_density(
        self, ray_samples: RaySamples
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        """VolSDF's density with ``beta = 1 / s``, and the geometry features, for density-based samplers and models."""
        values = self.geometry(ray_samples.frustums.get_start_positions())
        return volsdf_density(values[..., :1], 1 / self.deviation_network.get_variance()), values[..., 1:]

    def get_colors(
        self,
        points: Float[Tensor, "*batch 3"],
        directions: Float[Tensor, "*batch 3"],
        normals: Float[Tensor, "*batch 3"],
        geo_features: Float[Tensor, "*batch features"],
        camera_indices: Tensor | None = None,
    ) -> Float[Tensor, "*batch 3"]:
        """Colours in [0, 1] of points seen along unit directions; ``normals`` of any length."""
        flat = (points, directions, torch.nn.functional.normalize(normals, dim=-1), geo_features)
        at, view, normal, features = (value.reshape(-1, value.shape[-1]) for value in flat)
        images = None if camera_indices is None else camera_indices.reshape(-1)
        return self.color(self.geometry.network_points(at), view, normal, features, images).view_as(points)

    def surface_colors(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Colours in [0, 1] of surface points seen from straight above, for meshes."""
        _, gradient, features = self.sdf_gradient_features(points)
        normals = torch.nn.functional.normalize(gradient, dim=-1)
        return self.get_colors(points, -normals, normals, features)

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None, return_alphas: bool = False
    ) -> dict[FieldHeadNames, Tensor]:
        """Colour, signed distance, unit normal, gradient and, if asked for, opacity of every sample."""
        if ray_samples.camera_indices is None:
            raise AttributeError("Camera indices are not provided.")
        points = ray_samples.frustums.get_start_positions()
        directions = ray_samples.frustums.directions.expand_as(points)
        sdf, gradients, features = self.sdf_gradient_features(points)
        rgb = self.get_colors(points, directions, gradients, features, ray_samples.camera_indices)
        outputs = {
            FieldHeadNames.RGB: rgb,
            FieldHeadNames.SDF: sdf,
            FieldHeadNames.NORMALS: torch.nn.functional.normalize(gradients, dim=-1),
            FieldHeadNames.GRADIENT: gradients,
        }
        if return_alphas:
            outputs[FieldHeadNames.ALPHA] = self.get_alpha(ray_samples, sdf, gradients)
        return outputs

    def forward(
        self, ray_samples: RaySamples, compute_normals: bool = False, return_alphas: bool = False
    ) -> dict[FieldHeadNames, Tensor]:
        """See :meth:`get_outputs`; normals are always there."""
        return self.get_outputs(ray_samples, return_alphas=return_alphas)
