"""Contribution maps: how much each neuron of a network adds to the next layer, point by point (Supp. Sec. 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sasnet_ns.networks.base import Network


class _LinearCalls(TorchFunctionMode):
    """Sees every product of neurons and a weight matrix, whatever the network's layers are made of."""

    def __init__(self, weights: dict[int, str]) -> None:
        self.weights = weights
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear and len(args) > 1:
            name = self.weights.get(args[1].data_ptr())
            if name is not None:
                self.seen.setdefault(name, (args[0].detach(), args[1].detach()))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def neuron_contributions(network: Network, x: Float[Tensor, "N d"]) -> dict[str, Float[Tensor, "N neurons"]]:
    """Contribution of every neuron at every point: ``h_j(x) * sum_l W_lj`` with W the next layer's weights.

    This is the map of the supplement's Section 2 (after Padmanabhan et al., CVPR 2024); a contribution may be
    negative, when a neuron takes away what others add too much.

    Args:
        network: any network whose layers are matrix products.
        x: coordinates in [-1, 1].

    Returns:
        By the name of the next layer's weight, in the order of evaluation: (N, neurons), real. Layers whose input are
        the coordinates, perhaps scaled, mask decoders, and layers without one row a point (modulators) are left out.
    """
    masks = {p.data_ptr() for p in network.parameter_roles().get("masks", [])}
    weights = {p.data_ptr(): name for name, p in network.named_parameters() if p.data_ptr() not in masks}
    with _LinearCalls(weights) as calls:
        network(x)
    maps: dict[str, Tensor] = {}
    for name, (h, weight) in calls.seen.items():
        if h.numel() != len(x) * h.shape[-1] or _are_multiples(h, x):
            continue
        part = h * weight.sum(0)
        maps[name] = (part.real if part.is_complex() else part).reshape(len(x), -1)
    return maps


def _are_multiples(h: Tensor, x: Tensor) -> bool:
    """Whether a layer's input is the coordinates times a number."""
    if h.shape != x.shape or h.is_complex():
        return False
    return torch.allclose(h, (h * x).sum() / x.square().sum() * x, rtol=1e-4, atol=1e-6)


def group_contributions(contributions: Float[Tensor, "N neurons"], groups: int) -> Float[Tensor, "N groups"]:
    """Mean size of the contributions of equal contiguous groups of neurons, as SASNet's hidden masks group them.

    Raises:
        ValueError: the neurons do not divide into the groups.
    """
    count = contributions.shape[1]
    if count % groups:
        raise ValueError(f"{count} neurons do not divide into {groups} groups.")
    return contributions.abs().reshape(len(contributions), groups, count // groups).mean(-1)
