"""Density fields on any network of the registry, in the places where nerfacto has its hash-grid fields."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SpatialDistortion
from nerfstudio.fields.base_field import Field
from nerfstudio.fields.nerfacto_field import NerfactoField
from torch import Tensor, nn

from sasnet_ns.networks import SASNet, build_network, network_values


class DensityTrunk(nn.Module):
    """A network of the registry behind scene coordinates: log density and features.

    Args:
        aabb: (2, 3) corners of the scene box, which bounds the field where there is no distortion.
        features: channels beside the density.
        network: name in the registry.
        network_config: its options.
        spatial_distortion: maps space to [-2, 2]^3, as nerfstudio's ``SceneContraction``; None takes the box.
        average_init_density: density where the network says zero.

    Raises:
        ValueError: the network or one of its options is unknown.
    """

    aabb: Tensor

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        features: int,
        network: str,
        network_config: dict[str, Any] | None = None,
        spatial_distortion: SpatialDistortion | None = None,
        average_init_density: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("aabb", aabb)
        self.spatial_distortion = spatial_distortion
        self.average_init_density = average_init_density
        self.network = build_network(network, in_dim=3, out_dim=1 + features, **(network_config or {}))
        self.bands: int | None = None
        if isinstance(self.network, SASNet):
            _prepare_sasnet(self.network)

    def coordinates(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Network coordinates, [-1, 1]^3 for what the field covers."""
        if self.spatial_distortion is not None:
            return self.spatial_distortion(positions) / 2
        return 2 * SceneBox.get_normalized_positions(positions, self.aabb) - 1

    def forward(
        self, positions: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        """Density, its logarithm without ``average_init_density``, and the features at (..., 3) scene coordinates.

        Returns:
            (..., 1) density per scene unit, zero outside the box, (..., 1) and (..., features).
        """
        x = self.coordinates(positions)
        inside = ((x > -1) & (x < 1)).all(dim=-1, keepdim=True)
        x = x.clamp(-1, 1)
        values = network_values(self.network, x, self.bands if isinstance(self.network, SASNet) else None)
        logarithm, features = values[..., :1], values[..., 1:]
        # trunc_exp, as in instant-ngp: large densities from small values, with a gradient that cannot overflow.
        return self.average_init_density * trunc_exp(logarithm) * inside, logarithm, features

    def masks(self, positions: Float[Tensor, "N 3"]) -> list[Float[Tensor, "N groups"]]:
        """The masks of a SASNet at (N, 3) scene coordinates, open bands only; empty for other networks."""
        if not isinstance(self.network, SASNet):
            return []
        masks = list(self.network.masks(self.coordinates(positions).clamp(-1, 1)))
        if masks[0] is not None and self.bands is not None:
            masks[0] = masks[0][:, : self.bands]
        return [mask for mask in masks if mask is not None and mask.shape[-1]]


def _prepare_sasnet(network: SASNet) -> None:
    """Outputs of order one instead of 1/omega_0, and bands that begin from nothing when they are opened."""
    with torch.no_grad():
        network.output.weight.mul_(network.config.omega_0 / 4)
        network.output.bias.zero_()
        first = network.hidden[0]
        assert isinstance(first, nn.Linear)
        first.weight[:, network.band_sizes[0] :].zero_()


class SASNetDensityField(NerfactoField):
    """nerfacto's field on a network of the registry: colours, appearance codes, normals, transients, semantics.

    Takes the place of ``NerfactoField``, and through ``density_fn`` that of a proposal network as well.

    Args:
        aabb: (2, 3) corners of the scene box.
        num_images: photographs, for the appearance codes.
        network: name in the registry.
        network_config: its options; ``out_dim`` follows from ``geo_feat_dim``.
        geo_feat_dim: features handed to the colour network.
        spatial_distortion: nerfstudio's scene contraction, or None for a scene inside the box.
        average_init_density: density where the network says zero.
        options: everything else that ``NerfactoField`` takes, except its hash grid's size.

    Raises:
        ValueError: the network or one of its options is unknown.
    """

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        num_images: int,
        network: str = "sasnet",
        network_config: dict[str, Any] | None = None,
        geo_feat_dim: int = 15,
        spatial_distortion: SpatialDistortion | None = None,
        average_init_density: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            aabb,
            num_images,
            # The smallest hash grid there is; it is not used.
            num_levels=1,
            base_res=2,
            max_res=2,
            log2_hashmap_size=1,
            hidden_dim=1,
            geo_feat_dim=geo_feat_dim,
            spatial_distortion=spatial_distortion,
            average_init_density=average_init_density,
            implementation="torch",
            **options,
        )
        del self.mlp_base
        self.trunk = DensityTrunk(aabb, geo_feat_dim, network, network_config, spatial_distortion, average_init_density)
        self._normals_wanted = False

    def forward(self, ray_samples: RaySamples, compute_normals: bool = False) -> dict[FieldHeadNames, Tensor]:
        """Density, colour and, if asked for, normals at the samples."""
        self._normals_wanted = compute_normals
        return super().forward(ray_samples, compute_normals)

    def get_density(
        self, ray_samples: RaySamples
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        """Densities per scene unit and features at the samples."""
        positions = ray_samples.frustums.get_positions()
        # Only where normals need it: the gradient with respect to positions costs a fifth of a step.
        if self._normals_wanted and not positions.requires_grad:
            positions = positions.requires_grad_(True)
        self._sample_locations = positions  # type: ignore[assignment]
        density, logarithm, features = self.trunk(positions)
        self._density_before_activation = logarithm  # type: ignore[assignment]
        return density, features


class ProposalField(Field):
    """A density alone, from a small network of the registry: what nerfacto samples its rays by.

    Args:
        aabb: (2, 3) corners of the scene box.
        spatial_distortion: nerfstudio's scene contraction, or None.
        average_init_density: density where the network says zero.
        network: name in the registry.
        network_config: the network's options.

    Raises:
        ValueError: the network or one of its options is unknown.
    """

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        spatial_distortion: SpatialDistortion | None = None,
        average_init_density: float = 1.0,
        network: str = "ngp",
        **network_config: Any,
    ) -> None:
        super().__init__()
        self.trunk = DensityTrunk(aabb, 0, network, network_config, spatial_distortion, average_init_density)

    def get_density(  # type: ignore[override]
        self, ray_samples: RaySamples
    ) -> tuple[Float[Tensor, "*batch 1"], None]:
        """Densities per scene unit at the samples."""
        return self.trunk(ray_samples.frustums.get_positions())[0], None

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        """No colours here."""
        return {}
