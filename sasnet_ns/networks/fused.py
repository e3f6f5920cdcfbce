"""Which networks a fused training step can compute, and where their tensors are."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from sasnet_ns.kernels import FusedStep, StepForm, StepLayer
from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.ngp import HashGridMLP
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.layers import linears
from sasnet_ns.networks.sasnet import SASNet


def fused_step(network: Network, bands: int | None = None) -> FusedStep | None:
    """The step of a network in one pass, or None where autograd has to do it.

    What there is a pass for: SASNet, SIREN and ngp (their very classes, as a subclass may compute something else), in
    float32 on a CPU, with numba at hand and the kernels left at ``auto`` or ``numba``.

    Args:
        network: read again in every step; build a new one after its tensors have been replaced or moved.
        bands: a SASNet's low group and only this many of its high bands, as in ``SASNet.forward``; None for all.
    """
    scale = network.coordinate_scale if type(network) is Siren else 1.0
    form = _siren(network) if type(network) is Siren else step_form(network, bands)
    if form is None or getattr(network, "implementation", "auto") not in ("auto", "numba"):
        return None
    if isinstance(network, SASNet) and network.config.implementation not in ("auto", "numba"):
        return None
    step = FusedStep(form, coordinate_scale=scale) if _plain(network) else None
    return step if step is not None and step.backend == "numba" else None


def step_form(network: Network, bands: int | None = None) -> StepForm | None:
    """A network's tensors as a chain of layers on its coordinates; None if it is none, as a SIREN that scales them."""
    if type(network) is SASNet:
        generator = network.mask_generator
        return None if generator is not None and generator.wisp else _sasnet(network, bands)
    if type(network) is Siren:
        return _siren(network) if network.coordinate_scale == 1 else None
    if type(network) is HashGridMLP:
        *hidden, output = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
        chain = [StepLayer(layer.weight, layer.bias, "relu") for layer in hidden]
        return StepForm(network.in_dim, (*chain, _affine(output)), network.table, network.layout)
    return None


def _plain(network: Network) -> bool:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _siren(network: Siren) -> StepForm:
    layers = [network.first, *linears(network.hidden)]
    chain = [StepLayer(layer.weight, layer.bias, "sine", network.omega_0) for layer in layers]
    return StepForm(network.in_dim, (*chain, _affine(network.output)))


def _affine(layer: nn.Linear) -> StepLayer:
    return StepLayer(layer.weight, layer.bias, "affine")


def _sasnet(network: SASNet, bands: int | None) -> StepForm:
    config, generator = network.config, network.mask_generator
    omega = 1.0 if config.embedding == "frozen" else config.omega_0
    low, *high = network.band_sizes
    open_bands = len(high) if bands is None else bands
    kept = low + sum(high[:open_bands])
    # The masks of bands left out stay in their places, over no neurons.
    sizes = (*high[:open_bands], *([0] * (len(high) - open_bands))) if network.mask_counts[0] else ()
    frequencies: Tensor = network.frequencies
    phase: Tensor = network.phase
    if bands is not None:
        frequencies, phase = frequencies[:kept], phase[:kept]
    chain = [StepLayer(frequencies, phase, "sine", omega, sizes)]
    for index, (layer, groups) in enumerate(zip(linears(network.hidden), network.mask_counts[1:], strict=True)):
        sizes = (layer.out_features // groups,) * groups if groups else ()
        weight = layer.weight[:, :kept] if index == 0 and bands is not None else layer.weight
        chain.append(StepLayer(weight, layer.bias, "sine", config.omega_0, sizes))
    layers = (*chain, _affine(network.output))
    if generator is None:
        return StepForm(network.in_dim, layers)
    first, second = generator.decoder_in, generator.decoder_out
    decoder = (
        StepLayer(first.weight, first.bias, "relu"),
        StepLayer(second.weight, second.bias, "sigmoid"),
    )
    return StepForm(network.in_dim, layers, generator.table, generator.layout, decoder)
