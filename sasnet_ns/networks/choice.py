"""The choice of a network, as every configuration that offers one has it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from sasnet_ns.networks.registry import build_network
from sasnet_ns.networks.sasnet import SASNetConfig

NetworkName = Literal["sasnet", "sasnet-paper", "sasnet-grid", "siren", "finer", "ngp", "grid"]
"""Networks that a command line offers; Python takes every name of the registry."""

_OWN_SHAPE = ("in_dim", "out_dim")


@dataclass
class NetworkChoice:
    """Which network, and its options."""

    network: NetworkName = "sasnet"
    """Network to fit: sasnet, or one to compare it with: sasnet-paper (the paper's SDF network), sasnet-grid (the
    fastest fit: a hash grid read out through masked sines), siren, finer, ngp (hash grid and an MLP), grid (the same
    grid as sasnet-grid's read out by one ReLU layer)."""
    sasnet: SASNetConfig = field(default_factory=SASNetConfig.sdf_compact)
    """Options of the SASNet."""
    network_options: dict[str, int | float | str] = field(default_factory=dict)
    """Options of the other networks as name value pairs, e.g. width 256 omega_0 30."""

    def network_config(self) -> dict[str, Any]:
        """Options for :func:`sasnet_ns.networks.build_network`, plain values only.

        Raises:
            ValueError: options that would have no effect.
        """
        if self.network != "sasnet":
            return dict(self.network_options)
        if self.network_options:
            names = ", ".join(self.network_options)
            raise ValueError(f"network_options ({names}) are for the other networks; sasnet has options of its own.")
        if (self.sasnet.in_dim, self.sasnet.out_dim) != (3, 1):
            raise ValueError("in_dim and out_dim of sasnet have no effect here: leave them at 3 and 1.")
        options = dataclasses.asdict(self.sasnet)
        return {name: value for name, value in options.items() if name not in _OWN_SHAPE}

    def adopt(self, network: str, options: dict[str, Any]) -> None:
        """Choose what a saved field says about itself.

        Args:
            network: its registry name.
            options: its options.

        Raises:
            ValueError: the registry has no such network, or it does not take these options.
        """
        built = build_network(network, in_dim=3, out_dim=1, **options)
        config = getattr(built, "config", None)
        if isinstance(config, SASNetConfig):
            self.network, self.sasnet = "sasnet", config
        else:
            self.network, self.network_options = network, dict(options)  # type: ignore[assignment]
