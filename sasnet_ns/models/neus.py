"""NeuS on a SASNet."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.models.neus import NeuSModel, NeuSModelConfig

from sasnet_ns.models.surface_model import SASNetSurfaceConfig, SASNetSurfaceModel


@dataclass
class SASNetNeuSModelConfig(SASNetSurfaceConfig, NeuSModelConfig):
    """Configuration of NeuS (Wang et al., NeurIPS 2021) on a SASNet."""

    _target: type = field(default_factory=lambda: SASNetNeuSModel)
    """Class to build."""
    num_samples: int = 32
    """Uniform samples on a ray."""
    num_samples_importance: int = 32
    """Samples drawn where these show the surface."""
    num_up_sample_steps: int = 2
    """Rounds in which they are drawn; each evaluates the field."""
    eval_num_rays_per_chunk: int = 2048
    """Rays rendered at a time."""


class SASNetNeuSModel(SASNetSurfaceModel, NeuSModel):
    """nerfstudio's NeuS with SASNet's field, schedule and losses."""

    config: SASNetNeuSModelConfig
