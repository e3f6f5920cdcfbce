"""INCODE: a SIREN whose sine parameters are predicted from the signal."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.layers import linears


class Incode(Siren):
    """INCODE (Kazerouni et al., WACV 2024): a SIREN with learned amplitude, frequency, phase and offset.

    Every sine layer is ``exp(a) sin(exp(b) omega_0 (W h + b') + c) + d``; one small network (64, 64, 32, 4, SiLU)
    predicts a, b, c and d, the same for all layers, from features of the signal. As in the authors' program these are
    the first stages of a randomly initialised ResNet, averaged over the grid (2-D: ResNet-34, 64 channels; 3-D: the
    video ResNet r3d_18, 128 channels), here frozen, as the SASNet paper has it. :meth:`initialize_from` computes them
    once; until then they are zero.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every sine layer.
        hidden_layers: sine layers after the first.
        omega_0: frequency scale of every sine layer.
        penalties: weights of ``relu(-a)``, ``relu(-b)``, ``relu(-c)`` and ``relu(-d)`` in :meth:`penalty`.
    """

    features: Tensor

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        width: int = 256,
        hidden_layers: int = 3,
        omega_0: float = 30.0,
        penalties: tuple[float, float, float, float] = (0.1993, 0.0196, 0.0588, 0.0269),
    ) -> None:
        super().__init__(in_dim, out_dim, width, hidden_layers, omega_0)
        self.penalties = penalties
        features = 128 if in_dim == 3 else 64
        self.harmonizer = nn.Sequential(
            nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 4)
        )
        for layer in self.harmonizer:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.001)
                nn.init.constant_(layer.bias, 0.312)
        self.register_buffer("features", torch.zeros(features))

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Compute the features of a 2-D or 3-D signal; with any other number of coordinates they stay zero.

        Raises:
            MissingLibraryError: torchvision is not installed.
            ValueError: the signal is too small for the features' statistics.
        """
        if self.in_dim in (2, 3):
            self.features.copy_(_resnet_features(signal.to(self.features)))

    def coefficients(self) -> Float[Tensor, "4"]:
        """a, b, c and d."""
        return self.harmonizer(self.features)

    def penalty(self) -> Tensor:
        """The paper's penalty on negative coefficients."""
        weights = torch.tensor(self.penalties, device=self.features.device, dtype=self.features.dtype)
        return (weights * torch.relu(-self.coefficients())).sum()

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; first and last layer stay fp32 under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            a, b, c, d = self.coefficients().unbind()
            z = self.first(x.reshape(-1, self.in_dim).to(self.first.weight.dtype))
            h = a.exp() * torch.sin(b.exp() * self.omega_0 * z + c) + d
        for layer in linears(self.hidden):
            h = a.exp() * torch.sin(b.exp() * self.omega_0 * layer(h) + c) + d
        with torch.autocast(x.device.type, enabled=False):
            return self.output(h.to(self.output.weight.dtype)).reshape(*x.shape[:-1], self.out_dim)


@torch.no_grad()
def _resnet_features(signal: Float[Tensor, "*sizes channels"]) -> Float[Tensor, "features"]:
    try:
        from torchvision.models import resnet34
        from torchvision.models.video import r3d_18
    except ImportError as error:
        from sdf_tools.errors import MissingLibraryError

        raise MissingLibraryError("INCODE takes its features from torchvision: pip install torchvision.") from error
    # Only the stages that are used get memory and initial values, by the same law as in torchvision's constructors.
    with torch.device("meta"):
        layers = list(resnet34().children())[:5] if signal.ndim == 3 else list(r3d_18().children())[:3]
    stages = nn.Sequential(*layers).to_empty(device=signal.device)
    for module in stages.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.reset_parameters()
    channels = signal.movedim(-1, 0)
    rgb = channels[:3] if channels.shape[0] >= 3 else channels.mean(0, keepdim=True).expand(3, *channels.shape[1:])
    # Batch statistics, as in the authors' program, where the extractor is never put into evaluation mode.
    try:
        maps = stages.train()(rgb[None].float())
    except ValueError as error:
        cells = " x ".join(map(str, signal.shape[:-1]))
        raise ValueError(f"{cells} cells are too few for the features that INCODE takes from its signal.") from error
    return maps.flatten(2).mean(2)[0]
