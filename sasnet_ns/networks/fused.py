"""Which networks can be computed in one pass, in training and after it, and where their tensors are."""

from __future__ import annotations

import itertools
import math
import operator
import weakref
from collections.abc import Iterable
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sasnet_ns.kernels import Activation, FusedStep, FusedValues, StepForm, StepLayer
from sasnet_ns.kernels._choose import recorded, transformed
from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.encoded_relu import EncodedReLU
from sasnet_ns.networks.baselines.ffn import FFN
from sasnet_ns.networks.baselines.finer import Finer
from sasnet_ns.networks.baselines.gauss import Gauss
from sasnet_ns.networks.baselines.ngp import HashGridMLP
from sasnet_ns.networks.baselines.pemlp import PEMLP
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.baselines.wire import Wire
from sasnet_ns.networks.layers import linears
from sasnet_ns.networks.sasnet import SASNet
from sasnet_ns.networks.wire_step import WireStep


def fused_step(network: Network, bands: int | None = None) -> FusedStep | None:
    """The step of a network in one pass, or None where autograd has to do it.

    What there is a pass for: SASNet, SIREN, FINER, Gauss, WIRE, ngp, and PEMLP, FFN and SAPE behind their encodings
    (these very classes, as a subclass may compute something else), in float32 on a CPU, with numba at hand and the
    kernels left at ``auto`` or ``numba``.

    Args:
        network: read again in every step; build a new one after its tensors have been replaced or moved.
        bands: a SASNet's low group and only this many of its high bands, as in ``SASNet.forward``; None for all.
    """
    if not _compiles(network):
        return None
    step: FusedStep | None = None
    form = _chain(network, bands)
    if form is not None:
        step = FusedStep(form, coordinate_scale=_factor(network))
    elif type(network) is Wire and network.sigma > 0:
        step = WireStep(network)
    elif type(network) is FFN and _relus(network.layers) is not None:
        step = FusedStep(_with_waves(network))
    elif (type(network) is PEMLP or type(network) is SAPE) and _relus(network.layers) is not None:
        step = FusedStep(_behind_encoding(network), encode=network.encoder())
    return step if step is not None and step.backend == "numba" else None


_VALUES: weakref.WeakKeyDictionary[Network, FusedValues] = weakref.WeakKeyDictionary()
"""The last pass of each network."""


def network_values(
    network: Network, x: Float[Tensor, "*batch d"], bands: int | None = None, scale: float = 1.0
) -> Float[Tensor, "*batch out"]:
    """``network(scale * x)``, in one pass where there is one and no gradients are recorded.

    Args:
        network: any; those with a pass are named at :func:`fused_step`, and hooks are called all the same.
        x: (..., in_dim); the network sees ``scale * x``, in [-1, 1].
        bands: of a SASNet, see :meth:`SASNet.forward`.
        scale: network coordinates per unit of ``x``.

    Returns:
        (..., out_dim) values.

    Raises:
        ValueError: ``bands`` is not between 0 and the number of bands, or the network has no bands.
    """
    if bands is not None and not isinstance(network, SASNet):
        raise ValueError(f"bands={bands} is for SASNet, whose frequencies are in bands; leave it None here.")
    values = None if torch.is_grad_enabled() or not x.numel() else _values(network, x, bands)
    if values is not None:
        return values(x.reshape(-1, x.shape[-1]), scale * _factor(network)).reshape(*x.shape[:-1], -1)
    return network(scale * x) if bands is None else network(scale * x, bands=bands)


def in_one_pass(network: Network) -> bool:
    """Whether :func:`network_values` has a compiled pass for a network."""
    return _compiles(network) and _chain(network) is not None and find_spec("numba") is not None


def _values(network: Network, x: Tensor, bands: int | None) -> FusedValues | None:
    # Subclasses of tensors stand for something else: a trace, a batch under vmap.
    if type(x) is not Tensor or x.device.type != "cpu" or x.shape[-1] != network.in_dim or not _compiles(network):
        return None
    if torch.compiler.is_compiling() or recorded():
        return None
    if isinstance(network, SASNet) and bands is not None and not 0 <= bands <= network.config.bands:
        return None
    form = _chain(network, bands)
    if form is None or transformed(x, *form.tensors()):
        return None
    values = _VALUES.get(network)
    if values is None or not _same(values.form, form):
        values = _VALUES[network] = FusedValues(form)
    return values if values.backend == "numba" else None


def _same(a: StepForm, b: StepForm) -> bool:
    """Whether two forms of one network hold the same tensors and factors; never with bands left out, whose are cut."""
    return all(map(operator.is_, a.tensors(), b.tensors())) and [x.omega for x in a.layers] == [
        x.omega for x in b.layers
    ]


def _compiles(network: Network) -> bool:
    """Whether nobody looks into the network's layers, makes their weights of others, or asks for other kernels."""
    settings = (network, network.config) if isinstance(network, SASNet) else (network,)
    if any(getattr(part, "implementation", "auto") not in ("auto", "numba") for part in settings):
        return False
    looked_at = any(
        module._forward_hooks or module._forward_pre_hooks or is_parametrized(module) for module in network.modules()
    )
    return not looked_at and _plain(network)


def _factor(network: Network) -> float:
    """What a network multiplies its coordinates by."""
    return network.coordinate_scale if isinstance(network, Siren | Gauss) else 1.0


def step_form(network: Network, bands: int | None = None) -> StepForm | None:
    """A network's tensors as a chain of layers on its coordinates; None if it is none, as a SIREN that scales them."""
    return _chain(network, bands) if _factor(network) == 1 else None


def _chain(network: Network, bands: int | None = None) -> StepForm | None:
    """The layers of a network behind coordinates times :func:`_factor`; None if it is no chain."""
    if type(network) is SASNet:
        generator = network.mask_generator
        return None if generator is not None and generator.wisp else _sasnet(network, bands)
    if type(network) is Siren:
        return _waves(network, "sine", network.omega_0)
    if type(network) is Finer:
        return _waves(network, "finer_detached" if network.detach_scale else "finer", network.omega_0)
    if type(network) is Gauss:
        return _waves(network, "gauss", network.scale)
    if type(network) is HashGridMLP:
        *hidden, output = network.mlp
        chain = _relus(hidden)
        if chain is None or type(output) is not nn.Linear:
            return None
        return StepForm(network.in_dim, (*chain, _affine(output)), network.table, network.layout)
    return None


def _relus(layers: Iterable[nn.Module]) -> list[StepLayer] | None:
    """Linear layers, each with a ReLU behind it; None where somebody has put in others."""
    found = list(layers)
    kinds = (nn.Linear, nn.ReLU) * (len(found) // 2)
    if len(found) != len(kinds) or any(type(layer) is not kind for layer, kind in zip(found, kinds, strict=True)):
        return None
    return [StepLayer(layer.weight, layer.bias, "relu") for layer in found[::2] if isinstance(layer, nn.Linear)]


def _plain(network: Network) -> bool:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors)


def _waves(network: Siren | Gauss, activation: Activation, omega: float) -> StepForm:
    layers = [network.first, *linears(network.hidden)]
    chain = [StepLayer(layer.weight, layer.bias, activation, omega) for layer in layers]
    return StepForm(network.in_dim, (*chain, _affine(network.output)))


def _behind_encoding(network: EncodedReLU) -> StepForm:
    """What a ReLU network does with its encoding."""
    chain = _relus(network.layers) or ()
    return StepForm(network.encoding_dim, (*chain, _affine(network.output)))


def _with_waves(network: FFN) -> StepForm:
    """An FFN whose encoding is a frozen layer of sines, cosines being a quarter turn ahead."""
    turns = torch.tensor((0.0, math.pi / 2)).repeat(len(network.frequencies))
    encoding = StepLayer(2 * math.pi * network.frequencies.repeat_interleave(2, dim=0), turns, "sine")
    return StepForm(network.in_dim, (encoding, *_behind_encoding(network).layers))


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
