"""NeuS-facto on a SASNet: proposal networks find the surface, so the field is evaluated at few samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler, UniformSampler
from nerfstudio.models.neus import NeuSModel
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


class _RegistryProposals(NeuSFactoModel):
    """nerfstudio's NeuS-facto with proposal networks of the registry, which need no CUDA."""

    config: SASNetNeuSFactoModelConfig

    def populate_modules(self) -> None:
        """What NeuS builds, the proposal networks, and the sampler that they steer."""
        NeuSModel.populate_modules(self)
        config = self.config
        rounds = config.num_proposal_iterations
        options = config.proposal_net_args_list
        count = 1 if config.use_same_proposal_network else rounds
        networks = [
            ProposalField(self.scene_box.aabb, self.scene_contraction, **options[min(i, len(options) - 1)])
            for i in range(count)
        ]
        self.proposal_networks = nn.ModuleList(networks)
        self.density_fns = [networks[min(i, count - 1)].density_fn for i in range(rounds)]
        self.proposal_sampler = ProposalNetworkSampler(
            num_proposal_samples_per_ray=config.num_proposal_samples_per_ray,
            num_nerf_samples_per_ray=config.num_neus_samples_per_ray,
            num_proposal_network_iterations=rounds,
            single_jitter=config.use_single_jitter,
            update_sched=lambda step: -1,  # the proposal networks learn in every step
            initial_sampler=UniformSampler(single_jitter=config.use_single_jitter),
        )


class SASNetNeuSFactoModel(SASNetSurfaceModel, _RegistryProposals):
    """nerfstudio's NeuS-facto with SASNet's field, schedule and losses, and proposal networks that need no CUDA."""

    config: SASNetNeuSFactoModelConfig

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The surface model's, and the proposal networks."""
        groups = SASNetSurfaceModel.get_param_groups(self)
        groups["proposal_networks"] = list(self.proposal_networks.parameters())
        return groups
