"""A finished sasnet-nerfacto run as a function of space that meshes are extracted from."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor

from sasnet_ns.fields.density_field import SASNetDensityField
from sasnet_ns.models.nerfacto import SASNetNerfactoModelConfig, field_options
from sasnet_ns.models.surface import LoadedSurface, field_state, in_world_axes

SURFACE_DENSITY = 10.0
"""Density of the surface if nobody asks for another, per scene unit: a tenth of a unit of it hides what is behind."""


def density_surface(
    model: SASNetNerfactoModelConfig,
    state: dict[str, Tensor],
    world_to_scene: Float[Tensor, "3 4"],
    device: torch.device | str = "cpu",
) -> LoadedSurface:
    """The surface of a radiance field: where its density passes a level.

    Args:
        model: the run's model configuration.
        state: the model's weights.
        world_to_scene: similarity from the data set's coordinates to the run's.
        device: where the network runs.

    Returns:
        Densities per scene unit in the scene box, the inside above the level; colours as seen from straight outside.
    """
    weights = field_state(state)
    codes = weights.get("embedding_appearance.embedding.weight")
    field = SASNetDensityField(
        weights["aabb"],
        1 if codes is None else len(codes),
        spatial_distortion=None if model.disable_scene_contraction else SceneContraction(order=float("inf")),
        **field_options(model),
    )
    field.load_state_dict(weights)
    field = field.to(device).eval()
    corners = torch.cartesian_prod(*weights["aabb"].cpu().T)
    surface = in_world_axes(
        lambda points: field.density_fn(points)[..., 0],
        corners,
        world_to_scene,
        lambda points: outside_colors(field, points),
        SURFACE_DENSITY,
        inside="above",
    )
    return dataclasses.replace(surface, device=device)


@torch.no_grad()
def outside_colors(field: SASNetDensityField, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """(N, 3) colours in [0, 1] of (N, 3) scene points, seen along the rise of the density."""
    with torch.enable_grad():
        at = points.detach().requires_grad_(True)
        _, logarithm, _ = field.trunk(at)
        (gradient,) = torch.autograd.grad(logarithm.sum(), at)
    ones = torch.ones_like(points[:, :1])
    frustums = Frustums(points, torch.nn.functional.normalize(gradient, dim=-1), 0 * ones, 0 * ones, ones)
    samples = RaySamples(frustums=frustums, camera_indices=torch.zeros_like(ones, dtype=torch.long))
    return field(samples)[FieldHeadNames.RGB]
