"""FINER: sines with a frequency that depends on the pre-activation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.baselines.siren import Siren


class Finer(Siren):
    """FINER (Liu et al., CVPR 2024): ``sin(omega_0 (|z| + 1) z)`` with ``z = W h + b``, SIREN's initialisation.

    Args:
        first_bias_scale: k of the first layer's bias U(-k, k); None keeps torch's default. FINER uses 1 for SDFs,
            the default for images; the SASNet paper sets 0.
        detach_scale: treat the factor ``|z| + 1`` as a constant in the backward pass, as FINER's code does. Where the
            coordinates require a gradient it never is: normals and Eikonal terms would be those of another function.

    The other arguments are those of :class:`Siren`.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 256,
        hidden_layers: int = 2,
        omega_0: float = 30.0,
        first_bias_scale: float | None = 1.0,
        detach_scale: bool = True,
        coordinate_scale: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim, width, hidden_layers, omega_0, coordinate_scale)
        self.detach_scale = detach_scale
        if first_bias_scale is not None:
            with torch.no_grad():
                self.first.bias.uniform_(-first_bias_scale, first_bias_scale)

    def _activation(self, h: Float[Tensor, "N inner"], layer: nn.Linear, exact: bool) -> Float[Tensor, "N outer"]:
        z = layer(h)
        scale = z.abs() + 1
        return torch.sin(self.omega_0 * (scale.detach() if self.detach_scale and not exact else scale) * z)
