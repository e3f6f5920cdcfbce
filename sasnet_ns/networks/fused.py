"""Which networks a fused training step can compute, and where their tensors are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from sasnet_ns.kernels import FusedStep, StepForm, StepLayer
from sasnet_ns.networks.base import Network
from sasnet_ns.networks.ngp import HashGridMLP
from sasnet_ns.networks.sasnet import SASNet
from sasnet_ns.networks.sine import Siren, linears


def fused_step(network: Network) -> FusedStep | None:
    """The step of a network in one pass, or None where autograd has to do it.

    What there is a pass for: SASNet, SIREN and ngp (their very classes, as a subclass may compute something else), in
    float32 on a CPU, with numba at hand and the kernels left at ``auto`` or ``numba``.

    Args:
        network: read again in every step; build a new one after its tensors have been replaced or moved.
    """
    form = step_form(network)
    if form is None or getattr(network, "implementation", "auto") not in ("auto", "numba"):
        return None
    if isinstance(network, SASNet) and network.config.implementation not in ("auto", "numba"):
        return None
    step = FusedStep(form) if _plain(network) else None
    return step if step is not None and step.backend == "numba" else None


def step_form(network: Network) -> StepForm | None:
    """A network's tensors in the form that :class:`sasnet_ns.kernels.FusedStep` takes; None if it has none."""
    if type(network) is SASNet:
        return _sasnet(network)
    if type(network) is Siren:
        layers = [network.first, *linears(network.hidden)]
        chain = [StepLayer(layer.weight, layer.bias, "sine", network.omega_0) for layer in layers]
        return StepForm(network.in_dim, (*chain, _affine(network.output)))
    if type(network) is HashGridMLP:
        *hidden, output = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
        chain = [StepLayer(layer.weight, layer.bias, "relu") for layer in hidden]
        return StepForm(network.in_dim, (*chain, _affine(output)), network.table, network.layout)
    return None


def _plain(network: Network) -> bool:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _affine(layer: nn.Linear) -> StepLayer:
    return StepLayer(layer.weight, layer.bias, "affine")


def _sasnet(network: SASNet) -> StepForm:
    config, generator = network.config, network.mask_generator
    omega = 1.0 if config.embedding == "frozen" else config.omega_0
    bands: Sequence[int] = network.band_sizes[1:] if network.mask_counts[0] else ()
    chain = [StepLayer(network.frequencies, network.phase, "sine", omega, tuple(bands))]
    for layer, groups in zip(linears(network.hidden), network.mask_counts[1:], strict=True):
        sizes = (layer.out_features // groups,) * groups if groups else ()
        chain.append(StepLayer(layer.weight, layer.bias, "sine", config.omega_0, sizes))
    layers = (*chain, _affine(network.output))
    if generator is None:
        return StepForm(network.in_dim, layers)
    first, second = generator.decoder_in, generator.decoder_out
    decoder = (
        StepLayer(first.weight, first.bias, "relu"),
        StepLayer(second.weight, second.bias, "sigmoid"),
    )
    return StepForm(network.in_dim, layers, generator.table, generator.layout, decoder)
