"""NeuS-facto on a SASNet: proposal networks find the surface, so the field is evaluated at few samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from nerfstudio.models.neus_facto import NeuSFactoModel, NeuSFactoModelConfig
from torch import nn

from sasnet_ns.fields.density_field import ProposalField
from sasnet_ns.models.surface_model import SASNetSurfaceConfig, SASNetSurfaceModel


@dataclass
class SASNetNeuSFactoModelConfig(SASNetSurfaceConfig, NeuSFactoModelConfig):
    """Configuration of NeuS-facto (sdfstudio, nerfstudio) on a SASNet."""

    _target: type = field(default_factory=lambda: SASNetNeuSFactoModel)
    """Class to build."""
    num_proposal_samples_per_ray: tuple[int, ...] = (96, 48)
    """Samples on a ray for each proposal round."""
    num_neus_samples_per_ray: int = 24
    """Samples on a ray for the field itself."""
    proposal_net_args_list: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"network": "ngp", "levels": 4, "log2_entries": 14, "grid_max": size, "width": 16, "hidden_layers": 1}
            for size in (64, 128)
        ]
    )
    """Networks that rays are sampled by: a name of the registry and that network's options."""
    proposal_weights_anneal_max_num_iters: int = 300
    """Steps over which the proposals' say in the sampling grows."""
    eval_num_rays_per_chunk: int = 2048
    """Rays rendered at a time."""


class SASNetNeuSFactoModel(SASNetSurfaceModel, NeuSFactoModel):
    """nerfstudio's NeuS-facto with SASNet's field, schedule and losses, and proposal networks that need no CUDA."""

    config: SASNetNeuSFactoModelConfig

    def populate_modules(self) -> None:
        """Build the field, the sampler and, in place of nerfstudio's, proposal networks of the registry."""
        with mock.patch("nerfstudio.models.neus_facto.HashMLPDensityField", ProposalField):
            super().populate_modules()

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The surface model's, and the proposal networks."""
        groups = SASNetSurfaceModel.get_param_groups(self)
        groups["proposal_networks"] = list(self.proposal_networks.parameters())
        return groups
